"""Ways to compute a convolution: when each applies, what it costs, how exact it is. Nothing here generates code."""

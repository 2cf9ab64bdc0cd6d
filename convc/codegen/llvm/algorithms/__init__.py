"""Ways to compute a convolution, each in its three directions, as phases of a kernel."""

"""From a planned graph to kernels."""

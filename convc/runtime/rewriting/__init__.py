"""Rewriting a net with everything about it: weights, images, accuracy, times, files."""

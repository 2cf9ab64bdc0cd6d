"""Analyses, rewrites and plans over the graph."""

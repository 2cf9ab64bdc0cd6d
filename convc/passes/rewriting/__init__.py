"""Replacements of one layer by several: their form, and weights that are fitted to those of the old layer."""

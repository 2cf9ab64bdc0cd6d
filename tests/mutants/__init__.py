"""Planted faults: `make mutants` breaks the compiler in many small ways, one at a time, and expects the tests to fail.

The catalogue says what is broken and how (`catalogue/`); `run.py` applies each to a copy of the tree.
"""

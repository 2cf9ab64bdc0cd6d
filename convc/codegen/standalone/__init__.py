"""Nets as shared libraries with a C interface: generated tables, a small runtime in C, the system's C compiler."""

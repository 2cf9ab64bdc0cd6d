"""Measurements beside peers. `make bench` runs `benchmarks.run`; docs/performance.md says how to read the numbers."""

"""Speed beside other libraries, in one run: `convc bench`, and `benchmarks/` for the nine nets.

Every contestant is a process of its own (`contestant`), which gets a `task` and takes its turns (`rounds`). `peers`
says which there are; each has a file that prepares it. `benchmark` is the way in, `results` what comes out.
"""

"""The CPU back end: kernels as LLVM IR, compiled to one object per program."""

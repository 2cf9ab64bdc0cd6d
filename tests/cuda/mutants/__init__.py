"""Planted faults in the text of CUDA kernels: rules break it in many small ways, and the emulator has to notice each.

`rules.py` finds places in a kernel's file and what to do to them, `catalogue.py` says which files and which cases run
for each, `judging.py` runs them, `equivalent.py` has the reasons for those that nobody can notice.
"""

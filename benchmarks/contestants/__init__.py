"""What is measured: a module each, run in a process, and an environment, of its own.

They import nothing of `benchmarks` but each other, since they run where the parent's own
dependencies are not.
"""

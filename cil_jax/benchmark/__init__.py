"""Benchmarks of the parts of a run on this machine, beside PyTorch doing the same work.

`parts` measures, `workbench` sets up the work to measure, `pytorch_model` is the same work in
PyTorch, and `table` shows the numbers. No other folder uses them, and importing this package does
not import JAX.
"""

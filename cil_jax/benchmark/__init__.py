"""Benchmarks of the parts of a run on this machine, beside PyTorch doing the same work.

`parts` measures, `workbench` sets up the work to measure, `peer` is the same work in PyTorch, and
`table` shows the numbers. No other room uses them, and importing this package does not import JAX.
"""

"""How fast this machine is at the work of a run, and PyTorch at the same work beside it.

The measuring is in `parts`, what is measured in `workbench`, PyTorch's side in `peer`, and how
numbers are shown in `table`. Nothing here imports JAX before it is used.
"""

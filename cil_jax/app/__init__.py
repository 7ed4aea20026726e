"""The ways into the package: flags, running a command, choosing the accelerator.

What a run computes and what it writes are decided in the folders below.
"""

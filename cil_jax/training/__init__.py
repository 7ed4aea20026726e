"""Training a run: compiled programs, streaming, evaluation and the loop over tasks.

This folder calls methods only through their hooks and does not know them by name.
"""

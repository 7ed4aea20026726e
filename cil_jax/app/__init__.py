"""Commands: their flags, the choice of the accelerator, launching runs, and output."""

"""The commands, one thin file each. Run one with `python -m experiments.NAME`."""

"""The commands from a checkout, without an installation: `python -m experiments.NAME`."""

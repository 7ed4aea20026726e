"""One thin file per experiment: run them as `python -m experiments.NAME`."""

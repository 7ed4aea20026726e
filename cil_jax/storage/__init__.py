"""The files of runs: run folders, checkpoints, the schemas of results, groups of runs."""

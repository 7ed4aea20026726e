"""What a run leaves on disk: its folder, checkpoints, the form of results, replicates."""

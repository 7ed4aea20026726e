"""What a run leaves on disk: its folder, checkpoints, the schema of results, replicates.

No training code, and no decision about when a run saves.
"""

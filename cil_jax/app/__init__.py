"""The ways in: flags, launching a command, choosing the accelerator."""

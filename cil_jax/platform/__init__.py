"""What a run computes on: devices, the machine, versions and the options of JAX."""

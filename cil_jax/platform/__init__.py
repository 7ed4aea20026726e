"""The platform of a run: devices, the machine, versions and the options of JAX."""

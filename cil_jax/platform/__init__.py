"""What a run computes on: devices, the machine, versions and the options of JAX.

No training code: it describes and checks the platform, and spreads arrays over devices.
"""

"""The settings of a run: their fields, presets and files of settings.

Nothing here imports JAX, so flags can be read before JAX starts.
"""

"""The settings of a run: fields, presets, files of settings. Nothing here imports JAX."""

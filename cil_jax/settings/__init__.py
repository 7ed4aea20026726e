"""The settings of a run: their declaration, presets and files of settings, and the code they name.

Importing this folder does not import JAX. The settings of a method are declared in its class, which
is imported when they are first asked for.
"""

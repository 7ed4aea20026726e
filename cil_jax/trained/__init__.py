"""A learner after its run: predict with it, teach it new classes, export it, analyse it.

It has no training loop of its own: teaching uses the engine of `cil_jax.training`.
"""

"""Joint training: all classes seen so far at once, from a fresh network each time. The upper bound.

  python -m experiments.joint --task-size 100 --accelerator gpu

is the full job: all 100 classes of CIFAR-100 in one task, ResNet-32, 70 epochs. With smaller tasks
it trains anew for each, on all data so far.
"""

from cil_jax.cli import main

if __name__ == "__main__":
    main("joint", "paper", __doc__)

"""Replay: finetuning on the new images and exemplars together, no distillation.

  python -m experiments.replay --accelerator gpu

is the full job: CIFAR-100, 10 tasks of 10 classes, ResNet-32, 200 then 70 epochs, 2000 exemplars.
"""

from cil_jax.cli import main

if __name__ == "__main__":
    main("replay", "pycil", __doc__)

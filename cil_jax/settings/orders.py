"""The values of --order: a name, or your own list of classes, given directly or in a file."""

import hashlib
import os
from pathlib import Path

from cil_jax.errors import UserError, nearest_name
from cil_jax.files import reading

NAMES = ("natural", "seeded", "icarl")
LARGEST = 2**22  # bytes of a file


def normalized(order: str) -> str:
    """Returns an order without reference to a file, so that a run can be resumed without it.

    Args:
      order: one of `NAMES`, a file, or a list of classes. A file holds a list. Classes in a list
        are separated by commas or line breaks; numbers may also be separated by spaces alone, and
        so may names without spaces.

    Returns:
      The name, or the classes separated by ", ".

    Raises:
      UserError: if it is none of these.
    """
    if order in NAMES:
        return order
    source, text = "--order", order
    if os.path.isfile(os.path.expanduser(order)):
        source = f"--order {order}"
        text = reading.read_text(Path(order).expanduser(), LARGEST)
    elif len(classes_of(order)) < 2:
        hint = nearest_name(order, NAMES)
        raise UserError(
            f"unknown --order {order!r}{hint}, or give a list such as 3,1,2 or a file with one "
            "(there is no file of this name)"
        )
    classes = classes_of(text)
    if len(classes) < 2:
        raise UserError(f"{source} names {len(classes)} classes; an order needs at least 2")
    return ", ".join(classes)


def classes_of(text: str) -> list[str]:
    """Returns the classes in a list, as they are written there."""
    parts = [part.strip() for line in text.splitlines() for part in line.split(",")]
    parts = [part for part in parts if part]
    if len(parts) == 1 or all(word.isdecimal() for part in parts for word in part.split()):
        parts = [word for part in parts for word in part.split()]  # separated by spaces
    return parts


def describe(order: str, seed: int) -> str:
    """Returns an order in the words of captions.

    Args:
      order: the value of --order, after `normalized`.
      seed: the value of --order-seed.

    Returns:
      "seeded 1993", "natural", "icarl", or "own list 1a2b3c4d of 20 classes", where the eight
      digits differ between lists.
    """
    if order == "seeded":
        return f"seeded {seed}"
    if order in NAMES:
        return order
    digest = hashlib.sha256(order.encode()).hexdigest()[:8]
    return f"own list {digest} of {len(classes_of(order))} classes"


def slug(order: str, seed: int) -> str:
    """Returns an order as the first part of the name of a member's folder."""
    if order == "seeded":
        return f"order{seed}"
    return order if order in NAMES else "-".join(describe(order, seed).split()[:3])

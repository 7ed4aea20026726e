"""Orbax behind two functions: `save` and `restore`, with a schema that is checked first."""

import shutil
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp

from cil_jax.config import UserError
from cil_jax.devices import everywhere, is_first_process
from cil_jax.learner import Learner

FORMAT = 2  # 2: the task of each class
KEPT = 2  # checkpoints: the newest, and one before it


class Checkpoints:
    """The checkpoints of a run. Use as a context, so that the last save is complete.

    Of several processes all take part, as Orbax has it: they see one folder, each writes a share of
    the arrays, the first all else, and a checkpoint is there once all are done. Any number of
    processes can read it.
    """

    def __init__(self, folder: Path, writes: bool = True):
        """Opens a folder, and makes it ready for saving unless it is only read."""
        self._folder = folder.absolute()
        if writes and is_first_process():
            self._folder.mkdir(parents=True, exist_ok=True)
            # A process that is killed while saving leaves a half-made folder, which nobody reads.
            for leftover in self._folder.glob("*.orbax-checkpoint-tmp*"):
                shutil.rmtree(leftover, ignore_errors=True)
        # Orbax' read_only would do the same, and warn of it on every use.
        options = ocp.CheckpointManagerOptions(max_to_keep=KEPT, create=writes)
        self._manager = ocp.CheckpointManager(self._folder, options=options)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._manager.wait_until_finished()
        self._manager.close()

    def save(self, learner: Learner, record: dict[str, Any]) -> None:
        """Saves the learner and, with it, what the run knows so far (JSON values).

        Returns once the arrays are copied; they are written in the background.
        """
        self._manager.wait_until_finished()
        latest = self._manager.latest_step()
        step = 0 if latest is None else latest + 1
        about = {"format": FORMAT, "schema": schema(learner), "record": record}
        self._manager.save(
            step,
            args=ocp.args.Composite(
                learner=ocp.args.StandardSave(learner), about=ocp.args.JsonSave(about)
            ),
        )

    def restore(self, template: Learner) -> tuple[Learner, dict[str, Any]] | None:
        """The newest learner and its record, or None if nothing was saved.

        Args:
          template: a learner of the structure and shapes that are expected.

        Raises:
          UserError: if the format or any shape or type is another than expected.
        """
        step = self._manager.latest_step()
        if step is None:
            return None
        read = ocp.args.Composite(about=ocp.args.JsonRestore())
        about = self._manager.restore(step, args=read)["about"]
        self._check(about, template)
        read = ocp.args.Composite(learner=ocp.args.StandardRestore(template))
        learner = self._manager.restore(step, args=read)["learner"]
        return everywhere(learner), about["record"]

    def _check(self, about: dict[str, Any], template: Learner) -> None:
        found = about.get("format")
        if found != FORMAT:
            raise UserError(
                f"{self._folder} has checkpoints of format {found}; this version reads {FORMAT}"
            )
        wanted, stored = schema(template), about["schema"]
        for path in sorted({*wanted, *stored}):
            if wanted.get(path) != stored.get(path):
                raise UserError(
                    f"the checkpoint in {self._folder} has {stored.get(path, 'nothing')} for "
                    f"{path}, where {wanted.get(path, 'nothing')} is expected"
                )


def schema(learner: Learner) -> dict[str, str]:
    """Type and shape of every array by its path, such as 'float32[64,100]'.

    Orbax would cast another type without a word, so it is compared before anything is read.
    """
    leaves = jax.tree_util.tree_leaves_with_path(learner)
    return {
        jax.tree_util.keystr(path): f"{leaf.dtype}{list(leaf.shape)}".replace(" ", "")
        for path, leaf in leaves
    }

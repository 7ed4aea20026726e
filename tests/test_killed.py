"""SIGKILL in training, saving, evaluating and writing: the run ends the same.

The moments are drawn by a fixed seed. In each phase it is the n-th call of a function that belongs
to it (see killed.py), or of all that the run does to a file, and up to some time after that.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import chex
import numpy as np
import pytest
from conftest import small_config

from cil_jax.storage.run_folder import RunFolder
from cil_jax.training.callbacks import Callback
from cil_jax.training.loop import Run

TESTS = Path(__file__).parent
# Phase: how many kills, up to which of its moments, and up to how many seconds after it.
KILLS = {
    "training": (4, 12, 0.3),
    "saving": (4, 2, 0.1),
    "evaluating": (3, 2, 0.01),
    "selecting": (1, 1, 0.02),
    "results": (3, 3, 0.0),
    "files": (4, 25, 0.0),
    "drawing": (1, 1, 0.3),
}


def moments(most):
    """Phase, which of its moments, and seconds to wait; in a random order, the drawing last.

    At most `most` of a phase.
    """
    drawn = np.random.default_rng(9)
    found = [
        (phase, int(drawn.integers(1, last + 1)), float(drawn.uniform(0, wait)))
        for phase, (count, last, wait) in KILLS.items()
        for _ in range(min(count, most))
    ]
    return [found[i] for i in drawn.permutation(len(found) - 1)] + found[-1:]


@pytest.fixture(scope="module", params=[1, pytest.param(4, marks=pytest.mark.slow)])
def runs(request, tmp_path_factory):
    """A folder of runs, what became of each process, and the number of kills."""
    planned = moments(request.param)
    folder = tmp_path_factory.mktemp("killed")
    done = subprocess.run(
        [sys.executable, TESTS / "killed.py", folder, json.dumps(planned)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(TESTS.parent), str(TESTS)])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr[-5000:]
    return folder, [json.loads(line) for line in done.stdout.splitlines()], len(planned)


def test_a_run_killed_again_and_again_ends_like_one_that_was_not(runs):
    folder, fates, n_kills = runs
    killed = [phase for _, phase, _, _, status, _ in (f for f in fates if len(f) > 3) if status]
    assert len(killed) == n_kills in (7, 20) and {*killed} == {*KILLS}
    assert sum(half for *_, half in fates) >= n_kills // 10  # checkpoints that were half written
    expected, learner = left(folder / "alone")
    for name in {name for name, *_ in fates} - {"alone"}:
        found, other = left(folder / name)
        assert found == expected
        chex.assert_trees_all_equal(other, learner)


def left(path):
    """All that a run left, but for times: results, lines, learner, and the files' names."""
    folder = RunFolder(path)
    results = {k: v for k, v in folder.results().items() if k not in ("seconds", "memory")}
    lines = [{**line, "images_per_second": 0} for line in folder.measurements()]
    config = small_config("icarl", path, classes=4, epochs=5)
    learner = Run(config, folder, Callback()).saved_learner()
    files = sorted(f.relative_to(path).as_posix() for f in path.rglob("*"))
    outer = [f for f in files if not f.startswith("checkpoints/")]
    assert len(list(folder.checkpoints.iterdir())) == 2 and not any("tmp" in f for f in files)
    confusions = folder.confusion_file.read_bytes()
    return {"results": results, "lines": lines, "confusions": confusions, "files": outer}, learner

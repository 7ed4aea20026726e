"""Kills a run again and again, each time in a process of its own: see test_killed.py.

    python tests/killed.py FOLDER MOMENTS

MOMENTS is a list, in JSON, of [PHASE, N, SECONDS]. A run in FOLDER is continued and, so many
seconds after the N-th moment of the phase, killed. Where it ends before, another run is begun; so
it goes until there were as many kills as moments. What was left is then run to its end, and so is
a run that nobody disturbed. Each process' fate is printed as a line of JSON.

Processes are forked from one that has imported everything and has not started JAX.
"""

import itertools
import json
import os
import signal
import sys
import threading
import traceback
from pathlib import Path

import jax
import numpy as np
import sklearn.datasets  # noqa: F401
from conftest import small_config

import cil_jax
from cil_jax import report
from cil_jax.storage.checkpoint import Checkpoints
from cil_jax.storage.run_folder import RunFolder
from cil_jax.training import loop, saving
from cil_jax.training.engine import Engine
from cil_jax.training.evaluation import Evaluation

# Who is about to do what in each phase; each call is a moment. All files of a run but Orbax' own
# are opened, made, renamed and removed through Python, so what changes them makes moments too.
EPOCHS = 5
CALLS = {
    "training": [(loop.Run, "_save_or_stop")],
    "saving": [(Checkpoints, "save")],
    "evaluating": [
        (Evaluation, name) for name in ("of_task", "of_seen", "_counts", "_all_data_means")
    ],
    "selecting": [(Engine, "advance"), (Engine, "keep"), (Engine, "end_task")],
    "results": [(RunFolder, "write_results"), (RunFolder, "append"), (RunFolder, "cut")],
    "drawing": [(report, "draw"), (report, "write_page")],
}
FILES = ("os.rename", "os.mkdir", "os.remove", "os.rmdir", "os.truncate")


class Killer:
    """Kills its process, on the n-th moment."""

    def __init__(self, n, wait):
        self.left, self.wait = n, wait

    def __call__(self):
        self.left -= 1
        if self.left:
            return
        if self.wait:
            threading.Timer(self.wait, os.kill, (os.getpid(), signal.SIGKILL)).start()
        else:
            os.kill(os.getpid(), signal.SIGKILL)

    def before(self, owner, name):
        """Each call of a function is a moment."""
        real = getattr(owner, name)

        def called(*args, **named):
            self()
            return real(*args, **named)

        setattr(owner, name, called)

    def files(self, folder):
        """Each thing that is done to a file of a folder is a moment."""

        def heard(event, args):
            writes = event in FILES or (event == "open" and args[2] & (os.O_WRONLY | os.O_RDWR))
            if writes and str(args[0]).startswith(str(folder)):
                self()

        sys.addaudithook(heard)


def go(folder, phase=None, n=0, wait=0.0):
    """The run, or what is left of it, with its figures."""
    jax.config.update("jax_compilation_cache_dir", str(folder.parent / "programs"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    # Calls of one step, and saving about as often as every few of them.
    loop.SECONDS_A_CALL, saving.SECONDS_UNSAVED, saving.SAVING_SHARE = 0.0, 0.3, np.inf
    killer = Killer(n, wait)
    if phase == "files":
        killer.files(folder)
    elif phase:
        for owner, name in CALLS[phase]:
            killer.before(owner, name)
    run = RunFolder(folder)
    config = small_config("icarl", folder, classes=4, epochs=EPOCHS, resume=run.holds_a_run)
    cil_jax.run(config)
    report.draw(run)
    report.write_page(run)


def ended(folder, *moment):
    """How a process ended: -9 killed, 0 the run is at its end."""
    child = os.fork()
    if child == 0:
        try:
            go(folder, *moment)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    half = (folder / "checkpoints/unfinished").exists()
    print(json.dumps([folder.name, *moment, status, half]), flush=True)
    if status not in (0, -signal.SIGKILL):
        sys.exit(f"{folder.name} failed at {moment}")
    return status


def main():
    place, moments = Path(sys.argv[1]), json.loads(sys.argv[2])
    ended(place / "alone")
    kills, names = 0, (f"killed{i}" for i in itertools.count())
    name = next(names)
    for moment in itertools.cycle(moments):
        if kills == len(moments):
            break
        if ended(place / name, *moment):
            kills += 1
        else:
            name = next(names)
    ended(place / name)


if __name__ == "__main__":
    main()

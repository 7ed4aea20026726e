"""A run spread over devices, and one that reads its images from the host, is the same run.

Each is made in a process of its own, whose CPU poses as several devices.
"""

import json
import os
import pickle
import subprocess
import sys
from pathlib import Path

import chex
import numpy as np
import pytest

ROOT = Path(__file__).parents[1]
SMALL = {"epochs": 1}
PROGRAMS = ("create", "begin_task", "pool", "train", "end_task", "feature_sums", "evaluate")


def told(out, **settings):
    """A small run of iCaRL, as plain values: the loss after each step, and all that it leaves.

    Or what it says where it refuses.
    """
    import jax
    from conftest import small_config

    from cil_jax import protocol, stream
    from cil_jax.config import UserError
    from cil_jax.engine import Engine
    from cil_jax.observer import Observer
    from cil_jax.record import RunFolder

    class Losses(Observer):
        def __init__(self):
            self.at = {}

        def trained(self, run, position):
            self.at[position.task, position.step] = position.loss

    protocol.SECONDS_A_CALL = 0.0  # a sign of life after every step
    stream.CHUNK_STEPS, stream.EMBEDDED = 4, 100  # as if the images were larger
    config = small_config("icarl", out, **{**SMALL, **settings})
    losses, folder = Losses(), RunFolder(config.folder())
    try:
        run = protocol.Run(config, folder, losses)
    except UserError as error:
        return str(error)
    results = run.go()
    learner = run.saved_learner()
    return {
        "losses": losses.at,
        "results": {k: v for k, v in results.items() if k != "seconds"},
        "lines": folder.measurements(),
        "memory": [np.asarray(x) for x in jax.tree.leaves(learner.memory)],
        "means": np.asarray(learner.means),
        "weights": [np.asarray(x) for x in jax.tree.leaves(learner.weights)],
        "compiled": {name: getattr(Engine, name)._cache_size() for name in PROGRAMS},
    }


def runs(folder, n_devices, **named):
    """What `told` tells of each of several runs, all in one process with so many devices."""
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")]),
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={n_devices}",
    }
    done = subprocess.run(
        [sys.executable, __file__, str(folder), json.dumps(named)],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return pickle.loads((Path(folder) / "told").read_bytes())


def assert_same_run(one, other, rtol):
    """Losses and network to rounding, and all that was decided exactly."""
    losses = {at: loss for at, loss in one["losses"].items() if at in other["losses"]}
    assert sum(task == 1 for task, _ in losses) > 1
    assert losses == pytest.approx(other["losses"], rel=rtol)
    for name in ("means", "weights"):
        for a, b in zip(one[name], other[name], strict=True):
            np.testing.assert_allclose(a, b, rtol=rtol, atol=rtol, err_msg=name)
    for a, b in zip(one["memory"], other["memory"], strict=True):
        np.testing.assert_array_equal(a, b)
    assert one["results"] == other["results"]
    for a, b in zip(one["lines"], other["lines"], strict=True):
        if a["kind"] == "epoch":
            assert a["test_loss"] == pytest.approx(b["test_loss"], rel=rtol)
        else:
            assert a == b


@pytest.fixture(scope="module")
def spread_out(tmp_path_factory):
    folder = tmp_path_factory.mktemp("devices")
    refused = {"many": {"devices": 9}, "uneven": {"devices": 3}}
    return runs(folder, 8, one={}, eight={"devices": 8}, streamed={"stream": True}, **refused)


def test_eight_devices_do_what_one_does(spread_out):
    assert_same_run(spread_out["one"], spread_out["eight"], rtol=1e-5)


def test_each_program_is_compiled_once_for_a_mesh(spread_out):
    once, twice = spread_out["one"]["compiled"], spread_out["eight"]["compiled"]
    assert {name: twice[name] - once[name] for name in once} == dict.fromkeys(PROGRAMS, 1)


def test_a_streamed_run_is_the_run_of_a_pool_on_the_device(spread_out):
    """To the last bit, but for test losses, which are summed in other parts."""
    one, streamed = spread_out["one"], spread_out["streamed"]
    assert_same_run(one, streamed, rtol=1e-6)
    chex.assert_trees_all_equal(streamed["weights"], one["weights"])
    chex.assert_trees_all_equal(streamed["means"], one["means"])
    assert all(one["losses"][at] == loss for at, loss in streamed["losses"].items())


def test_devices_that_do_not_fit_are_refused(spread_out):
    assert spread_out["many"].startswith("--devices 9 asked for; JAX finds 8 ")
    assert "--batch-size 32 can't be divided among 3 devices" in spread_out["uneven"]


if __name__ == "__main__":
    place, wanted = Path(sys.argv[1]), json.loads(sys.argv[2])
    found = {name: told(place / name, **more) for name, more in wanted.items()}
    (place / "told").write_bytes(pickle.dumps(found))

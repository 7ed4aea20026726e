"""A run spread over devices, and one that reads its images from the host, is the same run.

Each is made in a process of its own, whose CPU poses as several devices.
"""

import dataclasses
import json
import logging
import os
import pickle
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import chex
import jax
import pytest
from conftest import small_config

from cil_jax.app.accelerator import start_accelerator
from cil_jax.platform import devices
from cil_jax.settings.config import Config

ROOT = Path(__file__).parents[1]
PROGRAMS = (
    *("create", "begin_task", "pool", "train", "advance", "keep", "end_task"),
    *("feature_sums", "evaluate"),
)


class Compilations(logging.Handler):
    """The names of the programs that JAX says it compiled."""

    def __init__(self):
        super().__init__()
        self.programs = []

    def emit(self, record):
        said = re.match(r"Finished XLA compilation of jit\((\w+)\)", record.getMessage())
        self.programs += said.groups() if said else ()


def told(configs):
    """What small runs tell that are trained together, or one by itself.

    Of each, the loss after each step, results, and programs compiled; or why it is refused.
    """
    from cil_jax.errors import UserError
    from cil_jax.storage.run_folder import RunFolder
    from cil_jax.training import lockstep, loop, streaming
    from cil_jax.training.callbacks import Callback
    from cil_jax.training.loop import Run

    class Losses(Callback):
        def __init__(self):
            self.at = {}

        def trained(self, run, position):
            self.at[position.task, position.step] = position.loss

    loop.SECONDS_A_CALL = 0.0  # a sign of life after every step
    streaming.CHUNK_STEPS, streaming.EMBED_BATCH = 4, 100  # as if the images were larger
    log = Compilations()
    logging.getLogger("jax").addHandler(log)
    try:
        with jax.log_compiles():
            runs = [Run(c, RunFolder(c.folder()), Losses()) for c in configs]
            results = [runs[0].go()] if len(runs) == 1 else lockstep.go(runs)
    except UserError as error:
        return [str(error)]
    finally:
        logging.getLogger("jax").removeHandler(log)
    return [
        {
            "losses": run.callback.at,
            "results": {k: v for k, v in one.items() if k not in ("seconds", "memory", "machine")},
            "compiled": log.programs,
        }
        for run, one in zip(runs, results, strict=True)
    ]


def told_of_a_stop(configs):
    """The same of a run that is stopped and resumed; of several processes the last one is asked."""
    import cil_jax
    from cil_jax.training.callbacks import Callback
    from cil_jax.training.signals import Stopped

    class Stop(Callback):
        def trained(self, run, position):
            is_last = jax.process_index() == jax.process_count() - 1
            is_there = position.task == 1 and position.step == 4
            run.stop_asked = lambda: signal.SIGTERM if is_last and is_there else 0

    (config,) = configs
    try:
        cil_jax.run(config, Stop())
    except Stopped as stop:
        (again,) = told([dataclasses.replace(config, resume=True)])
        return [{**again, "stop": str(stop)}]


def left(config):
    """What lies in the folder of a run: lines and learner, read by a single device."""
    from cil_jax.storage.run_folder import RunFolder
    from cil_jax.training.callbacks import Callback
    from cil_jax.training.loop import Run

    folder = RunFolder(config.folder())
    learner = Run(config, folder, Callback()).saved_learner()
    parts = {"weights": learner.weights, "means": learner.means, "memory": learner.memory}
    confusions = {name: one.cells for name, one in folder.confusions(folder.results()).items()}
    lines = folder.measurements()
    return {"lines": lines, "confusions": confusions, **jax.device_get(parts)}


def settings_of(folder, name, more):
    return small_config("icarl", folder / name, **{"classes": 4, "epochs": 1, **more})


def apart(name, more):
    """Names and settings of a run, or of several that are trained together."""
    return {f"{name}{i}": one for i, one in enumerate(more)} if type(more) is list else {name: more}


def start(folder, flags, named, hosts=None):
    """A process that makes each of several runs."""
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")]),
        "XLA_FLAGS": flags,
    }
    call = [sys.executable, __file__, str(folder), json.dumps(named), json.dumps(hosts)]
    # Into a file: one that waits for its pipe to be read would keep the other waiting.
    with (folder / f"said{hosts['process_id'] if hosts else 0}").open("w") as said:
        return subprocess.Popen(call, env=environment, stdout=said, stderr=said)


def made(folder, named, processes):
    """What each process told of each run, and what the run left."""
    try:
        for i, process in enumerate(processes):
            assert process.wait(timeout=300) == 0, (folder / f"said{i}").read_text()[-5000:]
    finally:
        for process in processes:
            process.kill()
            process.wait()
    told_by = [pickle.loads((folder / f"told{i}").read_bytes()) for i in range(len(processes))]
    for name in [run for key, more in named.items() for run in apart(key, more)]:
        if isinstance(told_by[0][name], dict):
            there = left(settings_of(folder, name, {}))
            for told in told_by:
                told[name] |= there
    return told_by


def assert_same_run(one, other, rtol):
    """Losses and network to rounding, and all that was decided exactly."""
    losses = {at: loss for at, loss in one["losses"].items() if at in other["losses"]}
    assert sum(task == 1 for task, _ in losses) > 1
    assert losses == pytest.approx(other["losses"], rel=rtol)
    for name in ("means", "weights"):
        chex.assert_trees_all_close(one[name], other[name], rtol=rtol, atol=rtol)
    chex.assert_trees_all_equal(one["memory"], other["memory"])
    assert one["results"] == other["results"]
    for a, b in zip(one["lines"], other["lines"], strict=True):
        if a["kind"] == "epoch":
            assert a["test_loss"] == pytest.approx(b["test_loss"], rel=rtol)
        else:
            assert a["loss"] == pytest.approx(b["loss"], rel=rtol)
            assert {**a, "loss": None} == {**b, "loss": None}


@pytest.fixture(scope="module")
def spread_out(tmp_path_factory):
    folder = tmp_path_factory.mktemp("devices")
    named = {
        "one": {},
        "four": {"devices": 4},
        "streamed": {"stream": True},
        "other": {"seed": 1},
        "member": [{"devices": 2}, {"devices": 2, "seed": 1}],
        "many": {"devices": 5},
        "uneven": {"devices": 3},
    }
    four = "--xla_force_host_platform_device_count=4"
    return made(folder, named, [start(folder, four, named)])[0]


def test_four_devices_do_what_one_does(spread_out):
    assert_same_run(spread_out["one"], spread_out["four"], rtol=1e-5)


def test_each_program_is_compiled_once_whatever_the_devices(spread_out):
    for run in ("one", "four"):
        compiled = spread_out[run]["compiled"]
        expected = [name for name in PROGRAMS if run == "one" or name != "create"]
        assert {name: compiled.count(name) for name in expected} == dict.fromkeys(expected, 1)


def test_a_streamed_run_is_the_run_of_a_pool_on_the_device(spread_out):
    """To the last bit, but for test losses, which are summed in other parts."""
    one, streamed = spread_out["one"], spread_out["streamed"]
    assert_same_run(one, streamed, rtol=1e-6)
    chex.assert_trees_all_equal(streamed["weights"], one["weights"])
    chex.assert_trees_all_equal(streamed["means"], one["means"])
    assert all(one["losses"][at] == loss for at, loss in streamed["losses"].items())


def test_members_that_have_a_device_each_are_trained_as_alone(spread_out):
    """To the last bit, as batches are whole; evaluation, which divides them, may round."""
    for member, alone in (("member0", "one"), ("member1", "other")):
        assert_same_run(spread_out[alone], spread_out[member], rtol=1e-5)
        chex.assert_trees_all_equal(spread_out[alone]["weights"], spread_out[member]["weights"])
    assert spread_out["one"]["results"] != spread_out["other"]["results"]
    assert spread_out["member0"]["compiled"].count("train_together") == 1


def test_devices_that_do_not_fit_are_refused(spread_out):
    assert spread_out["many"].startswith("--devices is 5, but JAX finds only 4 ")
    assert "--batch-size 32 is not a multiple of the number of devices, 3" in spread_out["uneven"]


@pytest.mark.slow
def test_two_processes_that_feed_a_share_each_do_what_one_does(spread_out, tmp_path):
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        address = f"localhost:{probe.getsockname()[1]}"
    quick = "--xla_backend_optimization_level=0"  # to compile: the second process keeps no cache
    hosts = [{"coordinator": address, "num_processes": 2, "process_id": i} for i in (0, 1)]
    named = {"two": {}, "stopped": {}}
    two = made(tmp_path, named, [start(tmp_path, quick, named, h) for h in hosts])
    for process in two:
        assert_same_run(spread_out["one"], process["two"], rtol=1e-5)
        assert process["stopped"]["stop"] == "saved in task 2, after epoch 0 and step 4"
        assert_same_run(spread_out["one"], process["stopped"], rtol=1e-5)
    for name in named:
        lines = (tmp_path / name / "metrics.jsonl").read_text().splitlines()
        assert len(lines) == 4  # written once


@pytest.mark.parametrize(("there", "most"), [(1, 1), (3, 2), (6, 4), (8, 8)])
def test_unasked_a_batch_is_divided_among_as_many_devices_as_divide_it(there, most):
    assert devices._most_that_divide(there, 128) == most


KERNEL_GRADIENT = """
import jax, jax.numpy as jnp
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from cil_jax.models.convolution import cpu_convolution

mesh = jax.make_mesh((4,), ("data",), axis_types=(AxisType.Auto,))
cut, whole = (NamedSharding(mesh, PartitionSpec(*names)) for names in (("data",), ()))

def loss(kernel, images):
    return (cpu_convolution(images, kernel, (1, 1), ((1, 1), (1, 1))) ** 2).sum()

forms = [jax.ShapeDtypeStruct((3, 3, 2, 5), jnp.float32, sharding=whole)]
forms += [jax.ShapeDtypeStruct((64, 8, 8, 2), jnp.float32, sharding=cut)]
with jax.set_mesh(mesh):
    print(jax.jit(jax.grad(loss)).lower(*forms).compile().as_text())
"""


def test_a_kernels_gradient_takes_no_images_from_other_devices():
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    environment["XLA_FLAGS"] = "--xla_force_host_platform_device_count=4"
    call = [sys.executable, "-c", KERNEL_GRADIENT]
    program = subprocess.run(call, env=environment, capture_output=True, text=True, check=True)
    assert "all-reduce(" in program.stdout and "all-gather(" not in program.stdout


DIVIDED = ("train", "evaluate", "embed", "members")
SHARES_OF_WORK = """
import json
import jax, jax.numpy as jnp
import conftest
from cil_jax import models
from cil_jax.platform import devices
from cil_jax.settings.loading import preset
from cil_jax.data.augment import Augmentation
from cil_jax.training.engine import Engine
from cil_jax.learner import Normalizer
from cil_jax.methods import build
from cil_jax.schedules import SGD

method = build(preset("finetune"), models.build("tiny"))
engine = Engine(method, SGD(), Augmentation(1, True), batch_size=64, eval_batch_size=64)
images, labels = jnp.zeros((128, 8, 8, 1), jnp.uint8), jnp.zeros(128, jnp.int32)
number, rate = jnp.int32(2), jnp.float32(0.1)
normalizer = Normalizer(jnp.zeros((1, 1, 1)), jnp.ones((1, 1, 1)))
key = jax.random.key(0)
matrices = tuple(jnp.ones((64, 64)) for _ in range(8))

def squares(matrices):
    return tuple(matrix @ matrix for matrix in matrices)

def lowered(mesh):
    with devices.using(mesh):
        learner = devices.copy_to_all(engine.create((8, 8, 1), 4, normalizer, key, key))
        pool = engine.pool(learner, images, labels, task_room=2, class_room=64)
        calls = {
            Engine.train: (engine, learner, pool, engine.no_sums(), rate, rate, number),
            Engine.evaluate: (engine, learner, images, labels, number, number, learner.means),
            Engine.embed: (engine, learner, images, False),
            jax.jit(devices.shard_members, static_argnums=0): (squares, matrices),
        }
        return [program.lower(*arguments) for program, arguments in calls.items()]

# Operations of one device of four in each program, by those of a device alone.
print(json.dumps([
    four.compile().cost_analysis()["flops"] / one.cost_analysis()["flops"]
    for one, four in zip(lowered(None), lowered(devices.mesh(4, 64)), strict=True)
]))
"""


def test_each_of_four_devices_does_a_quarter_of_the_work():
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")])}
    environment["XLA_FLAGS"] = (
        "--xla_force_host_platform_device_count=4 --xla_backend_optimization_level=0"
    )
    call = [sys.executable, "-c", SHARES_OF_WORK]
    process = subprocess.run(call, env=environment, capture_output=True, text=True, check=True)
    shares = dict(zip(DIVIDED, json.loads(process.stdout), strict=True))
    assert all(0.2 < share < 0.4 for share in shares.values()), shares


if __name__ == "__main__":
    place, wanted, host = Path(sys.argv[1]), json.loads(sys.argv[2]), json.loads(sys.argv[3])
    if host:
        start_accelerator("cpu", Config(**host))
    found = {}
    for runs in (apart(name, more) for name, more in wanted.items()):
        configs = [settings_of(place, name, more) for name, more in runs.items()]
        tell = told_of_a_stop if "stopped" in runs else told
        found |= dict(zip(runs, tell(configs), strict=True))
    number = host["process_id"] if host else 0
    (place / f"told{number}").write_bytes(pickle.dumps(found))

"""Runs that are trained together: each is what it is alone, wherever it stands."""

import dataclasses
import itertools
import signal
from types import SimpleNamespace

import chex
import jax
import jax.numpy as jnp
import pytest
from conftest import small_config
from jax.extend.core import Var
from test_method_contract import engine_of, learned, task_pool

import cil_jax
from cil_jax import report
from cil_jax.app import command_line, launch
from cil_jax.errors import UserError
from cil_jax.storage import replicates
from cil_jax.storage.run_folder import RunFolder
from cil_jax.training import lockstep
from cil_jax.training.callbacks import Callback
from cil_jax.training.engine import Engine, TrainRequest
from cil_jax.training.loop import Run
from cil_jax.training.signals import Stopped


class PiecesOf(Run):
    """A run that asks for so many updates at once."""

    def __init__(self, config, n, callback=None):
        super().__init__(config, RunFolder(config.folder()), callback or Callback())
        self.n = n

    def _pieces(self, learner, pool, steps):
        self._stride = self.n
        for piece, stop in super()._pieces(learner, pool, steps):
            yield piece, stop
            self._stride = self.n


class Raise(Callback):
    """What is raised at some event of a task, and how often updates were handed over."""

    def __init__(self, error=None, event="epoch_done", task=1):
        self.error, self.at, self.n_trained = error, (event, task), 0

    def trained(self, run, position):
        self.n_trained += 1
        self._raise("trained", position.task)

    def epoch_done(self, run, line):
        self._raise("epoch_done", line["task"])

    def _raise(self, *at):
        if self.error and self.at == at:
            raise self.error


def settings(folder, **more):
    return small_config("icarl", folder, **{"classes": 4, "task_size": 2, "epochs": 2, **more})


def again(config):
    return dataclasses.replace(config, resume=True)


def left(config):
    """All that a run leaves, but for times and places."""
    folder = RunFolder(config.folder())
    results = {
        k: v for k, v in folder.results().items() if k not in ("seconds", "memory", "machine")
    }
    lines = [{**line, "images_per_second": None} for line in folder.measurements()]
    lines.append(folder.confusion_file.read_bytes())
    learner = Run(config, folder, Callback()).saved_learner()
    data = jax.random.key_data
    return (
        results,
        lines,
        learner.replace(init_key=data(learner.init_key), data_key=data(learner.data_key)),
    )


MEMBERS = {"first": {}, "other": {"seed": 3, "order_seed": 7}}


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """What each member leaves that is run by itself."""
    folder = tmp_path_factory.mktemp("alone")
    found = {}
    for name, own in MEMBERS.items():
        config = settings(folder / name, **own)
        cil_jax.run(config)
        found[name] = left(config)
    return found


def assert_as_alone(configs, alone):
    for name, config in configs.items():
        results, lines, learner = left(config)
        assert results == alone[name][0]
        assert lines == alone[name][1]
        chex.assert_trees_all_equal(learner, alone[name][2])


def test_the_seconds_of_updates_are_added_up_until_all_are_made(monkeypatch):
    """One asks for 2 updates and then for 1, the other for 3: each call takes a second."""
    ticks = itertools.count()
    monkeypatch.setattr(lockstep, "time", SimpleNamespace(perf_counter=lambda: next(ticks)))
    answers = SimpleNamespace(train_together=lambda members, n, kind: [("learner", "sums")] * 2)
    heard = []

    class Asking:
        def __init__(self, name, *wanted):
            self.name, self.wanted = name, wanted

        def steps(self):
            for n in self.wanted:
                learner = SimpleNamespace(step=0)
                trained = yield lockstep.TrainRequest(learner, None, None, None, None, n, 0)
                heard.append((self.name, trained.seconds))
            return {}

    members = [lockstep._Member(Asking("first", 2, 1)), lockstep._Member(Asking("second", 3))]
    lockstep._drive(members, answers)
    assert heard == [("first", 1.0), ("first", 1.0), ("second", 2.0)]


def test_members_that_are_trained_together_are_what_they_are_alone(alone, tmp_path):
    """Bit for bit, on a CPU, with seeds and class orders of their own.

    They ask for 2 and for 3 updates at once.
    """
    configs = {name: settings(tmp_path / name, **more) for name, more in MEMBERS.items()}
    runs = [PiecesOf(c, n) for c, n in zip(configs.values(), (2, 3), strict=True)]
    results = lockstep.go(runs)
    assert_as_alone(configs, alone)
    assert results == [RunFolder(c.folder()).results() for c in configs.values()]
    assert alone["first"][1] != alone["other"][1]


def test_a_member_may_stand_elsewhere(alone, tmp_path):
    """One was interrupted in the second task, the other begins, and is still busy at the end."""
    configs = {name: settings(tmp_path / name, **more) for name, more in MEMBERS.items()}
    with pytest.raises(InterruptedError):
        cil_jax.run(configs["first"], Raise(InterruptedError()))
    configs["first"] = again(configs["first"])
    lockstep.go([PiecesOf(config, 4) for config in configs.values()])
    assert_as_alone(configs, alone)


@pytest.mark.parametrize(
    ("sizes", "n_trained"),
    [((2, 2), [2, 1]), ((3, 2), [1, 1])],  # the first was told before, or asked for more
)
def test_an_interrupt_of_one_ends_the_others_when_they_have_got_their_updates(
    alone, tmp_path, sizes, n_trained
):
    configs = {name: settings(tmp_path / name, **more) for name, more in MEMBERS.items()}
    watchers = Raise(), Raise(KeyboardInterrupt(), "trained", 0)
    before = Engine.train_together._cache_size()
    with pytest.raises(KeyboardInterrupt):
        lockstep.go(list(map(PiecesOf, configs.values(), sizes, watchers)))
    assert [watcher.n_trained for watcher in watchers] == n_trained
    assert Engine.train_together._cache_size() <= before + 1  # none for the one that was left
    configs = {name: again(config) for name, config in configs.items()}
    lockstep.go([PiecesOf(config, 9) for config in configs.values()])
    assert_as_alone(configs, alone)


def test_a_signal_stops_each_where_it_has_got_its_updates(alone, tmp_path):
    configs = {name: settings(tmp_path / name, **more) for name, more in MEMBERS.items()}
    runs = list(map(PiecesOf, configs.values(), (3, 2)))
    for run in runs:
        run.stop_asked = lambda: signal.SIGTERM
    with pytest.raises(Stopped, match="saved in task 1, after epoch 0 and step 2"):
        lockstep.go(runs)
    learners = [Run(c, RunFolder(c.folder()), Callback()).saved_learner() for c in configs.values()]
    assert [int(learner.step) for learner in learners] == [3, 2]
    configs = {name: again(config) for name, config in configs.items()}
    lockstep.go([PiecesOf(config, 9) for config in configs.values()])
    assert_as_alone(configs, alone)


def test_one_that_fails_leaves_the_others_what_they_saved(alone, tmp_path):
    configs = {name: settings(tmp_path / name, **more) for name, more in MEMBERS.items()}
    watchers = Raise(UserError("no more")), Raise()
    with pytest.raises(UserError, match="no more"):
        lockstep.go(list(map(PiecesOf, configs.values(), (9, 9), watchers)))
    saved = [line["kind"] for line in RunFolder(configs["other"].folder()).measurements()]
    assert saved[:3] == ["epoch", "epoch", "evaluation"]
    configs = {name: again(config) for name, config in configs.items()}
    lockstep.go([PiecesOf(config, 9) for config in configs.values()])
    assert_as_alone(configs, alone)


def test_runs_of_other_settings_are_not_trained_together(tmp_path):
    runs = [PiecesOf(settings(tmp_path / str(n), batch_size=n), 9) for n in (16, 32)]
    with pytest.raises(ValueError, match="nothing but seeds"):
        lockstep.go(runs)


def test_the_command_runs_members_in_groups_and_says_whose_lines_are_whose(
    tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr(report, "draw", lambda *_: None)  # which takes a while
    config = settings(tmp_path / "runs", epochs=1)
    summary = launch.run_members(config, [0, 1, 2], None, n_at_once=2)
    said = capsys.readouterr().out
    assert summary["n"] == 3
    for seed in (0, 1):
        assert f"order1993-seed{seed}  task 1/2  epoch 1/1" in said
    assert "seed2  task" not in said and "\ntask 1/2  epoch 1/1" in said  # the last is alone
    folder = replicates.group_folder(config)
    assert all((folder / f"order1993-seed{s}/report.html").exists() for s in (0, 1, 2))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--parallel-members", "2"], "--parallel-members is for several runs: add --seeds"),
        (["--seeds", "0,1", "--parallel-members", "0"], "'0' is not an integer of at least 1"),
    ],
)
def test_members_at_once_that_make_no_sense_are_refused(words, message, capsys):
    assert command_line.run_method("icarl", words) == command_line.FAILED
    assert message in capsys.readouterr().err


def owners_of(jaxpr, owners):
    """Which members the values that a program computes depend on, for those of its inputs.

    Returns:
      The owners of its outputs, and those of each operation: sets of members.
    """
    of = dict(zip(jaxpr.invars, owners, strict=True))
    operations = []
    for equation in jaxpr.eqns:
        inputs = [of.get(x, set()) if isinstance(x, Var) else set() for x in equation.invars]
        union = set().union(*inputs)
        outputs = [union for _ in equation.outvars]
        if equation.primitive.name == "while" and len(union) > 1:  # the loop over updates
            body = equation.params["body_jaxpr"].jaxpr
            n = equation.params["cond_nconsts"]
            n_constants = equation.params["body_nconsts"]
            constants, carried = inputs[n : n + n_constants], inputs[n + n_constants :]
            outputs, inner = owners_of(body, constants + carried)
            operations += inner
        else:
            operations.append(union)
        of |= dict(zip(equation.outvars, outputs, strict=True))
    return [of.get(x, set()) if isinstance(x, Var) else set() for x in jaxpr.outvars], operations


def test_no_operation_of_a_member_waits_for_another_member():
    engine = engine_of("icarl")
    learner = learned(engine, 1)
    pool, rate = task_pool(engine, learner, 1), jnp.float32(0.1)
    request = TrainRequest(learner, pool, engine.no_sums(), rate, rate, jnp.int32(1), 0)

    def train(one, other, n_steps):
        members = (request._replace(learner=one), request._replace(learner=other))
        return Engine.train_together.__wrapped__(engine, members, n_steps)

    program = jax.make_jaxpr(train)(learner, learner, jnp.int32(1)).jaxpr
    n = len(jax.tree.leaves(learner))
    outputs, operations = owners_of(program, [{0}] * n + [{1}] * n + [set()])
    assert {0} in outputs and {1} in outputs and max(map(len, outputs)) == 1
    assert len(operations) > 1000 and max(map(len, operations)) == 1

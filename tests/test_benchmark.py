"""The benchmark: what it counts, how it times, and that it measures the work of a run."""

import dataclasses
import importlib.util
import json
import sys

import jax
import jax.numpy as jnp
import pytest
from jax import lax

from cil_jax.benchmark import flops, rounds, table
from cil_jax.benchmark.parts import Bench
from cil_jax.benchmark.settings import QUICK, Settings
from cil_jax.benchmark.workbench import Workbench, shipped_run_config, small_run_config
from cil_jax.commands import benchmark

# The run is that of `small_config`, whose programs other tests compile as well.
RUN = {"run_backbone": "tiny", "run_classes": 5, "run_epochs": 1, "run_memory": 20}
TINY = Settings(**{**QUICK, **RUN, "backbone": "two-stage", "repeat": 1})


@pytest.fixture(scope="module")
def workbench():
    return Workbench(TINY)


@pytest.fixture(scope="module")
def learner(workbench):
    """At the start of the second task."""
    return workbench.learner(1)


def test_operations_of_an_update_are_those_counted_by_hand(workbench, learner):
    """Two stages: 3 -> 4 channels, a block 4 -> 4 -> 4 at 32 x 32, and one 4 -> 8 -> 8 at 16 x 16.

    Two operations for each weight at each place; the gradient costs twice the forward pass, but
    the pixels need none; the teacher costs a forward pass. The head has 20 columns of 8.
    """
    first = 2 * 32 * 32 * 9 * 3 * 4
    others = 2 * (32 * 32 * (9 * 4 * 4) * 2 + 16 * 16 * (9 * 4 * 8 + 9 * 8 * 8))
    head = 2 * 8 * 20
    forward = first + others + head
    assert workbench.forward_flop(learner) == first + others
    assert workbench.evaluation_flop(learner) == 2 * forward
    update = (3 * forward - first) + forward
    assert workbench.step_flop(learner) == TINY.batch_size * update


def test_operations_of_herding_are_a_product_a_pick(workbench):
    features = workbench.features_to_herd(2)
    assert features.shape == (2, 12, 8)
    assert workbench.herd_flop(features) == TINY.herded * 2 * (2 * 12 * 8)


def test_the_count_agrees_with_the_compilers_but_for_borders_and_small_work():
    images, kernel = jnp.zeros((2, 32, 32, 16)), jnp.zeros((3, 3, 16, 16))

    def convolve(images, kernel):
        numbers = ("NHWC", "HWIO", "NHWC")
        return lax.conv_general_dilated(images, kernel, (1, 1), "SAME", dimension_numbers=numbers)

    ours = flops.of(convolve, images, kernel)
    theirs = jax.jit(convolve).lower(images, kernel).cost_analysis()["flops"]
    # It leaves out what would fall on the border: three places but one at each end of 32.
    assert theirs == pytest.approx(ours * ((3 * 32 - 2) / (3 * 32)) ** 2)


def test_loops_are_counted_as_often_as_they_run_or_refused():
    matrix = jnp.zeros((4, 5))

    def looped(matrix, n):
        return lax.fori_loop(0, n, lambda i, x: x + matrix @ (matrix.T @ x), jnp.zeros((4, 3)))

    assert flops.of(lambda m: looped(m, 7), matrix) == 7 * 2 * (2 * 5 * 4 * 3)
    with pytest.raises(ValueError, match="unknown length"):
        flops.of(looped, matrix, jnp.int32(7))


def test_rounds_alternate_and_ratios_are_taken_within_a_round():
    calls = []
    contestants = {name: lambda name=name: calls.append(name) for name in "ab"}
    told = []
    times = rounds.alternate(contestants, 3, 100.0, lambda n, _: told.append(n))
    assert "".join(calls) == "ab" + "ab" + "ba" + "ab" and told == [1, 2, 3]
    assert {name: len(seconds) for name, seconds in times.items()} == {"a": 3, "b": 3}
    assert len(rounds.alternate(contestants, 3, 0.0)["a"]) == 1  # one is always made
    assert rounds.ratio([2.0, 9.0, 8.0], [1.0, 3.0, 1.0]) == rounds.Spread(3.0, 2.0, 8.0, 3)


def test_without_warm_up_nothing_is_called_before_it_is_timed():
    calls = []
    contestants = {name: lambda name=name: calls.append(name) for name in "ab"}
    rounds.alternate(contestants, 1, 100.0, is_warmed_up=False)
    assert "".join(calls) == "ab"


def test_the_precision_is_that_of_all_that_is_measured():
    assert TINY.precision == "float32"
    settings = dataclasses.replace(TINY, precision="bfloat16")
    configs = Workbench(settings).config, small_run_config(settings), shipped_run_config(settings)
    assert {config.precision for config in configs} == {"bfloat16"}
    words = table.report(Bench(dataclasses.replace(settings, torch=False)), {})["dtype"]
    assert words == "bfloat16 layers (PyTorch: autocast)"


@pytest.mark.slow
def test_a_whole_run_is_measured_beside_a_loop_with_a_loader():
    full = shipped_run_config(Settings())
    assert (full.dataset, full.preset, full.backbone) == ("cifar100", "pycil", "resnet8")
    assert (full.epochs, full.rate_steps, full.brightness) == (10, (0.6, 0.8), 0.0)
    bench = Bench(dataclasses.replace(TINY, torch=False))
    bench.measure("shipped")
    (row,) = bench.rows
    assert row.seconds.n == 1 and row.peer == "" and "PyCIL's recipe" in row.what
    assert any("NME accuracy: ours average " in note for note in bench.notes)


def test_what_is_measured_is_the_middle_of_a_run(workbench, learner):
    """By hand: ten tasks of two classes of 12 images, a memory of 40."""
    assert (int(learner.n_old), int(learner.n_seen)) == (2, 4)
    assert workbench.steps(workbench.pool(learner)) == (2 * 12 + 2 * 12) // 8
    last = workbench.learner(9)
    assert (int(last.n_old), int(last.n_seen)) == (18, 20)
    assert int(workbench.pool(last).count()) == 2 * 12 + 18 * 2
    assert last.memory.counts(20).tolist() == [2] * 18 + [0] * 2
    assert last.task_of.tolist()[-4:] == [8, 8, 9, 9]
    assert jax.tree.map(jnp.shape, last) == jax.tree.map(jnp.shape, learner)
    assert float(abs(learner.teacher.params["head"]["kernel"]).max()) > 0
    # The teacher teaches: without one the loss has one part only.
    total = float(workbench.train(learner, workbench.pool(learner), 2))
    assert 0 < total < 2 * 20


def test_each_part_is_measured_beside_pytorch():
    bench = Bench(TINY)
    for part in ("step", "nme", "run"):
        bench.measure(part)
    by_part = {}
    for row in bench.rows:
        by_part.setdefault(row.part, []).append(row)
    assert {part: len(rows) for part, rows in by_part.items()} == {"step": 1, "nme": 3, "run": 1}
    has_torch = importlib.util.find_spec("torch") is not None
    for row in (by_part["step"][0], by_part["nme"][1], by_part["run"][0]):
        assert row.seconds.median > 0 and row.share.median > 0
        assert (row.peer, row.faster is not None) == (("eager", True) if has_torch else ("", False))
    images = by_part["step"][0].images
    assert images % 8 == 0 and 8 <= images <= 48
    evaluation, nearest = by_part["nme"][2], by_part["nme"][1]
    assert nearest.flop < evaluation.flop and nearest.images == 40
    assert bench.learner_bytes["exemplars"] == 2 * 12 * 32 * 32 * 3
    assert any("update of task 10" in name for name in bench.ratios)
    assert any("both learn: ours" in note for note in bench.notes)


def test_scale_tells_what_a_task_takes_of_runs_of_some_classes():
    bench = Bench(dataclasses.replace(TINY, scale_classes=(4,)))
    bench.measure("scale")
    (one,) = bench.scales
    assert (one.n_classes, one.n_tasks, one.test_images) == (4, 2, 8)
    assert one.second == one.last > 0  # the second task is the last
    assert 200 < one.line < one.metrics < 20_000
    assert min(one.confusion, one.results) > 500 and one.page > 10_000
    report = table.report(bench, {})
    assert report["scales"] == [dataclasses.asdict(one)] and report["rows"] == []
    text = table.markdown(report)
    assert text.startswith("| classes | tasks |") and "| 4 | 2 | 8 |" in text
    assert "More and more classes" in text and "Peak" not in text
    assert [len(shown.columns) for shown in table.tables(report)] == [10]


def test_the_command_measures_and_writes_what_it_says(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")  # with PyTorch the table has more columns
    flags = ["herding", "--quick", "--accelerator", "cpu"]
    files = ["--json", "numbers.json", "--markdown", "table.md"]
    code = benchmark.main([*flags, *files])
    out, error = capsys.readouterr()
    assert code == 0, error
    assert "herding, round 1 of 2" in error.replace(", 2 classes", "")
    report = json.loads((tmp_path / "numbers.json").read_text())
    (row,) = report["rows"]
    assert row["what"] == "herding, 2 x 12" and row["seconds"]["n"] == 2
    assert row["flop_per_second"] == pytest.approx(row["flop"] / row["seconds"]["median"])
    for state in ("cold", "cached"):
        first = row["first_call"][state]
        assert first["compile_seconds"] >= 0
        assert first["peak_bytes"] is None or first["peak_bytes"] > 10_000_000
    assert (
        report["machine"]["cores"] >= 1 and report["versions"]["python"] == sys.version.split()[0]
    )
    written = (tmp_path / "table.md").read_text()
    for text in (out, written):
        assert "herding, 2 x 12" in text and report["versions"]["jax"] in text


@pytest.mark.parametrize(
    ("flags", "word"),
    [
        (["steps"], "did you mean 'step'?"),
        (["--repeat", "0"], "--repeat is 0"),
        (["--quick", "--backbone", "resnet9"], "unknown backbone"),
        (["--json", "nowhere/x.json"], "no folder nowhere"),
    ],
    ids=str,
)
def test_mistakes_are_one_line(flags, word, capsys):
    assert benchmark.main(flags) == 2
    out, error = capsys.readouterr()
    assert out == "" and error.startswith("error: ") and error.count("\n") == 1
    assert word in error

"""Equal memory: how many exemplars fit in a budget, and the accuracy over several budgets."""

import pytest
from conftest import small_config, write_run

import cil_jax
from cil_jax.commands import compare
from cil_jax.errors import UserError
from cil_jax.metrics import MB, area_over_budgets, size_in_mb
from cil_jax.report import budgets
from cil_jax.report.groups import compare as compared
from cil_jax.settings import loading
from cil_jax.settings.loading import preset
from cil_jax.storage.run_folder import RunFolder
from cil_jax.training.budget import within_budget
from cil_jax.training.build import Room

SHAPE, ROOM = (8, 8, 1), Room(n_classes=6, n_tasks=3, task_room=2)
BACKBONE = 9 * 8 + 2 * 8 + 2 * (9 * 8 * 8 + 2 * 8)  # three convolutions, each normalised
HEAD = 8 * 6 + 6
IMAGE = 64  # bytes


def exemplars_in(n_bytes, method, name, room=ROOM, **settings):
    settings = {"backbone": "tiny", "pad": 0, "mirror": "no", **settings}
    config = preset(method, name, budget_mb=n_bytes / MB, **settings)
    sized = within_budget(config, None, SHAPE, room)
    assert sized.budget_mb is None and sized.per_class == 0
    return sized.memory


@pytest.mark.parametrize(
    ("method", "name", "settings"),
    [("icarl", "paper", {}), ("gdumb", "paper", {}), ("icarl", "pycil", {"per_class": 3})],
)
def test_as_many_images_as_fit_beside_one_network(method, name, settings):
    network = 4 * (BACKBONE + HEAD)
    assert exemplars_in(network + 20 * IMAGE, method, name, **settings) == 20
    assert exemplars_in(network + 20 * IMAGE - 1, method, name, **settings) == 19
    assert exemplars_in(network + 6 * IMAGE, method, name, **settings) == 6


def test_a_network_for_each_task_and_what_is_stored_with_an_exemplar_count():
    """DER's head reads the features of three backbones; its auxiliary head those of one."""
    der = 4 * (3 * BACKBONE + 3 * 8 * 6 + 6 + 8 * 3 + 3)
    assert exemplars_in(der + 7 * IMAGE, "der", "pycil") == 7
    one_task = 4 * (BACKBONE + 8 * 2 + 2 + 8 * 3 + 3)
    assert exemplars_in(one_task + 7 * IMAGE, "der", "pycil", Room(2, 1, 2)) == 7
    logits = 4 * 6 + 4  # and the number of open columns
    network = 4 * (BACKBONE + HEAD)
    assert exemplars_in(network + 9 * (IMAGE + logits), "derpp", "paper") == 9


def test_a_budget_that_is_too_small_is_refused_in_a_line():
    network = 4 * (BACKBONE + HEAD)
    with pytest.raises(UserError) as too_small:
        exemplars_in(network - 1, "icarl", "paper")
    assert str(too_small.value) == (
        f"--budget-mb {(network - 1) / MB:g} is too small for the network alone: its "
        f"{BACKBONE + HEAD:,} parameters after the last task take 0.00506 MB"
    )
    with pytest.raises(UserError, match=r"leaves room for 5 exemplars .* fewer than the 6 classes"):
        exemplars_in(network + 6 * IMAGE - 1, "icarl", "paper")
    with pytest.raises(UserError, match=r"--budget-mb is 0\.0; it must be above 0"):
        preset("icarl", "paper", budget_mb=0.0)


def test_the_last_size_that_is_given_counts():
    below = {"preset": {"method": "lucir", "memory": 9, "per_class": 20, "budget_mb": 3.0}}
    sizes = {}
    for given in ({"memory": 5}, {"per_class": 4}, {"budget_mb": 2.0}, {"epochs": 1}):
        config = loading.config_of({**below, "flag": loading.over(given, "lucir")})
        sizes[next(iter(given))] = (config.memory, config.per_class, config.budget_mb)
    assert sizes == {
        "memory": (5, 0, None),
        "per_class": (9, 4, None),
        "budget_mb": (9, 20, 2.0),
        "epochs": (9, 20, 3.0),
    }
    unused = cil_jax.methods.unused_settings(preset("lucir", "paper", budget_mb=2.0))
    assert {"memory", "per_class"} <= unused
    command = loading.command(preset("lucir", "paper", budget_mb=2.0))
    assert command == "cil-jax lucir --preset paper --budget-mb 2.0"


def test_a_run_fills_its_budget_and_can_be_resumed_and_loaded(tmp_path):
    config = small_config("replay", tmp_path / "run", epochs=1, budget_mb=0.01)
    results = cil_jax.run(config)
    used = size_in_mb(results["parameters"], results["memory_bytes"])
    n = results["exemplars"]
    assert used <= 0.01 < size_in_mb(results["parameters"], (n + 1) * IMAGE)
    assert results["changed"]["budget_mb"] == 0.01 and results["memory_bytes"] > (n - 5) * IMAGE
    assert RunFolder(tmp_path / "run").settings()["budget_mb"] == 0.01
    again = small_config("replay", tmp_path / "run", epochs=1, budget_mb=0.01, resume=True)
    assert cil_jax.run(again)["exemplars"] == n
    learner = cil_jax.load(tmp_path / "run")
    assert len(learner.state.memory.labels) == n
    # With more outputs, less would fit; a learner that is taught keeps what the run has promised.
    assert (learner.config.memory, learner.config.budget_mb) == (n, None)


def test_the_area_over_budgets_by_hand():
    """2 MB at .55 on average, and 6 MB at .65."""
    assert area_over_budgets([2, 4, 10], [0.5, 0.6, 0.7]) == pytest.approx(1.1 + 3.9)
    assert size_in_mb(2**18, 2**20) == 2.0
    for wrong in ([2], [2, 2], [4, 2]):
        with pytest.raises(ValueError, match="are not two or more that increase"):
            area_over_budgets(wrong, [0.5] * len(wrong))


def write(folder, last, budget=None, method="icarl", **settings):
    """A finished run whose average is that of .8 and its last accuracy."""
    config = small_config(method, folder, budget_mb=budget, **settings)
    results = {"method": method, "preset": config.preset, "backbone": config.backbone}
    results |= {"parameters": 2**18, "memory_bytes": 2**20 // 2}
    results["changed"] = {} if budget is None else {"budget_mb": budget}
    matrix = [[0.8], [last, last]]
    return write_run(folder, config=config, sizes=(2, 2), matrix=matrix, **results)


def test_runs_that_differ_in_their_budget_form_a_curve(tmp_path):
    """The run without a budget has 1 MB of parameters and half a MB of exemplars."""
    write(tmp_path / "a", 0.6, 3.5)
    write(tmp_path / "b", 0.2)
    write(tmp_path / "c", 0.4, 2.5)
    write(tmp_path / "other", 0.4, 9.0, divisor=50.0)  # with other settings: no curve
    (curve,) = budgets.curves(compared(sorted(tmp_path.iterdir()))[0].groups)
    assert (curve.name, curve.classifier) == ("icarl (paper)", "nme")
    assert curve.budgets == (1.5, 2.5, 3.5)
    assert curve.last == pytest.approx((0.2, 0.4, 0.6))
    assert curve.average == pytest.approx((0.5, 0.6, 0.7))
    cells = ["icarl (paper)", "nme", "1", "1.5, 2.5, 3.5", "1.2", "0.8"]
    assert budgets.cells([curve]) == [cells]


def test_networks_of_other_sizes_are_on_one_curve_if_each_has_a_budget(tmp_path):
    write(tmp_path / "a", 0.6, 2.0, backbone="tiny")
    write(tmp_path / "b", 0.2, 3.0, backbone="two-stage")
    curves = budgets.curves(compared(sorted(tmp_path.iterdir()))[0].groups)
    assert [curve.budgets for curve in curves] == [(2.0, 3.0)]
    write(tmp_path / "c", 0.2, 4.0, backbone="tiny")
    write(tmp_path / "d", 0.2, 4.0, backbone="two-stage")
    curves = budgets.curves(compared(sorted(tmp_path.iterdir()))[0].groups)
    assert [curve.budgets for curve in curves] == [(2.0, 4.0), (3.0, 4.0)]
    write(tmp_path / "e" / "one", 0.2, backbone="tiny")
    write(tmp_path / "e" / "two", 0.2, backbone="two-stage")
    assert not budgets.curves(compared([tmp_path / "e" / "one", tmp_path / "e" / "two"])[0].groups)


def test_compare_shows_the_areas_and_says_if_ranges_differ(tmp_path, capsys):
    for name, last, budget in (("a", 0.6, 2.0), ("b", 0.2, 3.0)):
        write(tmp_path / name, last, budget)
    page = tmp_path / "page.html"
    runs = [str(tmp_path / name) for name in "ab"]
    markdown, latex = tmp_path / "table.md", tmp_path / "table.tex"
    files = ["--page", str(page), "--markdown", str(markdown), "--latex", str(latex)]
    assert compare.main([*runs, *files]) == 0
    out = capsys.readouterr().out
    assert "AUC-A" in out and "2, 3" in out and budgets.OTHER_RANGES not in out
    assert "Accuracy over memory budgets" in page.read_text()
    # A trapezoid from 0.7 to 0.5 over a MB, and one from 0.6 to 0.2.
    areas = ["icarl (paper)", "nme", "1", "2, 3", "0.6", "0.4"]
    assert f"| {' | '.join(areas)} |" in markdown.read_text()
    assert rf"    {' & '.join(areas)} \\" in latex.read_text()
    assert latex.read_text().count(r"\end{tabular}") == 2
    write(tmp_path / "c", 0.2, 5.0)
    write(tmp_path / "d", 0.2, 2.0, "replay")
    write(tmp_path / "e", 0.2, 3.0, "replay")
    assert compare.main([str(tmp_path / name) for name in "abcde"]) == 0
    assert budgets.OTHER_RANGES in " ".join(capsys.readouterr().out.split())
    assert compare.main([runs[0], "--page", str(page)]) == 0
    assert "AUC-A" not in capsys.readouterr().out + page.read_text()

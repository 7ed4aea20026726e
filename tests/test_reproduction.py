"""The table of published results: what it claims, and how ours are set beside them."""

import dataclasses
import fnmatch
import tomllib
from pathlib import Path

import pytest
from conftest import results_of, write_run

from cil_jax.app import command_line
from cil_jax.commands import reproduce
from cil_jax.data.scenario import split
from cil_jax.errors import UserError
from cil_jax.methods import METHODS
from cil_jax.report import published_results, reference, results_page, tables
from cil_jax.settings.config import Config
from cil_jax.settings.loading import preset, presets
from cil_jax.storage.run_folder import RunFolder


@pytest.fixture(autouse=True)
def recorded(tmp_path_factory, monkeypatch, request):
    """An empty folder of recorded results, except in tests of those that there are."""
    folder = tmp_path_factory.mktemp("reference")
    if "package" not in request.fixturenames:
        monkeypatch.setattr(reference, "FOLDER", folder)
    return folder


@pytest.fixture
def package():
    """Asks for the results that are recorded in the package."""
    return Path(reference.__file__).parents[2]


def results(order=1993, last=0.5):
    """Of a run in three tasks of ten classes."""
    return results_of(
        *([10] * 3, [[0.9], [0.6, 0.6], [last] * 3]),
        order=f"seeded {order}",
        seeds={"order": order, "init": 0, "data": 0},
    )


def write(tmp_path, one, protocol="full", order=1993, last=0.5, **other_settings):
    """A finished member of a row's run, in its place."""
    config = published_results.config(one, protocol, tmp_path, order_seed=order, **other_settings)
    run = RunFolder(f"{config.out}/order{order}-seed0")
    run.start(config)
    run.write_results(results(order, last))
    return run


def row(run, classifier):
    return next(r for r in published_results.rows() if (r.run, r.classifier) == (run, classifier))


def test_every_row_of_ours_names_a_preset_and_a_classifier_that_there_are():
    ours = [one for one in published_results.rows() if one.can_be_run]
    # These were published in other protocols: with other networks, data, first tasks or averages.
    replay = {"derpp", "er", "er_ace", "ssil", "eeil", "il2m"}
    others = {"lwm", "mas", "si", "acil", "fecam", "ranpac", "simplecil", "slda"}
    assert {one.method for one in ours} == set(METHODS) - replay - others
    for one in ours:
        assert one.preset in presets(one.method)
        config = published_results.config(one, "full", "runs")
        assert config.backbone == "resnet32" and config.order_seed == 1993
        assert config.order == ("icarl" if one.source == "icarl" else "seeded")
        assert config.epochs == preset(one.method, one.preset).epochs
        assert config.ncm == (one.run == "icarl-paper")
        assert set(one.band) <= {"average", "last"}
        for key, (low, high) in one.band.items():
            assert low <= getattr(one, key) <= high


def test_every_row_has_tasks_that_fit_its_name_and_a_source():
    sizes = {"": 10, **{f"tasks-of-{n}": n for n in (2, 5, 10, 20, 50)}}
    for one in published_results.rows():
        first, *later = published_results.task_sizes(one)
        assert first + sum(later) == 100 and one.source in published_results.sources()
        name = one.variant.removeprefix("b50-")
        assert first == (
            100 if one.method == "joint" else 50 if "b50" in one.variant else sizes[name]
        )
        assert set(later) <= {sizes[name]}
        assert one.average or one.last or one.note
        if one.can_be_run:
            config = published_results.config(one, "full", "x")
            assert split(100, config.task_size, config.first_task) == (first, *later)


def test_rows_of_coming_methods_are_shown_and_not_run(capsys, tmp_path):
    of_50 = {one.run for one in published_results.rows() if "b50" in one.variant}
    for name in ("b50-tasks-of-10", "b50-tasks-of-5", "b50-tasks-of-2"):
        assert any(run.endswith(name) for run in of_50)
    one = row("ssre-paper-b50-tasks-of-5", "linear")
    assert (one.average, one.can_be_run) == (65.0, False)
    assert reproduce.main([one.run, "--folder", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert "50 + 10 x 5" in out and "not run" in out and "cil-jax ssre" not in out
    assert reproduce.main([one.run, "--full"]) == 2
    assert f"{one.run} can't be run: there is no such method or preset" in capsys.readouterr().err
    assert reproduce.main(["dytox-paper", "--reduced"]) == 2


def test_published_values_are_the_published_ones():
    icarl = row("icarl-paper", "nme")
    assert (icarl.average, icarl.last) == (64.1, 49.5)
    assert (row("icarl-pycil", "nme").average, row("icarl-pycil", "nme").last) == (64.42, 49.52)
    by_size = {n: row(f"icarl-paper-tasks-of-{n}", "nme").average for n in (2, 5, 20, 50)}
    assert by_size == {2: 57.0, 5: 61.2, 20: 67.2, 50: 68.6}
    assert row("lwf-lwf-mc", "linear").average == 44.4
    read_off = [(one.run, one.about) for one in published_results.rows() if one.about]
    assert read_off == [("icarl-paper", ("last",)), ("lwf-lwf-mc", ("last",))]
    assert row("joint-paper", "linear").last == 68.6
    assert (row("finetune-pycil", "linear").average, row("finetune-pycil", "linear").last) == (
        26.25,
        9.09,
    )


def test_the_reduced_protocol_is_the_same_recipe_of_time_for_all():
    """One rule for all methods and tasks: the first task is not another recipe."""
    for one in published_results.rows(protocol="reduced"):
        config = published_results.config(one, "reduced", "runs")
        assert (config.backbone, config.epochs, config.rate_steps) == ("resnet8", 10, (0.6, 0.8))
        assert (config.order, config.order_seed, config.brightness) == ("seeded", 1993, 0.0)
        assert config.first_epochs is config.first_rate_steps is config.first_weight_decay is None
        published = preset(one.method, one.preset)
        assert config.weight_decay == published.weight_decay and config.rate == published.rate


def test_the_reduced_protocol_compares_all_methods_with_tasks_of_ten_and_with_fifty_classes_first():
    found = published_results.rows(protocol="reduced")
    by_tasks = {tasks: set() for tasks in ("1 x 100", "10 x 10", "50 + 5 x 10")}
    for one in found:
        by_tasks[published_results.tasks(one)].add(one.method)
        config = published_results.config(one, "reduced", "runs")
        sizes = split(100, config.task_size, config.first_task)
        assert list(sizes) == published_results.task_sizes(one)
    assert by_tasks["1 x 100"] == {"joint"}  # no tasks, and so no second row
    assert by_tasks["10 x 10"] == by_tasks["50 + 5 x 10"] == set(METHODS) - {"joint"}
    assert len({(one.run, one.classifier) for one in found}) == len(found)


def test_a_method_without_a_published_value_of_its_preset_is_shown_with_that_of_another():
    reduced = {one.run: one for one in published_results.rows(protocol="reduced")}
    podnet = reduced["podnet-paper"]
    assert (podnet.average, podnet.last, podnet.source) == (55.22, 36.78, "survey")
    assert podnet.note == "published for pycil"
    slda = reduced["slda-avalanche-b50-tasks-of-10"]
    assert (slda.average, slda.last, slda.source, slda.classifier) == (None, None, "-", "lda")
    cells = tables.reproduction_cells(slda, published_results.Outcome(0), None)
    assert cells[3:5] == ["- / -", "-"]


def test_the_reduced_protocol_is_a_file_of_settings_for_any_method(package):
    file = package / "cil_jax/settings/protocols/reduced.yaml"
    given = {"ncm": False, "out": "runs/reduced/icarl-pycil", "preset": "pycil"}
    laid = command_line.settings("icarl", "paper", given, str(file))
    assert laid == published_results.config(row("icarl-pycil", "nme"), "reduced", "runs")


def test_commands_make_the_very_settings(tmp_path):
    """The command's flags, read as the command reads them, give the row's own configuration."""
    for protocol in published_results.PROTOCOLS:
        for one in filter(lambda one: one.can_be_run, published_results.rows(protocol=protocol)):
            words = published_results.command(one, protocol, "runs").split()
            assert words[:2] == ["cil-jax", one.method]
            parser = command_line.make_parser(one.method, presets(one.method)[0])
            given = vars(parser.parse_args(words[2:]))
            assert given.pop("seeds") == [0]
            assert command_line.settings(one.method, "", given) == published_results.config(
                one, protocol, "runs"
            )


def test_our_values_are_means_over_the_members_that_are_done(tmp_path):
    one = row("icarl-paper", "nme")
    write(tmp_path, one)
    write(tmp_path, one, order=1994, last=0.4)
    unfinished = results(1995)
    unfinished |= {"task_sizes": [10] * 10, "epochs": [70] * 10}
    del unfinished["class_names"]  # of fewer classes
    write(tmp_path, one, order=1995).write_results(unfinished)
    ours = published_results.outcome(one, "full", tmp_path)
    assert ours.n == 2 and ours.orders == ("seeded 1993", "seeded 1994") and ours.others == ()
    assert ours.last == (pytest.approx(45.0), pytest.approx(7.0710678))
    assert ours.average[0] == pytest.approx(100 * (2 + 1.9) / 6)
    assert published_results.outcome(row("lwf-pycil", "linear"), "full", tmp_path).n == 0


def test_a_run_of_other_settings_is_left_out_and_named(tmp_path, capsys):
    one = row("icarl-paper", "nme")
    write(tmp_path, one)
    other = write(tmp_path, one, order=1994, last=0.1, memory=500)
    ours = published_results.outcome(one, "full", tmp_path)
    assert (ours.n, ours.last[0], ours.others) == (1, pytest.approx(50.0), (other.path,))
    assert reproduce.main(["icarl-paper", "--folder", str(tmp_path)]) == 0
    assert f"left out, since its settings differ: {other.path}" in capsys.readouterr().out


def without(classifier, one):
    there = {name: c for name, c in one["classifiers"].items() if name != classifier}
    return {**one, "classifiers": there, "uses_all_data": []}


def test_how_a_run_was_computed_and_what_else_it_reports_does_not_matter(tmp_path):
    """A member counts for the rows whose classifier it has."""
    write(tmp_path, row("icarl-paper", "nme"), fast=True)
    lean = write(tmp_path, row("icarl-paper", "nme"), order=1994, last=0.4, ncm=False)
    lean.write_results(without("ncm", results(1994, last=0.4)))
    ours = published_results.outcome(row("icarl-paper", "nme"), "full", tmp_path)
    assert (ours.n, ours.last[0], ours.others) == (2, pytest.approx(45.0), ())
    ncm = published_results.outcome(row("icarl-paper", "ncm"), "full", tmp_path)
    assert (ncm.n, ncm.last[0], ncm.others) == (1, pytest.approx(50.0), ())
    write(tmp_path, row("lwf-pycil", "linear"), ncm=True)
    assert published_results.outcome(row("lwf-pycil", "linear"), "full", tmp_path).n == 1


def test_a_member_without_the_rows_classifier_is_not_run_for_it(tmp_path):
    lean = write(tmp_path, row("icarl-paper", "ncm"), ncm=False)
    lean.write_results(without("ncm", results()))
    ours = published_results.outcome(row("icarl-paper", "ncm"), "full", tmp_path)
    assert (ours.n, ours.average, ours.others) == (0, None, ())


def test_tasks_of_other_sizes_are_rows_of_the_full_protocol_only(tmp_path, capsys):
    name = "icarl-paper-tasks-of-5"
    one = row(name, "nme")
    assert (
        one not in published_results.rows(protocol="reduced")
        and published_results.tasks(one) == "20 x 5"
    )
    assert published_results.config(one, "full", "x").out == f"x/full/{name}"
    file = tmp_path / "table.md"
    assert reproduce.main([name, "--folder", str(tmp_path), "--markdown", str(file)]) == 0
    out = capsys.readouterr().out
    assert f"--preset paper --task-size 5 --no-ncm --seeds 0 --out {tmp_path}/full/{name}" in out
    assert "reduced" not in out
    assert f"| {name} | 20 x 5 | nme | 61.2 / - | icarl | not run | 0 | - | - |" in file.read_text()
    assert reproduce.main([name, "--reduced"]) == 2
    assert f"--reduced has no row {name}: use --full" in capsys.readouterr().err


def test_fast_reaches_the_runs_of_the_rows(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(reproduce, "run_members", lambda config, *_: asked.append(config))
    for more in ([], ["--fast"]):
        assert reproduce.main(["lwf-pycil", "--full", "--folder", str(tmp_path), *more]) == 0
    assert [config.fast for config in asked] == [False, True]


@pytest.mark.parametrize(
    ("average", "last", "inside"),
    [(64.0, 49.0, True), (63.45, 50.54, True), (63.4, 49.0, False), (64.0, 47.9, False)],
)
def test_a_band_holds_for_both_numbers(average, last, inside):
    ours = published_results.Outcome(1, (average, None), (last, None))
    assert published_results.in_band(row("icarl-paper", "nme"), ours) == inside


def test_without_band_or_run_nothing_is_claimed():
    ours = published_results.Outcome(1, (1.0, None), (1.0, None))
    assert published_results.in_band(row("replay-pycil", "linear"), ours) is None
    assert (
        published_results.in_band(row("icarl-paper", "nme"), published_results.Outcome(0)) is None
    )


def test_the_command_shows_what_is_run_and_what_is_not(tmp_path, capsys):
    for protocol in published_results.PROTOCOLS:
        write(tmp_path, row("icarl-paper", "nme"), protocol)
    write(tmp_path, row("icarl-paper", "nme"), "reduced", order=1994)
    file = tmp_path / "table.md"
    assert reproduce.main(["--folder", str(tmp_path), "--markdown", str(file)]) == 0
    out = capsys.readouterr().out
    assert "not run" in out and "cil-jax icarl --preset paper" in out
    full, reduced = file.read_text().split("Ours: ")[1:][0], file.read_text().split("Ours: ")[2]
    begin = "| icarl-paper | 10 x 10 | nme | 64.1 / about 49.5 | icarl |"
    band = "no (63.5 to 65.5 / 48 to 50.5)"
    assert f"{begin} 66.7 / 50.0 | 1 | seeded 1993 | 0 | +2.6 / +0.5 | {band} |" in full
    orders = "seeded 1993, seeded 1994"
    two = f"66.7 ± 0.0 / 50.0 ± 0.0 | 2 orders | {orders} | 0 | +2.6 / +0.5 | - |"
    assert f"{begin} {two}" in reduced
    assert "| lwf-pycil | 10 x 10 | linear | 43.56 / 23.25 | survey | not run | 0 | - |" in full
    assert "| joint-paper | 1 x 100 | linear |" in full
    for words in ("- icarl: Rebuffi et al.", "- survey: Zhou et al.", "    cil-jax "):
        assert words in full and words.split(":")[0].removeprefix("- ").strip() in out
    assert "--epochs 10" in reduced and "--epochs 10" not in full


@pytest.mark.parametrize(
    "flags",
    [
        *(["--seeds", "0"], ["--orders", "2"], ["--parallel-members", "2"]),
        *(["--data-dir", "x"], ["--accelerator", "cpu"], ["--fast"]),
    ],
)
def test_flags_of_runs_are_refused_where_nothing_is_run(flags, capsys):
    assert reproduce.main(flags) == 2
    assert (
        f"{flags[0]} needs --full or --reduced: without them nothing is run"
        in capsys.readouterr().err
    )


def test_an_unknown_row_is_named(capsys):
    with pytest.raises(UserError, match="unknown row 'icarl-papr': did you mean 'icarl-paper'"):
        published_results.rows(["icarl-papr"])
    assert reproduce.main(["nothing"]) == 2
    assert "unknown row 'nothing'" in capsys.readouterr().err


def unfinished(last=0.5):
    """Results after three of ten tasks."""
    made = results(last=last) | {"task_sizes": [10] * 10, "epochs": [70] * 10}
    del made["class_names"]  # of fewer classes
    return made


def test_a_run_is_recorded_and_counts_unless_there_is_one_of_your_own(tmp_path, recorded, capsys):
    one = row("icarl-paper", "nme")
    found = write(tmp_path / "mine", one)
    found.append({"kind": "evaluation", "task": 2, "n_seen": 30})
    found.append({"kind": "epoch", "task": 3, "epoch": 0, "rate": 1.0, **LOSSES})  # of a next task
    words = [one.run, "--full", "--record", str(found.path)]
    assert reproduce.main(words) == 0 and f"recorded: {recorded}" in capsys.readouterr().out
    copy = RunFolder(recorded / "full/icarl-paper/icarl-seed0")
    assert copy.results() == found.results() and copy.settings() == found.settings()
    assert [line["kind"] for line in copy.measurements()] == ["evaluation"]
    for folder in (None, tmp_path / "empty", tmp_path / "mine"):
        assert published_results.outcome(one, "full", folder).n == 1
    write(tmp_path / "mine", one, order=1994, last=0.4)
    assert published_results.outcome(one, "full", tmp_path / "mine").n == 2
    assert published_results.outcome(one, "reduced", None).n == 0


LOSSES = {"train_loss": 1.0, "test_loss": 1.0, "train_accuracy": 0.5, "test_accuracy": 0.5}


def test_what_is_recorded_must_be_a_run_of_the_row(tmp_path, capsys):
    other = write(tmp_path, row("icarl-paper", "nme"), memory=500)
    assert reproduce.main(["icarl-paper", "--full", "--record", str(other.path)]) == 2
    words = "is not a run of icarl-paper, full protocol: memory is 500, not 2000"
    assert words in capsys.readouterr().err
    for flags in (["--full"], ["icarl-paper"], ["icarl-paper", "lwf-pycil", "--full"]):
        assert reproduce.main([*flags, "--record", str(other.path)]) == 2
        assert "--record needs one row" in capsys.readouterr().err
    assert reproduce.main(["wa-nothing", "--full", "--record", str(other.path)]) == 2
    assert reproduce.main(["podnet-pycil", "--full", "--record", str(other.path)]) == 2
    assert "--full has no row podnet-pycil that can be run" in capsys.readouterr().err


def test_a_run_under_way_is_reported_with_its_tasks(tmp_path, recorded):
    one = row("icarl-pycil", "nme")
    found = write(tmp_path, one)
    found.write_results(unfinished())
    assert reproduce.main([one.run, "--full", "--record", str(found.path)]) == 0
    ours = published_results.outcome(one, "full", None)
    assert (ours.n, ours.learned) == (0, (("seeded 1993, seed 0", 3),))
    assert ours.curve == pytest.approx((90, 60, 50))
    page = results_page.text()
    assert "| running: 3 of 10 tasks (seeded 1993, seed 0) | 0 | - |" in page
    assert (
        "| ours (running: 3 of 10 tasks (seeded 1993, seed 0)) | 90.0 | 60.0 | 50.0 | - |" in page
    )
    assert "| published (survey) | 90.8 | 78.4 | 74.0 |" in page
    found.write_results(results())  # finished elsewhere, it is no longer under way
    ours = published_results.outcome(one, "full", tmp_path)
    assert (ours.n, ours.learned) == (1, ())


def test_the_page_of_results_is_that_of_the_recorded_results(package):
    """If this fails: cil-jax reproduce --markdown"""
    assert (package / "docs/results.md").read_text() == results_page.text()


def test_all_that_is_recorded_is_a_row_with_its_settings(package):
    for name in reference.names():
        protocol, run = name.split("/")
        (one, *_) = published_results.rows([run], protocol)
        ours = published_results.outcome(one, protocol, None)
        assert not ours.others and (ours.n or ours.learned), name


def test_wheels_have_what_is_recorded_and_the_protocols(package):
    patterns = tomllib.loads((package / "pyproject.toml").read_text())
    patterns = patterns["tool"]["setuptools"]["package-data"]["cil_jax"]
    for place in ("report/reference/full/icarl-paper/icarl-seed0/results.json",):
        assert any(fnmatch.fnmatch(place, pattern) for pattern in patterns)
    root = package / "cil_jax"
    for file in [*root.glob("report/reference/**/*"), *root.glob("settings/protocols/*")]:
        name = str(file.relative_to(root))
        assert file.is_dir() or any(fnmatch.fnmatch(name, pattern) for pattern in patterns), name


def test_the_page_is_written_where_it_belongs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert reproduce.main(["--markdown"]) == 2
    assert "can't write docs/results.md: there is no folder docs" in capsys.readouterr().err
    (tmp_path / "docs").mkdir()
    assert reproduce.main(["--markdown"]) == 0
    assert (tmp_path / "docs/results.md").read_text() == results_page.text()
    assert reproduce.main(["--reduced", "--markdown"]) == 2


@pytest.mark.slow
def test_the_reduced_table_over_seeds_is_one_command(tmp_path, monkeypatch, capsys):
    """In tiny: the first row's recipe on digits."""
    tiny = {"dataset": "digits", "task_size": 5, "backbone": "tiny", "epochs": 1, "batch_size": 64}
    monkeypatch.setitem(published_results.PROTOCOLS, "reduced", tiny)
    words = ["finetune-pycil", "--reduced", "--seeds", "0,1,2"]
    assert reproduce.main([*words, "--folder", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    (line,) = [line for line in out.splitlines() if line.strip().startswith("finetune-pycil ")]
    assert "3 seeds" in line and line.count("±") == 2 and "0, 1, 2" in line


@pytest.mark.parametrize("family", published_results.FAMILIES)
def test_runs_of_a_preset_family_differ_in_the_method_alone(family, tmp_path):
    configs = published_results.family_configs(family, [], tmp_path)
    assert len({config.method for config in configs}) > 3
    assert published_results.FAMILIES[family] in {Path(c.folder()).name for c in configs}
    shared = {field.name for field in dataclasses.fields(Config)} - {"method", "preset", "out"}
    for config in configs:
        for name in shared - {"ncm"}:
            assert getattr(config, name) == getattr(configs[0], name), (config.method, name)
    with pytest.raises(UserError, match=f"is not of the preset family {family}"):
        other = {"paper": "wa-pycil", "pycil": "fixed-paper"}[family]
        published_results.family_configs(family, [other], tmp_path)


def test_the_runs_of_a_family_are_compared(tmp_path, monkeypatch, capsys):
    made = []

    def run(config, seeds, orders, n_at_once):
        made.append((config, seeds))
        sizes, matrix = (10,) * 10, [[0.5] * (t + 1) for t in range(10)]
        results = {"method": config.method, "preset": config.preset, "dataset": "cifar100"}
        write_run(config.folder(), config=config, sizes=sizes, matrix=matrix, epochs=1, **results)

    monkeypatch.setattr(reproduce, "run_members", run)
    words = ["wa-pycil", "icarl-pycil", "--full", "--preset-family", "pycil", "--seeds", "0"]
    assert reproduce.main([*words, "--folder", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert {config.method for config, _ in made} == {"wa", "icarl"} and "wa (pycil" in out
    assert {config.epochs for config, _ in made} == {170} and made[0][1] == [0]
    for flags, said in ((["--reduced"], "needs --full"), ([], "needs --full")):
        assert reproduce.main([*flags, "--preset-family", "paper"]) == 2
        assert said in capsys.readouterr().err

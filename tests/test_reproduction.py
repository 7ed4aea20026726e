"""The table of published results: what it claims, and how ours are set beside them."""

import pytest
from conftest import results_of

from cil_jax.errors import UserError
from cil_jax.methods import METHODS
from cil_jax.report import published_results
from cil_jax.settings.loading import preset, presets
from cil_jax.storage.run_folder import RunFolder
from experiments import reproduce


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


def test_every_row_names_a_preset_and_a_classifier_that_there_are():
    for one in published_results.rows():
        assert one.method in METHODS and one.preset in presets(one.method)
        config = published_results.config(one, "full", "runs")
        assert config.backbone == "resnet32" and config.order_seed == 1993
        of_variant = {"": 10, **{f"tasks-of-{n}": n for n in (2, 5, 20, 50)}}
        assert config.task_size == (100 if one.method == "joint" else of_variant[one.variant])
        assert config.epochs == preset(one.method, one.preset).epochs
        assert config.ncm == (one.run == "icarl-paper")
        assert set(one.band) <= {"average", "last"}
        for key, (low, high) in one.band.items():
            assert low <= getattr(one, key) <= high


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


def test_the_reduced_protocol_scales_epochs_and_steps():
    config = published_results.config(row("icarl-pycil", "nme"), "reduced", "runs")
    assert (config.backbone, config.epochs, config.first_epochs) == ("resnet8", 10, None)
    assert config.first_rate_steps == (0.3, 0.6, 0.85) and config.rate_steps == (0.4706, 0.7059)


def test_commands_make_the_very_settings(tmp_path):
    """The command's flags, read as the command reads them, give the row's own configuration."""
    from cil_jax.app import command_line

    for protocol in published_results.PROTOCOLS:
        for one in published_results.rows(protocol=protocol):
            words = published_results.command(one, protocol, "runs").split()
            assert words[:3] == ["python", "-m", f"experiments.{one.method}"]
            parser = command_line.make_parser(one.method, presets(one.method)[0])
            given = vars(parser.parse_args(words[3:]))
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
    assert len(published_results.rows()) == len(published_results.rows(protocol="reduced")) + 4
    file = tmp_path / "table.md"
    assert reproduce.main([name, "--folder", str(tmp_path), "--markdown", str(file)]) == 0
    out = capsys.readouterr().out
    assert f"--preset paper --task-size 5 --no-ncm --seeds 0 --out {tmp_path}/full/{name}" in out
    assert "reduced" not in out
    assert f"| {name} | 20 x 5 | nme | 61.2 / - | icarl | not run | 0 |" in file.read_text()
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
    assert "not run" in out and "python -m experiments.icarl --preset paper" in out
    full, reduced = file.read_text().split("Ours: ")[1:][0], file.read_text().split("Ours: ")[2]
    begin = "| icarl-paper | 10 x 10 | nme | 64.1 / about 49.5 | icarl |"
    assert f"{begin} 66.7 / 50.0 | 1 | 1993 | +2.6 / +0.5 | no |" in full
    two = "66.7 ± 0.0 / 50.0 ± 0.0 | 2 orders | 1993, 1994 | +2.6 / +0.5 | - |"
    assert f"{begin} {two}" in reduced
    assert "| lwf-pycil | 10 x 10 | linear | 43.56 / 23.25 | survey | not run | 0 | - |" in full
    assert "| joint-paper | 1 x 100 | linear |" in full
    for words in ("- icarl: Rebuffi et al.", "- survey: Zhou et al.", "    python -m experiments."):
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

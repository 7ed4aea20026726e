"""Runs beside each other: what is averaged, what is refused, and what the tables say."""

import csv
import json
from dataclasses import fields
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest
from conftest import results_of, small_config, write_run

from cil_jax.commands import compare
from cil_jax.errors import UserError
from cil_jax.report import comparison, figures, published_results, reference
from cil_jax.report.groups import compare as compared
from cil_jax.report.groups import published, published_lines
from cil_jax.settings.config import Config
from cil_jax.storage import replicates
from cil_jax.storage.run_folder import RunFolder

LOW, HIGH = ([[0.9], [0.5, 0.8], [x] * 3] for x in (0.2, 0.4))


def write(folder, method="icarl", order=1993, seed=0, matrix=LOW, changed=None, **settings):
    """A finished run of a method."""
    seeds = {"order": order, "init": seed, "data": seed}
    config = small_config(method, folder, order_seed=order, seed=seed, **settings)
    about = {"method": method, "preset": config.preset, "order": f"seeded {order}"}
    about["changed"] = changed or {}
    return write_run(folder, config=config, matrix=matrix, seeds=seeds, **about)


def names(found):
    return [(group.name, group.summary["n"]) for group in found.groups]


def test_runs_that_differ_in_their_seeds_are_one_group(tmp_path):
    for order, matrix in ((1993, LOW), (1994, HIGH)):
        write(tmp_path / f"icarl{order}", order=order, matrix=matrix)
        write(tmp_path / f"lwf{order}", "lwf", order=order, matrix=matrix)
    (found,) = compared(sorted(tmp_path.iterdir()))
    assert names(found) == [("icarl (paper)", 2), ("lwf (li-hoiem)", 2)]
    last = found.groups[0].summary["classifiers"]["nme"]["last_accuracy"]
    assert last["mean"] == pytest.approx(0.3) and last["std"] == pytest.approx(np.sqrt(0.02))
    assert found.seen == [2, 4, 5] and not found.left_out


def test_each_file_of_a_run_is_parsed_once(tmp_path, monkeypatch):
    for order in (1993, 1994):
        write(tmp_path / f"icarl{order}", order=order)
    parsed = []

    def counted(read):
        return lambda folder: parsed.append((folder.path.name, read.__name__)) or read(folder)

    for read in (RunFolder.results, RunFolder.settings):
        monkeypatch.setattr(RunFolder, read.__name__, counted(read))
    compared(sorted(tmp_path.iterdir()), common_orders=False)
    expected = [
        (f"icarl{order}", name) for order in (1993, 1994) for name in ("results", "settings")
    ]
    assert sorted(parsed) == expected


def test_other_settings_are_another_group_and_say_which(tmp_path):
    for name, settings in (("a", {}), ("b", {"memory": 30}), ("c", {"seed": 3})):
        write(tmp_path / name, **settings)
    assert names(compared(sorted(tmp_path.iterdir()))[0]) == [
        ("icarl (paper), memory 20", 2),
        ("icarl (paper), memory 30", 1),
    ]


def test_a_lone_group_names_what_was_changed_of_its_preset(tmp_path):
    for name, changed in (("a", {"selection": "random"}), ("b", {})):
        write(tmp_path / name, changed=changed, **changed)
    (group,) = compared([tmp_path / "a"])[0].groups
    assert group.name == "icarl (paper, with selection random)"
    (found,) = compared([tmp_path / "a", tmp_path / "b"])
    assert names(found) == [(group.name, 1), ("icarl (paper)", 1)]
    for text in (comparison.as_markdown([found]), comparison.as_csv([found])):
        assert group.name in text


def test_what_is_no_finished_run_is_left_out_and_named(tmp_path, capsys):
    for name in ("done", "copy"):
        write(tmp_path / name)
    (tmp_path / "notes").mkdir()
    write(tmp_path / "broken").results_file.write_text('{"method": ')
    write(tmp_path / "begun").results_file.unlink()
    write(tmp_path / "half", matrix=LOW[:2])
    assert compare.main([str(tmp_path / "*"), "--page", str(tmp_path / "page.html")]) == 0
    out = capsys.readouterr().out
    for said in (
        "begun has no results yet",
        "notes holds no run",
        "broken results.json is damaged: Expecting value",
        "half has learned 2 of 3 tasks",
        f"done has the same settings, class order and seeds as {tmp_path / 'copy'}",
    ):
        assert f"left out: {tmp_path}/{said}" in out
    assert "notes holds no run" in (tmp_path / "page.html").read_text()
    assert compare.main([str(tmp_path / "notes")]) == 2
    assert capsys.readouterr().err.count("holds no run") == 1
    assert compare.main([str(tmp_path / "nothing")]) == 2
    assert f"{tmp_path}/nothing does not exist" in capsys.readouterr().err


def test_a_folder_of_members_is_its_members_and_a_lone_summary_itself(tmp_path):
    for seed in (0, 1):
        write(tmp_path / "group" / f"seed{seed}", seed=seed)
    (tmp_path / "bare").mkdir()
    replicates.write_summary(tmp_path / "bare", replicates.summarize([results_of(), results_of()]))
    (found,) = compared([tmp_path / "group", tmp_path / "group" / "seed1", tmp_path / "bare"])
    assert [group.summary["n"] for group in found.groups] == [2, 2]
    assert [path.name for path, _ in found.left_out] == ["seed1"]


@pytest.mark.parametrize(
    ("other", "words"),
    [
        ({"order": "seeded 7"}, "order seeded 7"),
        ({"sizes": (3, 1, 1)}, "3 tasks of 3 and 2 x 1 classes"),
        ({"sizes": (1, 2, 2)}, "3 tasks of 1 and 2 x 2 classes"),
        ({"dataset": "cifar100"}, "cifar100, 3 tasks"),
        ({"data_sha256": "f" * 64}, "digits, 3 tasks"),
        ({"validation": 0.1}, "digits, tested on 10.0% of the training images"),
    ],
    ids=str,
)
def test_each_protocol_has_a_table_a_section_and_a_figure(tmp_path, capsys, other, words):
    """That of two runs comes first."""
    same = {"data_sha256": "0" * 64}
    write_run(tmp_path / "one", **same)
    write_run(tmp_path / "three", config=small_config("icarl", "", rate=1.0), **same)
    lwf = small_config("lwf", "")
    other = {"data_sha256": "1" * 64, **other} if "validation" in other else other
    write_run(tmp_path / "two", config=lwf, **{**same, "method": "lwf", "preset": "", **other})
    runs = [str(tmp_path / name) for name in ("two", "one", "three")]
    first, second = compared(runs)
    assert (len(first.groups), len(second.groups)) == (2, 1) and words in second.protocol
    page, figure, table = (str(tmp_path / name) for name in ("p.html", "f.svg", "t.md"))
    made = ["--page", page, "--figure", figure, "--markdown", table]
    assert compare.main([*runs, *made]) == 0
    said = capsys.readouterr().out
    assert said.count("accuracy in percent") == 2
    assert ("--common-orders compares" in said) == ("order" in other)
    text = Path(page).read_text()
    assert 'id="figure-accuracy"' in text and 'id="figure-accuracy-2"' in text
    assert "<svg" in Path(figure).read_text() and (tmp_path / "f-2.svg").exists()
    assert Path(table).read_text().count("Accuracy in percent") == 2


def test_runs_that_go_on_are_compared_after_as_many_tasks_only(tmp_path):
    for name, n in (("one", 2), ("two", 1)):
        write(tmp_path / name, "icarl" if n == 2 else "lwf", matrix=LOW[:n])
    found = compared([tmp_path / "one", tmp_path / "two"])
    assert [one.seen for one in found] == [[2, 4], [2]]


def test_runs_on_other_data_are_not_averaged(tmp_path):
    write_run(tmp_path / "one", data_sha256="0" * 64)
    write_run(tmp_path / "two", data_sha256="1" * 64, seeds={"order": 1993, "init": 1, "data": 1})
    found = compared([tmp_path / "one", tmp_path / "two"])
    assert [one.groups[0].summary["n"] for one in found] == [1, 1]


def test_a_sentence_names_the_settings_in_which_runs_of_other_methods_differ(tmp_path):
    """Those of one method alone, such as its memory, are its own; so are other runs of it."""
    write_run(tmp_path / "one", config=small_config("icarl", "", rate=2.0, epochs=2))
    write_run(tmp_path / "two", config=small_config("icarl", "", rate=1.0, epochs=2))
    (found,) = compared([tmp_path / "one", tmp_path / "two"])
    assert comparison.differing(found) == ""
    settings = {f.name: getattr(small_config("icarl", ""), f.name) for f in fields(Config)}
    for name in ("method", "preset", "out"):
        del settings[name]
    lwf = small_config("lwf", "", **{**settings, "rate": 0.5, "last_relu": True})
    write_run(tmp_path / "three", config=lwf, method="lwf")
    (found,) = compared([tmp_path / "one", tmp_path / "three"])
    assert comparison.differing(found) == (
        "These runs differ in more than their method: last-relu False (icarl), True (lwf); "
        "rate 2.0 (icarl), 0.5 (lwf)"
    )
    # Where a method has runs of two presets, its name alone would say both.
    pycil = small_config("icarl", "", preset="pycil", rate=0.5, last_relu=True)
    write_run(tmp_path / "four", config=pycil, preset="pycil")
    (found,) = compared([tmp_path / "one", tmp_path / "three", tmp_path / "four"])
    assert comparison.differing(found) == (
        "These runs differ in more than their method: "
        "last-relu False (icarl/paper), True (lwf, icarl/pycil); "
        "rate 2.0 (icarl/paper), 0.5 (lwf, icarl/pycil)"
    )


def test_common_orders_leave_out_the_others(tmp_path):
    for order in (1993, 1994):
        write(tmp_path / f"icarl{order}", order=order)
    write(tmp_path / "lwf", "lwf", order=1994)
    (found,) = compared(sorted(tmp_path.iterdir()), common_orders=True)
    assert names(found) == [("icarl (paper)", 1), ("lwf (li-hoiem)", 1)]
    assert [path.name for path, _ in found.left_out] == ["icarl1993"]
    assert found.groups[0].summary["orders"] == ["seeded 1994"]


@pytest.fixture
def two(tmp_path):
    """Two methods, one of them with two orders."""
    for order, matrix in ((1993, LOW), (1994, HIGH)):
        write(tmp_path / "runs" / f"icarl{order}", order=order, matrix=matrix)
        write(tmp_path / "runs" / f"lwf{order}", "lwf", order=order, matrix=HIGH)
    return tmp_path


def test_all_four_tables_have_the_same_numbers(two, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "160")
    files = {kind: two / f"table.{kind}" for kind in ("csv", "latex", "markdown")}
    flags = [word for kind, file in files.items() for word in (f"--{kind}", str(file))]
    assert compare.main([str(two / "runs" / "*"), *flags]) == 0
    text = capsys.readouterr().out
    markdown, latex = files["markdown"].read_text(), files["latex"].read_text()
    for table in (text, markdown):
        assert "30.0 ± 14.1" in table and "40.0 ± 0.0" in table and "nme (method's own)" in table
    assert r"30.0 $\pm$ 14.1" in latex and r"\toprule" in latex and "±" not in latex
    rows = list(csv.DictReader(files["csv"].read_text().splitlines()))
    (icarl,) = [r for r in rows if r["method"] == "icarl" and r["own"] == "yes"]
    assert icarl["last_accuracy_mean"] == "30.0000" and icarl["last_accuracy_std"] == "14.1421"
    assert (icarl["n"], icarl["orders"]) == ("2", "seeded 1993; seeded 1994")
    assert len(rows) == 6 and all(
        protocol in text for protocol in ("digits", "3 tasks of 2 x 2 and 1")
    )


def test_what_latex_and_markdown_take_for_signs_is_escaped(two):
    (found,) = compared([two / "runs" / "lwf1993"])
    summary = {**found.groups[0].summary, "backbone": r"my_net & 50% \ {|}"}
    group = type(found.groups[0])("a|b_c #1", summary, {}, None, ())
    odd = type(found)((group,), ())
    latex, markdown = comparison.as_latex([odd]), comparison.as_markdown([odd])
    assert r"my\_net \& 50\% \textbackslash{} \{|\}" in latex and r"a|b\_c \#1 &" in latex
    assert r"| a\|b\_c #1 |" in markdown and r"{\|}" in markdown


def full_run(folder, method, preset, **others):
    """A run of the full protocol on CIFAR-100, without a run."""
    row = next(r for r in published_results.rows() if (r.method, r.preset) == (method, preset))
    config = published_results.config(row, "full", "", **others)
    matrix = [[0.5] * (t + 1) for t in range(10)]
    about = {"method": method, "preset": preset, "dataset": "cifar100", "headline": row.classifier}
    return write_run(folder, epochs=1, config=config, sizes=(10,) * 10, matrix=matrix, **about)


def test_published_values_stand_beside_runs_of_the_same_protocol_only(tmp_path):
    full_run(tmp_path / "same", "icarl", "pycil")
    full_run(tmp_path / "paper", "icarl", "paper", seed=3, ncm=False)
    full_run(tmp_path / "short", "icarl", "pycil", epochs=3)
    full_run(tmp_path / "small", "lwf", "lwf-mc", backbone="resnet8")
    (found,) = compared(sorted(tmp_path.iterdir()))
    by_name = {group.folders[0].name: group for group in found.groups}
    assert [r.classifier for r in published(by_name["same"])] == ["nme"]
    assert not published(by_name["short"]) and not published(by_name["small"])
    ((label, x, y),) = published_lines(by_name["same"], found.seen)  # a curve is published
    assert "survey" in label and x == found.seen and (y[0], y[-1]) == (90.8, 49.52)
    average, last = published_lines(by_name["paper"], found.seen)
    assert "published average 64.1 (icarl)" in average[0] and set(average[2]) == {64.1}
    assert last[1:] == ([90, 100], [49.5, 49.5])
    text = comparison.as_markdown([found])
    assert (
        "64.42 / 49.52 (survey; the source names none)" in text
        and "- published, survey: Zhou et al." in text
    )
    assert text.count("(survey") == 1
    rows = csv.DictReader(comparison.as_csv([found]).splitlines())
    theirs = {(r["run"], r["classifier"]): r["published_last"] for r in rows}
    assert {key for key, last in theirs.items() if last} == {
        ("icarl (paper)", "nme"),
        (by_name["same"].name, "nme"),
    }


def test_recorded_results_are_compared_by_name(tmp_path, monkeypatch):
    monkeypatch.setattr(reference, "FOLDER", tmp_path / "reference")
    with pytest.raises(UserError, match="no reference results 'full/icarl-pycil'; nothing is"):
        compared(["reference:full/icarl-pycil"])
    full_run(tmp_path / "reference/full/icarl-pycil/order1993-seed0", "icarl", "pycil")
    full_run(tmp_path / "mine", "lwf", "pycil")
    (found,) = compared(["reference:full/icarl-pycil", tmp_path / "mine"])
    assert names(found) == [("icarl (pycil)", 1), ("lwf (pycil)", 1)]
    with pytest.raises(UserError, match="no reference results 'full/icarl': did you mean"):
        compared(["reference:full/icarl"])


def test_the_figure_shows_means_bands_and_what_is_published(two, tmp_path):
    (found,) = compared(sorted((two / "runs").iterdir()))
    runs = {group.name: group.summary for group in found.groups}
    lines = {"icarl (paper)": [("published", [2, 4, 5], [60.0, 60.0, 60.0])]}
    axes = figures.seen_accuracy_of_groups(runs, lines).axes[0]
    np.testing.assert_allclose(axes.get_lines()[0].get_ydata(), [90, 65, 30])
    assert axes.get_lines()[1].get_linestyle() == "--" and len(axes.collections) == 2
    legend = axes.get_legend()
    assert "n = 2 orders" in legend.texts[0].get_text()
    assert "including the first task" in legend.get_title().get_text()
    # All have one network and as many epochs, and exemplars as well: `write` says so of LwF too.
    title = axes.get_title(loc="left")
    assert "digits" in title and "resnet8, 7, then 5 epochs per task, 20 exemplars" in title
    *_, second = runs
    runs[second] = {**runs[second], "exemplars": 0}
    axes = figures.seen_accuracy_of_groups(runs).axes[0]
    assert "exemplars" not in axes.get_title(loc="left")
    said = [text.get_text() for text in axes.get_legend().texts]
    assert "20 exemplars" in said[0] and "exemplars" not in said[1]
    assert compare.main([str(two / "runs" / "*"), "--figure", str(tmp_path / "f.png")]) == 0
    assert matplotlib.image.imread(tmp_path / "f.png").shape[0] > 200
    assert compare.main([str(two / "runs" / "*"), "--figure", str(tmp_path / "f.xyz")]) == 2


def test_the_page_has_its_curves_its_settings_and_its_command(two):
    file = two / "page.html"
    assert compare.main([str(two / "runs" / "*"), "--page", str(file)]) == 0
    page = file.read_text()
    (data,) = json.loads(page.split('id="data">')[1].split("</script>")[0])
    curve = data["groups"][0]["curves"]["all classes seen"]
    assert curve == {"mean": [90.0, 65.0, 30.0], "std": [0.0, 0.0, 14.142136]}
    ends = {name: line["mean"][-1] for name, line in data["groups"][0]["curves"].items()}
    # The last row of the matrix is 20% throughout for one order and 40% for the other.
    assert ends == {
        **{"all classes seen": 30.0, "old classes": 30.0, "new classes": 30.0},
        "all classes seen, task-aware": 95.0,
    }
    second = {name: line["mean"][1] for name, line in data["groups"][0]["curves"].items()}
    assert (second["old classes"], second["new classes"]) == (50.0, 80.0)
    for word in ("icarl (paper)", "cil-jax compare", "n = 2 orders"):
        assert word in page
    assert "<td>method</td><td>icarl</td><td>lwf</td>" in page


def test_a_file_that_cannot_be_written_is_said(two, capsys):
    for kind in ("csv", "page"):
        assert compare.main([str(two / "runs" / "*"), f"--{kind}", str(two / "no" / "x")]) == 2
        assert f"can't write {two}/no/x" in capsys.readouterr().err

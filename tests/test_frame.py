"""Runs as a table of pandas."""

import math
import sys

import pytest
from conftest import write_run

import cil_jax
from cil_jax.errors import MissingExtra, UserError


def test_a_row_has_the_numbers_of_a_run_a_task_and_a_classifier(tmp_path):
    pytest.importorskip("pandas")
    write_run(tmp_path / "a")
    write_run(tmp_path / "b", method="lwf", seeds={"order": 1993, "init": 5, "data": 0})
    table = cil_jax.frame([tmp_path / "a", tmp_path / "b"])
    assert len(table) == 2 * 3 * 3  # runs, classifiers, tasks
    rows = table[(table.method == "lwf") & (table.classifier == "nme")]
    assert rows.task.tolist() == [1, 2, 3] and rows.n_seen.tolist() == [2, 4, 5]
    assert set(rows.seed) == {5} and rows.is_headline.all()
    # The matrix of `results_of`: 0.9; 0.5, 0.8; 0.2, 0.4, 0.7, in tasks of 2, 2 and 1 classes.
    assert rows.seen_accuracy.tolist() == pytest.approx([0.9, 0.65, 0.38])
    assert rows.average_accuracy.tolist() == pytest.approx([0.9, 0.775, (0.9 + 0.65 + 0.38) / 3])
    assert rows.new_accuracy.tolist() == pytest.approx([0.9, 0.8, 0.7])
    assert math.isnan(rows.old_accuracy.iloc[0]) and math.isnan(rows.top5_accuracy.iloc[0])
    one = cil_jax.frame(str(tmp_path / "*"))  # a pattern
    assert len(one) == len(table)


def test_it_says_what_is_missing(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(MissingExtra, match=r"cil_jax\[frame\]"):
        cil_jax.frame(tmp_path)
    monkeypatch.setitem(sys.modules, "pandas", sys)
    with pytest.raises(UserError, match="no results in"):
        cil_jax.frame(tmp_path)

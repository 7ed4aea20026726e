"""The notebook runs from top to bottom, made small: fewer digits, and a tiny network."""

import contextlib
import io
import json
from pathlib import Path

import pytest

FILE = Path(__file__).parents[1] / "notebooks/class_incremental_learning.ipynb"
NOTEBOOK = json.loads(FILE.read_text())
SETTINGS = 'task_size=2, backbone="resnet8", epochs=5, batch_size=32'
SMALL = 'task_size=2, classes=4, backbone="tiny", epochs=1, batch_size=32'


def code_cells():
    return ["".join(c["source"]) for c in NOTEBOOK["cells"] if c["cell_type"] == "code"]


def test_it_is_clean():
    """It has no outputs, which would differ each time, and opens in older versions of Jupyter."""
    assert (NOTEBOOK["nbformat"], NOTEBOOK["metadata"]["kernelspec"]["name"]) == (4, "python3")
    for cell in NOTEBOOK["cells"]:
        if cell["cell_type"] == "code":
            assert cell["outputs"] == [] and cell["execution_count"] is None


@pytest.mark.slow
def test_its_cells_run_and_show_what_they_say(tmp_path, monkeypatch):
    pytest.importorskip("pandas")
    import matplotlib as mpl

    mpl.use("agg")
    monkeypatch.chdir(tmp_path)
    cells = code_cells()
    assert sum(SETTINGS in cell for cell in cells) == 1
    names, shown = {"__name__": "__main__"}, io.StringIO()
    with contextlib.redirect_stdout(shown):
        for cell in cells:
            exec(compile(cell.replace(SETTINGS, SMALL), str(FILE), "exec"), names)
    assert shown.getvalue().count("run folder: ") == 2  # of the runs with progress
    assert "task 2/2  epoch 1/1" in shown.getvalue()
    assert set(names["table"].method) == {"finetune", "icarl"}
    assert list(names["wide"].columns) == ["finetune", "icarl"] and len(names["wide"]) == 2
    assert len(names["answers"].names) == 8
    assert repr(names["answers"]) == "Answers(8 images, 4 classes, by nme)"
    taught = names["learner"]
    assert repr(taught).startswith("SavedLearner(7 classes, Config(method='icarl'")
    assert taught.class_names[4:] == ("A", "B", "C")
    assert (tmp_path / "runs/anchored/results.json").exists()
    mpl.pyplot.close("all")

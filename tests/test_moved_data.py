"""Data sets that lie elsewhere than when a run began; a whole run is in test_own_data."""

import dataclasses

import pytest
from conftest import small_config, write_run

from cil_jax.app import launch
from cil_jax.errors import UserError
from cil_jax.storage import replicates
from cil_jax.storage.run_folder import RunFolder


@pytest.mark.parametrize(
    ("before", "after", "is_refused"),
    [
        ("npz:/a/x.npz", "npz:/b/y.npz", False),
        ("folder:/a/x", "folder:/b", False),
        ("tfds:x", "tfds:x:one", False),
        ("npz:/a/x.npz", "folder:/a/x.npz", True),
        ("folder:/a", "tfds:a", True),
        ("digits", "cifar100", True),
        ("digits", "npz:/a/digits.npz", True),
    ],
)
def test_only_the_place_of_data_may_change(tmp_path, before, after, is_refused):
    config = small_config("icarl", tmp_path, dataset=before)
    folder = RunFolder(tmp_path)
    folder.start(config)
    resumed = dataclasses.replace(config, resume=True, dataset=after)
    if not is_refused:
        folder.check(resumed)
    with pytest.raises(UserError) as error:
        folder.check(dataclasses.replace(resumed, epochs=9))
    said = f"dataset was {before}, is now {after}; " if is_refused else ""
    assert str(error.value) == (
        f"{tmp_path} holds a run of other settings: {said}epochs was 2, is now 9"
    )
    assert folder.settings()["dataset"] == before  # until the data proves to be the same


def test_members_that_are_done_are_checked_against_the_moved_data(tmp_path, monkeypatch, capsys):
    """They are resumed, which compares the data and has nothing to train."""
    config = small_config("icarl", tmp_path, dataset="npz:/a/x.npz")
    (member,) = replicates.member_configs(config, [0], 1)
    write_run(member.folder(), config=member)
    resumed = []

    def run_together(configs, *_):
        resumed.extend(configs)
        for one in configs:
            RunFolder(one.folder()).follow(one)

    monkeypatch.setattr(launch, "_run_together", run_together)
    monkeypatch.setattr(launch, "_draw", lambda _: None)
    moved = dataclasses.replace(config, dataset="npz:/b/x.npz")
    assert launch.run_members(moved, [0], 1)["n"] == 1
    assert [(one.dataset, one.resume) for one in resumed] == [("npz:/b/x.npz", True)]
    assert launch.run_members(moved, [0], 1)["n"] == 1  # it is known to be the same data now
    assert len(resumed) == 1 and "order1993-seed0 is done" in capsys.readouterr().out

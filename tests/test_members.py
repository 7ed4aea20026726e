"""Several runs of one method: which there are, that none is run twice, and what they come to."""

import json
import shutil

import numpy as np
import pytest
from conftest import results_of, small_config

from cil_jax.app import command_line, launch
from cil_jax.errors import UserError
from cil_jax.report import tables
from cil_jax.storage import replicates
from cil_jax.storage.run_folder import RunFolder


def test_members_are_every_order_with_every_seed(tmp_path):
    config = small_config("finetune", tmp_path, order_seed=5)
    found = replicates.member_configs(config, [0, 3], 2)
    assert [(m.order_seed, m.seed) for m in found] == [(5, 0), (5, 3), (6, 0), (6, 3)]
    assert [m.out for m in found][:2] == [
        str(tmp_path / "order5-seed0"),
        str(tmp_path / "order5-seed3"),
    ]
    assert [m.seed for m in replicates.member_configs(config, None, 3)] == [0] * 3
    with pytest.raises(UserError, match="--orders 2 needs --order seeded"):
        replicates.member_configs(small_config("finetune", tmp_path, order="natural"), None, 2)
    with pytest.raises(UserError, match="--orders is 0"):
        replicates.member_configs(config, None, 0)


def test_mean_and_sample_standard_deviation_are_those_worked_out_by_hand():
    assert replicates.mean_and_std([1.0, 2.0, 4.0])["mean"] == pytest.approx(7 / 3)
    assert replicates.mean_and_std([1.0, 2.0, 4.0])["std"] == pytest.approx(np.sqrt(7 / 3))
    assert replicates.mean_and_std([0.5]) == {"mean": 0.5, "std": None, "values": [0.5]}
    assert replicates.mean_and_std([None, 1.0])["mean"] is None
    curve = replicates.mean_and_std([[None, 0.2], [None, 0.4]])
    assert curve["mean"] == [None, pytest.approx(0.3)] and curve["values"][1] == [0.2, 0.4]


@pytest.fixture(scope="module")
def group(tmp_path_factory):
    config = small_config("finetune", tmp_path_factory.mktemp("group") / "runs", epochs=1)
    return config, launch.run_members(config, [0, 1], 1)


def test_a_summary_is_made_of_the_members_results(group):
    config, summary = group
    folder = replicates.group_folder(config)
    written = json.loads((folder / replicates.SUMMARY).read_text())
    assert written == json.loads(json.dumps(summary)) and summary["n"] == 2
    results = [RunFolder(folder / f"order1993-seed{s}").results() for s in (0, 1)]
    last = [r["classifiers"]["linear"]["last_accuracy"] for r in results]
    one = summary["classifiers"]["linear"]["last_accuracy"]
    assert one["values"] == last and one["mean"] == pytest.approx(np.mean(last))
    assert one["std"] == pytest.approx(np.std(last, ddof=1))
    assert results[0]["classifiers"] != results[1]["classifiers"]


def test_what_is_done_is_not_run_again_and_what_is_missing_is(group, capsys, monkeypatch):
    config, _ = group
    folder = replicates.group_folder(config)
    before = {s: (folder / f"order1993-seed{s}/results.json").stat().st_mtime_ns for s in (0, 1)}
    capsys.readouterr()
    summary = launch.run_members(config, [0, 1, 2], 1)
    out = capsys.readouterr().out.replace("\n", " ")
    assert "order1993-seed0 is done" in out and "order1993-seed1 is done" in out
    assert "member 3 of 3" in out and "order1993-seed2 is done" not in out
    after = {s: (folder / f"order1993-seed{s}/results.json").stat().st_mtime_ns for s in (0, 1)}
    assert after == before and summary["n"] == 3
    assert "n = 3" in out and "±" in out


def test_an_interrupted_member_goes_on(group, tmp_path):
    """A member that stopped after its first task ends as one that did not stop."""
    import cil_jax
    from cil_jax.training.callbacks import Callback

    _, summary = group

    class Stop(Callback):
        def task_done(self, run, line):
            raise InterruptedError

    again = small_config("finetune", tmp_path / "runs", epochs=1)
    (member,) = replicates.member_configs(again, [1], 1)
    with pytest.raises(InterruptedError):
        cil_jax.run(member, Stop())
    assert not replicates.is_complete(RunFolder(member.folder()))
    resumed = launch.run_members(again, [1], 1)
    values = resumed["classifiers"]["linear"]["last_accuracy"]["values"]
    assert values == summary["classifiers"]["linear"]["last_accuracy"]["values"][1:]


def test_figures_that_a_kill_kept_from_being_drawn_are_drawn(group):
    config, _ = group
    folder = RunFolder(replicates.group_folder(config) / "order1993-seed1")
    figure = folder.figures / "curves.png"  # the last
    figure.unlink()
    results = folder.results_file.stat().st_mtime_ns
    launch.run_members(config, [0, 1], 1)
    assert figure.exists() and folder.results_file.stat().st_mtime_ns == results


def test_a_member_of_other_settings_is_refused(group):
    config, _ = group
    other = small_config("finetune", config.out, epochs=3)
    with pytest.raises(UserError, match="epochs was 1, is now 3"):
        launch.run_members(other, [0], 1)


def test_what_is_done_is_done_however_it_was_computed(group, capsys):
    """With --fast or without, and with a classifier more than is asked for; not with one less."""
    config, _ = group
    for others in ({"fast": True}, {"ncm": False}):
        other = small_config("finetune", config.out, epochs=1, **others)
        capsys.readouterr()
        assert launch.run_members(other, [0, 1], 1)["n"] >= 2
        assert "order1993-seed1 is done" in capsys.readouterr().out.replace("\n", " ")
    folder = RunFolder(replicates.member_configs(config, [7], 1)[0].folder())
    folder.start(small_config("finetune", folder.path, epochs=1, seed=7, ncm=False))
    folder.write_results(results_of())
    with pytest.raises(UserError, match="ncm was False, is now True"):
        launch.run_members(config, [7], 1)
    shutil.rmtree(folder.path)


def test_a_summary_is_of_the_classifiers_that_all_members_have():
    all_of_them = results_of()
    lean = results_of(seeds={"order": 1993, "init": 1, "data": 1})
    del lean["classifiers"]["ncm"]
    for both in ([all_of_them, lean], [lean, all_of_them]):
        assert list(replicates.summarize(both)["classifiers"]) == ["nme", "linear"]
    assert "ncm" in replicates.summarize([all_of_them])["classifiers"]


def test_the_seconds_of_a_member_are_those_of_all_its_work():
    times = ({"train": 4.0, "end_task": 1.0, "evaluate": 2.0}, {"train": 8.0, "evaluate": 1.0})
    seconds = replicates.summarize([results_of(seconds=one) for one in times])["seconds"]
    assert (seconds["mean"], seconds["values"]) == (8.0, [7.0, 9.0])


def test_the_deviation_is_that_of_orders_each_with_the_mean_of_its_seeds():
    def member(order, seed, last):
        return results_of(
            matrix=((0.9,), (0.5, 0.8), (last,) * 3),
            order=f"seeded {order}",
            seeds={"order": order, "init": seed, "data": seed},
        )

    seeds = [member(1993, seed, last) for seed, last in enumerate((0.1, 0.2, 0.6))]
    one = replicates.summarize(seeds)
    last = one["classifiers"]["nme"]["last_accuracy"]
    assert (one["over"], one["n"]) == ("seeds", 3)
    assert last["values"] == pytest.approx([0.1, 0.2, 0.6])
    two = replicates.summarize([*seeds, member(1994, 0, 0.5)])
    last = two["classifiers"]["nme"]["last_accuracy"]
    assert (two["over"], two["n"], len(two["members"])) == ("orders", 2, 4)
    assert last["values"] == pytest.approx([0.3, 0.5]) and last["mean"] == pytest.approx(0.4)
    seen = two["classifiers"]["nme"]["seen_accuracy"]
    assert seen["mean"] == pytest.approx([0.9, 0.65, 0.4])
    assert tables.sample(one) == "n = 3 seeds" and tables.sample(two) == "n = 2 orders (4 runs)"


def test_a_summary_holds_the_members_of_earlier_calls(group):
    config, _ = group
    before = {
        s["init"] for s in replicates.summarize(replicates.finished_results(config)[0])["members"]
    }
    assert before >= {0, 1}
    summary = launch.run_members(config, [1], 1)
    assert {s["init"] for s in summary["members"]} == before


def test_a_single_run_is_no_group(group):
    config, _ = group
    single = small_config("finetune", f"{config.out}/order1993-seed0")
    with pytest.raises(UserError, match="holds a single run"):
        replicates.member_configs(single, [0], None)


def test_a_seed_said_twice_is_one_member():
    parser = command_line.make_parser("finetune", "pycil")
    assert parser.parse_args(["--seeds", "0,1,0"]).seeds == [0, 1]

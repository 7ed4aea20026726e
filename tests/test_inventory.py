"""What methods keep, and the list of them."""

from cil_jax.app import command_line
from cil_jax.settings import code
from cil_jax.settings.loading import preset
from cil_jax.training.build import Room
from cil_jax.training.inventory import inventory

SHAPE, ROOM = (8, 8, 1), Room(n_classes=6, n_tasks=3, task_room=2)
HEAD = 8 * 6 + 6  # weights and biases of the tiny network's head


def kept(method, name, **settings):
    return inventory(preset(method, name, backbone="tiny", **settings), SHAPE, ROOM)


def test_exemplars_means_and_the_previous_network_are_found_and_measured():
    icarl = kept("icarl", "paper", memory=12, mirror="no", pad=0)
    assert (icarl.n_exemplars, icarl.has_means, icarl.has_teacher) == (12, True, True)
    assert icarl.words() == [
        *("12 exemplars", "class means of the exemplars", "the previous network")
    ]
    sizes = icarl.n_bytes
    assert (sizes["exemplars"], sizes["means"], sizes["own"]) == (12 * 64, 4 * 6 * 8, 0)
    assert sizes["network"] == sizes["teacher"] > 4 * HEAD
    # Without distillation, nothing reads the previous network, though the learner has it.
    hybrid = kept("icarl", "hybrid2", memory=12, mirror="no", pad=0)
    assert not hybrid.has_teacher and hybrid.n_bytes["teacher"] == 0


def test_what_is_stored_beside_an_exemplar_counts():
    derpp = kept("derpp", "paper", memory=10, mirror="no", pad=0)
    assert set(derpp.extras) == {"logits", "n_open"} and not derpp.has_means
    assert derpp.n_bytes["exemplars"] == 10 * (64 + 4 * 6 + 4)


def test_networks_statistics_and_all_data_are_named():
    der = kept("der", "pycil", memory=12, mirror="no", pad=0)
    assert der.n_networks == 3 and "3 networks" in der.words()
    memo = kept("memo", "pycil", memory=12, mirror="no", pad=0)
    assert "a network with 3 last stages" in memo.words()
    ewc = kept("ewc", "pycil", mirror="no", pad=0)
    n_parameters = ewc.n_bytes["own"] // 2  # bytes of the trained weights, which it keeps twice
    assert ewc.words() == ["statistics: anchor, importance"]
    assert n_parameters < ewc.n_bytes["network"] < 2 * n_parameters
    assert kept("joint", "paper", mirror="no", pad=0).words() == ["all training images"]
    assert kept("finetune", "seed", mirror="no", pad=0).words() == ["nothing but the network"]


def list_of(capsys, *flags):
    ended = command_line.run_any_method("About.", flags)
    return ended, *capsys.readouterr()


def test_the_list_names_each_method_with_its_presets_and_what_it_keeps(monkeypatch, capsys):
    monkeypatch.setattr(code.Registry, "__iter__", lambda _: iter(["lwf", "finetune"]))
    ended, out, _ = list_of(capsys, "--list")
    lines = [" ".join(line.split()) for line in out.splitlines()]
    assert ended == 0 and len(lines) == 6
    assert lines[0].startswith("lwf Learning without Forgetting (Li and Hoiem 2016")
    assert lines[1:3] == ["presets: li-hoiem, lwf-mc, pycil", "keeps (pycil): the previous network"]
    assert lines[5] == "keeps (seed): nothing but the network"


def test_the_list_takes_no_other_flag(capsys):
    ended, out, error = list_of(capsys, "--list", "--epochs", "3")
    assert (ended, out) == (2, "")
    assert error == "error: --list takes no other flag: leave out --epochs\n"

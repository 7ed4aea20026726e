"""Settings: presets, what is refused, and that every setting is explained."""

import dataclasses
import re
import shlex

import pytest
from conftest import PRESETS

from cil_jax.app import command_line
from cil_jax.errors import UserError
from cil_jax.methods import METHODS, unused_settings
from cil_jax.settings import loading, orders
from cil_jax.settings.config import Config
from cil_jax.settings.declaring import flag
from cil_jax.settings.loading import (
    command,
    from_plain,
    order_note,
    preset,
    preset_values,
    presets,
    run_name,
)
from cil_jax.storage.run_folder import RunFolder


def test_the_papers_preset_is_the_papers():
    config = preset("icarl", "paper")
    assert (config.rate, config.rate_steps, config.rate_factor) == (2.0, (0.7, 0.9), 5.0)
    assert (config.epochs, config.batch_size, config.divisor) == (70, 128, 100.0)
    assert (config.weight_decay, config.momentum, config.memory) == (2e-5, 0.9, 2000)
    assert not config.last_relu and config.normalization == "per-pixel"
    assert config.selection == "herding" and config.backbone == "resnet32"
    assert (config.task_size, config.order, config.order_seed) == (10, "icarl", 1993)


@pytest.mark.parametrize("method", sorted(METHODS))
def test_every_method_has_presets_that_can_be_read(method):
    assert PRESETS[method] in presets(method)
    for name in presets(method):
        config = preset(method, name, epochs=3)
        assert (config.method, config.preset, config.epochs) == (method, name, 3)


RECIPE_GROUPS = ("data and augmentation", "network", "training")
OF_THE_DATA = {"dataset", "image_size", "test_share", "split_seed", "validation", "pad", "mirror"}
NOT_OF_A_RECIPE = {"budget_mb"}  # it takes the place of the recipe's number of exemplars
AS_OTHER_TASKS = {"first_epochs", "first_rate_steps", "first_weight_decay"}  # where not said


@pytest.mark.parametrize("method", sorted(METHODS))
def test_a_preset_says_all_that_decides_its_result(method):
    """In its file or one that it extends: a default that changes would change no recipe."""
    recipe = {
        field.name
        for field in dataclasses.fields(preset(method))
        if field.metadata["group"] in (*RECIPE_GROUPS, f"settings of {method}")
        and field.metadata.get("decides", True)
    }
    assert {"last_relu", "decay", "brightness", "outputs"} <= recipe
    assert method != "icarl" or {"objective", "temperature", "answer"} <= recipe
    for name in presets(method):
        left_out = OF_THE_DATA | AS_OTHER_TASKS | NOT_OF_A_RECIPE
        needed = recipe - left_out - unused_settings(preset(method, name))
        assert not needed - preset_values(method, name).keys(), name


def test_hybrids_differ_from_the_paper_in_what_they_are_named_for():
    paper = preset("icarl", "paper").decisive()
    for name, other in (
        ("hybrid1", {"answer": "linear"}),
        ("hybrid2", {"distill": "none"}),
        ("hybrid3", {"answer": "linear", "distill": "none"}),
    ):
        assert preset("icarl", name).decisive() == {**paper, **other, "preset": name}
    mc = preset("lwf", "lwf-mc").decisive()
    without_exemplars = {key: paper[key] for key in mc if key in paper}
    assert mc == {**without_exemplars, "method": "lwf", "preset": "lwf-mc", "softmax_over": "open"}
    of_exemplars = {"memory", "per_class", "budget_mb", "selection", "mirror_means", "answer"}
    assert paper.keys() - mc.keys() == of_exemplars


def test_an_unknown_preset_or_setting_is_named():
    with pytest.raises(UserError, match="unknown preset 'papr' of icarl: did you mean 'paper'"):
        preset("icarl", "papr")
    with pytest.raises(UserError, match="unknown setting 'epoch': did you mean 'epochs'"):
        from_plain({"epoch": 3}, "mine.yaml")


def test_an_unknown_setting_or_method_from_python_is_named():
    with pytest.raises(UserError, match="unknown setting 'epocs' of icarl: did you mean 'epochs'"):
        preset("icarl", "paper", epocs=3)
    with pytest.raises(UserError, match="unknown setting 'memory' of finetune"):
        preset("finetune", "pycil", memory=3)
    with pytest.raises(UserError, match="unknown method 'icrl': did you mean 'icarl'"):
        preset("icrl", "paper")


def test_settings_survive_being_written_and_read():
    config = preset("lwf", "pycil", lambda_=2.5, first_task=50)
    assert loading.config_of({"file": from_plain(config.decisive(), "config.yaml")}) == config


@pytest.mark.parametrize(
    ("tasks", "sizes"),
    [
        ("50,10,10,30", ("50,10,10,30", None, 10)),
        (" 50 010, 10,30", ("50,10,10,30", None, 10)),
        ("100", ("100", None, 10)),
        ("b50-10", (None, 50, 10)),
        ("B50-2", (None, 50, 2)),
        ("b0-5", (None, None, 5)),
        ("b20-20", (None, None, 20)),
    ],
)
def test_the_sizes_of_tasks_have_one_form(tasks, sizes):
    """However they are given, and whatever a lower layer says."""
    for below in ({}, {"task_size": 7, "first_task": 3}, {"tasks": "4,6"}):
        config = loading.config_of(
            {
                "preset": {"method": "icarl", **below},
                "flag": loading.over({"tasks": tasks}, "icarl"),
            }
        )
        assert (config.tasks, config.first_task, config.task_size) == sizes
        assert config == preset("icarl", tasks=tasks)
        assert config == dataclasses.replace(preset("icarl", **below), tasks=tasks)


def test_a_size_of_tasks_overrides_a_list():
    for given in ({"task_size": 5}, {"first_task": 20}):
        layers = {
            "preset": {"method": "icarl", "tasks": "60,40"},
            "flag": loading.over(given, "icarl"),
        }
        assert loading.config_of(layers) == preset("icarl", **given)


def test_every_setting_decides_the_result_but_those_of_place_and_machine():
    others = {"data_dir", "features", "out", "resume", "accelerator", "devices", "stream", "log"}
    others |= {"coordinator", "num_processes", "process_id"}
    config = preset("icarl")
    names = {field.name.rstrip("_") for field in dataclasses.fields(config)}
    assert set(config.decisive()) == names - others


def test_the_name_of_a_run_says_what_differs_from_its_preset():
    """So that a second try with other settings has another folder."""
    plain = preset("icarl", "paper")
    assert run_name(plain) == "icarl-paper-cifar100-resnet32-seed0"
    assert run_name(plain, is_group=True) == "icarl-paper-cifar100-resnet32"
    short = preset("icarl", "paper", classes=20, epochs=5, backbone="resnet8", seed=3)
    assert run_name(short) == "icarl-paper-cifar100-resnet8-20classes-5epochs-seed3"
    changes = ({"rate": 1.0}, {"rate": 0.5}, {"memory": 500}, {"order_seed": 4}, {"data_seed": 1})
    names = {run_name(preset("icarl", "paper", **change)) for change in changes}
    assert len(names) == 5 and all(re.fullmatch(r".*-resnet32-[0-9a-f]{6}-seed0", n) for n in names)
    assert run_name(preset("icarl", "paper", order_seed=4), is_group=True) == run_name(
        plain, is_group=True
    )
    # The place of a run and its hardware do not decide its result.
    assert run_name(preset("icarl", "paper", out="x", stream=True)) == run_name(plain)
    # The order of CIFAR-100's classes is left out of the preset for other data.
    assert (
        run_name(preset("icarl", "paper", dataset="digits")) == "icarl-paper-digits-resnet32-seed0"
    )


def test_a_run_that_is_older_than_a_setting_did_what_its_default_does(tmp_path):
    folder = RunFolder(tmp_path / "run")
    folder.start(preset("icarl", "paper"))
    lines = folder.config_file.read_text().splitlines(keepends=True)
    folder.config_file.write_text("".join(x for x in lines if not x.startswith("precision:")))
    same, other = (preset("icarl", "paper", precision=x) for x in ("float32", "bfloat16"))
    assert folder.differences(same) == {}
    assert folder.differences(other) == {"precision": ("float32", "bfloat16")}


def test_every_setting_with_a_flag_has_a_text():
    for method in METHODS:
        for field in dataclasses.fields(preset(method)):
            assert len(field.metadata["help"]) > 5, field.name
    assert flag("lambda_") == "--lambda" and flag("batch_size") == "--batch-size"


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"epochs": 0}, "--epochs is 0; it must be at least 1"),
        ({"batch_size": -1}, "--batch-size is -1; it must be at least 1"),
        ({"first_task": 0}, "--first-task is 0; it must be at least 1"),
        ({"tasks": "50,ten"}, "--tasks is '50,ten'; it must be the number of classes of each task"),
        ({"tasks": "50,0"}, "--tasks is '50,0'; it must be"),
        ({"tasks": ""}, "--tasks is ''; it must be"),
        ({"tasks": "b50-0"}, "--tasks is 'b50-0'; it must be"),
        ({"rate": 0.0}, "--rate is 0.0; it must be above 0"),
        ({"rate": float("nan")}, "--rate is nan; it must be above 0"),
        ({"temperature": float("inf")}, "--temperature is inf; it must be above 0"),
        ({"lambda_": -1.0}, "--lambda is -1.0; it must be finite and not negative"),
        ({"memory": -5}, "--memory is -5; it must be finite and not negative"),
        ({"rate_steps": (0.5, 1.5)}, "--rate-steps"),
        ({"seed": -1}, "--seed is -1; it must lie in 0..4294967295"),
        ({"data_seed": 2**32}, "--data-seed is 4294967296; it must lie in 0..4294967295"),
        ({"momentum": 1.0}, "--momentum is 1.0; it must be below 1"),
        ({"order": "random"}, "unknown --order 'random'"),
        ({"selection": "herdin"}, "did you mean 'herding'"),
    ],
)
def test_values_that_make_no_sense_are_refused(values, message):
    with pytest.raises(UserError) as error:
        preset("icarl", **values)
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("text", "order"),
    [
        ("3\n1\n\n2\n", "3, 1, 2"),
        ("3 1\n2 0\n", "3, 1, 2, 0"),
        ("3,1, 2,\n", "3, 1, 2"),
        ("maple tree\noak\n", "maple tree, oak"),
        ("oak maple", "oak, maple"),
        ("seeded", None),
        ("", None),
    ],
)
def test_the_file_of_an_order_is_read_into_the_settings(tmp_path, text, order):
    """So that the file is not needed to resume a run."""
    file = tmp_path / "order.txt"
    file.write_text(text)
    if order is None:
        with pytest.raises(
            UserError, match=r"order.txt names \d classes; an order needs at least 2"
        ):
            Config(order=str(file))
        return
    config = Config(order=str(file))
    assert config.order == order and Config(order=order).order == order
    assert preset("icarl", "paper", order=text).order == order


def test_an_order_that_is_neither_a_name_nor_a_list_nor_a_file_is_refused():
    with pytest.raises(UserError, match=r"did you mean 'seeded'.*there is no file of this name"):
        Config(order="sedeed")


def test_orders_are_told_apart_in_captions():
    assert orders.describe("seeded", 7) == "seeded 7" and orders.describe("icarl", 7) == "icarl"
    one, other = (orders.describe(order, 0) for order in ("3, 1, 2", "3, 2, 1"))
    assert one != other and re.fullmatch("own list [0-9a-f]{8} of 3 classes", one)
    assert orders.slug("3, 1, 2", 0) == "-".join(one.split()[:3])


def test_presets_name_the_order_of_their_source():
    for method in METHODS:
        for name in presets(method):
            config = preset(method, name)
            is_icarl = getattr(config, "objective", "") == "sigmoid"  # the loss of its authors
            assert (config.order, config.order_seed) == ("icarl" if is_icarl else "seeded", 1993)


@pytest.mark.parametrize("dataset", ["digits", "npz:/x.npz"])
def test_the_order_of_a_preset_is_left_out_for_other_data_than_its_own(dataset, tmp_path):
    assert preset("icarl", "paper", dataset=dataset).order == "seeded"
    file = tmp_path / "mine.yaml"
    file.write_text(f"dataset: {dataset}\n")
    for given, settings_file in (({"dataset": dataset}, None), ({}, str(file))):
        config = command_line.settings("icarl", "paper", given, settings_file)
        assert config.order == "seeded"
        note = "order: that of preset paper (icarl) is for CIFAR-100 only, so this run takes seeded"
        assert order_note(config).startswith(note)
    asked = command_line.settings("icarl", "paper", {"dataset": dataset, "order": "icarl"})
    assert asked.order == "icarl"  # what a flag says is not replaced
    assert not order_note(preset("icarl", "paper", order="seeded"))
    assert not order_note(preset("icarl", "pycil", dataset=dataset))


@pytest.mark.parametrize(
    "given",
    [
        {"coordinator": "host:1"},
        {"coordinator": "host:1", "process_id": 0},
        {"coordinator": "auto", "num_processes": 2},
        {"process_id": 0},
    ],
    ids=str,
)
def test_processes_are_told_wholly_or_not_at_all(given):
    with pytest.raises(UserError, match="--num-processes and --process-id must be given together"):
        Config(**given)


OVERRIDES = [
    {},
    {"epochs": 3, "backbone": "resnet8", "seed": 4, "ncm": False},
    {"epochs": 3, "first_epochs": 7, "first_rate_steps": (0.5, 0.75), "lambda_": 2.5},
    {"dataset": "npz:/a folder/it's $here.npz", "mirror": "yes", "data_seed": 3, "fast": True},
    {"weight_decay": 1e-5, "rate": 0.30000000000000004, "order": "natural"},
    {"order": "3, 1, 2", "task_size": 1},
    {"tasks": "50, 10,30 10"},
    {"tasks": "B50-5"},
]


def _known(method, overrides):
    """Those of the settings that a method has."""
    names = {field.name for field in dataclasses.fields(preset(method))}
    return {name: value for name, value in overrides.items() if name in names}


@pytest.mark.parametrize("overrides", OVERRIDES, ids=str)
def test_a_runs_command_makes_its_settings(overrides):
    for method in sorted(METHODS):
        for name in presets(method):
            config = preset(method, name, **_known(method, overrides))
            start = ["cil-jax", method, "--preset", name]
            words = shlex.split(command(config))
            assert words[: len(start)] == start
            flags = words[len(start) - 2 :]
            given = vars(command_line.make_parser(method, presets(method)[0]).parse_args(flags))
            assert command_line.settings(method, "", given) == config
            if not overrides:
                assert words == start


def test_settings_that_no_flags_make_have_no_command():
    assert command(preset("icarl", "pycil", first_epochs=None)).endswith("--epochs 170")
    assert command(dataclasses.replace(preset("icarl", "pycil"), pad=None, preset=""))
    fast = preset("icarl", "paper", mirror_means="no")
    assert command(fast).endswith("--mirror-means no")

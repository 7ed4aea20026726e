"""Methods and backbones from outside the package: found, recorded, and never run unasked."""

import dataclasses
import hashlib

import jax
import numpy as np
import pytest
import yaml

import cil_jax
from cil_jax.app import command_line, launch
from cil_jax.commands import compare, predict, report
from cil_jax.errors import UserError
from cil_jax.methods.base import Method
from cil_jax.settings import code, loading
from cil_jax.settings.config import config_type
from cil_jax.settings.declaring import POSITIVE, setting
from cil_jax.storage.run_folder import RunFolder
from cil_jax.training.callbacks import Callback

METHOD = '''
"""A method in a file of its own."""

import dataclasses
from typing import ClassVar

import jax.numpy as jnp

from cil_jax import losses
from cil_jax.methods import Method
from cil_jax.methods.base import zero_in_first_task
from cil_jax.settings.declaring import NOT_NEGATIVE, setting


@dataclasses.dataclass(frozen=True)
class Mine(Method):
    """Keeps the features near those of the old network."""

    strength: float = setting(1.0, "weight of the change of the features", bound=NOT_NEGATIVE)
    squared: bool = setting(True, "whether the change is squared")

    parts: ClassVar = ("classification", "drift")
    presets: ClassVar = {"strong": {"strength": 10.0, "epochs": 3}}

    def loss(self, params, learner, batch, key, train=True):
        output = self.student(params, learner, batch, train)
        change = jnp.abs(output.features - self.teacher(learner, batch).features)
        drift = zero_in_first_task(learner, jnp.mean(change**2 if self.squared else change))
        loss = losses.cross_entropy(output.logits, batch.labels)
        return loss + self.strength * drift, ({"classification": loss, "drift": drift}, output)


@dataclasses.dataclass(frozen=True)
class Bare(Mine):
    presets: ClassVar = {}


class NoMethod:
    pass


class Undecorated(Mine):
    more: float = setting(1.0, "is ignored by Python")


@dataclasses.dataclass(frozen=True)
class Lossless(Method):
    """It lacks a hook."""


@dataclasses.dataclass(frozen=True)
class Twice(Mine):
    epochs: int = setting(3, "a setting that all methods have")


@dataclasses.dataclass(frozen=True)
class Wrong(Mine):
    names: list = setting((), "a type that no flag has")


@dataclasses.dataclass(frozen=True)
class Unfilled(Mine):
    width: int = dataclasses.field(kw_only=True)
'''

NETWORKS = """
import flax.linen as nn


class Plain(nn.Module):
    layers: int = 1  # not the layers that the backbones of the package take

    @nn.compact
    def __call__(self, images, train):
        for _ in range(self.layers):
            images = nn.relu(nn.Conv(6, (3, 3), strides=2)(images))
        return images.mean(axis=(1, 2))


class Normalized(nn.Module):
    width: int = 5

    @nn.compact
    def __call__(self, images, train):
        x = nn.Conv(self.width, (3, 3), strides=2, use_bias=False)(images)
        return nn.relu(nn.BatchNorm(use_running_average=not train)(x)).mean(axis=(1, 2))


class Maps(nn.Module):
    @nn.compact
    def __call__(self, images, train):
        return nn.Conv(6, (3, 3))(images)


class Untrained(nn.Module):
    @nn.compact
    def __call__(self, images):
        return images.mean(axis=(1, 2))


class Needs(nn.Module):
    width: int

    def __call__(self, images, train):
        return images.mean(axis=(1, 2))
"""

SMALL = {"dataset": "digits", "classes": 4, "task_size": 2, "epochs": 1, "batch_size": 64}
FLAGS = ["--dataset", "digits", "--classes", "4", "--task-size", "2", "--epochs", "1"]
FLAGS += ["--batch-size", "64", "--accelerator", "cpu"]


@pytest.fixture(autouse=True)
def nothing_named(monkeypatch):
    """As in a new process: what earlier tests named is unknown."""
    for registry in (code.METHODS, code.BACKBONES):
        monkeypatch.setattr(registry, "_own", {})


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = tmp_path_factory.mktemp("own")
    (made / "mine.py").write_text(METHOD)
    (made / "net.py").write_text(NETWORKS)
    return made


@pytest.fixture(scope="module")
def ran(folder):
    """The folder of a run of a method and a backbone in files."""
    method, backbone = f"{folder / 'mine.py'}:Mine", f"{folder / 'net.py'}:Normalized"
    config = loading.preset(
        method, backbone=backbone, strength=2.0, out=str(folder / "run"), **SMALL
    )
    results = cil_jax.run(config)
    assert (results["method"], results["backbone"]) == ("Mine", "Normalized")
    assert results["changed"] == {"batch_size": 64, "strength": 2.0}
    return folder / "run"


@pytest.fixture
def said(capsys):
    """What a command prints, and its exit code."""

    def of(*words):
        ended = command_line.run_any_method("About.", [*map(str, words)])
        out, error = capsys.readouterr()
        return ended, out, error

    return of


def test_a_run_records_the_files_that_it_was_made_with(ran, folder):
    recorded = yaml.safe_load((ran / "config.yaml").read_text())
    assert (recorded["method"], recorded["backbone"]) == ("Mine", "Normalized")
    assert recorded["strength"] == 2.0 and recorded["squared"] is True
    assert "memory" not in recorded and "distill" not in recorded
    assert recorded["code"] == {
        kind: {
            "name": name,
            "file": str(folder / file),
            "sha256": hashlib.sha256((folder / file).read_bytes()).hexdigest(),
        }
        for kind, name, file in (
            ("method", "Mine", "mine.py"),
            ("backbone", "Normalized", "net.py"),
        )
    }


def test_a_run_is_loaded_once_its_code_is_named(ran, folder, tmp_path):
    with pytest.raises(UserError, match=r"name it again, as in --method .*mine\.py:Mine"):
        cil_jax.load(ran)
    method, backbone = f"{folder / 'mine.py'}:Mine", f"{folder / 'net.py'}:Normalized"
    with pytest.raises(UserError, match=r"name it again, as in --backbone .*net\.py:Normalized"):
        cil_jax.load(ran, method=method)
    learner = cil_jax.load(ran, method=method, backbone=backbone)
    images = np.zeros((3, 8, 8, 1), np.uint8)
    scores = learner.predict(images).scores
    learner.save(tmp_path / "alone")
    code.METHODS._own, code.BACKBONES._own = {}, {}
    with pytest.raises(UserError, match="name it again"):
        cil_jax.load(tmp_path / "alone")
    again = cil_jax.load(tmp_path / "alone", method=method, backbone=backbone)
    np.testing.assert_array_equal(again.predict(images).scores, scores)


@pytest.mark.parametrize("part", ["method", "backbone"])
def test_a_folder_never_makes_code_run(tmp_path, part):
    """Not even where someone has written the path of a file into it."""
    (tmp_path / "evil.py").write_text(f"open({str(tmp_path / 'was run')!r}, 'w')")
    RunFolder(tmp_path / "run").start(loading.preset("icarl"))
    file = tmp_path / "run/config.yaml"
    place = f"{tmp_path / 'evil.py'}:Mine"
    file.write_text(file.read_text().replace(*{
        "method": ("method: icarl", f"method: {place}"),
        "backbone": ("backbone: resnet32", f"backbone: {place}"),
    }[part]))  # fmt: skip
    with pytest.raises(UserError, match=f"unknown {part} .*evil|not learned its first task"):
        cil_jax.load(tmp_path / "run")
    with pytest.raises(UserError, match=f"unknown {part} .*evil|--backbone"):
        made = loading.config_of({"file": loading.read(file)})
        cil_jax.models.build(made.backbone)
    assert not (tmp_path / "was run").exists()


def test_a_changed_file_is_said(ran, folder, tmp_path):
    changed = tmp_path / "mine.py"
    changed.write_text(METHOD + "\n# another line\n")
    warnings = []
    backbone = f"{folder / 'net.py'}:Normalized"
    cil_jax.load(ran, warnings.append, method=f"{changed}:Mine", backbone=backbone)
    assert warnings == [f"{ran} was trained with other code: {changed} has another content"]
    cil_jax.load(ran, warnings.append, method=f"{folder / 'mine.py'}:Mine", backbone=backbone)
    assert len(warnings) == 1


class _Stop(Callback):
    """Stops a run after its first task, and keeps its warnings."""

    def __init__(self, is_stopping):
        self.is_stopping, self.warnings = is_stopping, []

    def task_done(self, run, line):
        if self.is_stopping:
            raise KeyboardInterrupt

    def warned(self, run, text):
        self.warnings.append(text)


def test_a_run_that_goes_on_with_another_file_says_so(ran, folder, tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(METHOD)
    backbone = f"{folder / 'net.py'}:Normalized"
    given = {**SMALL, "backbone": backbone, "out": str(tmp_path / "run")}
    with pytest.raises(KeyboardInterrupt):
        cil_jax.run(loading.preset(f"{file}:Mine", **given), _Stop(is_stopping=True))
    file.write_text(METHOD + "\n# another line\n")
    heard = _Stop(is_stopping=False)
    cil_jax.run(loading.preset(f"{file}:Mine", resume=True, **given), heard)
    assert [text for text in heard.warnings if f"{file} has another content" in text]


def test_commands_that_read_results_need_no_code(ran, capsys):
    assert report.main([str(ran)]) == 0
    page = (ran / "report.html").read_text()
    assert f"mine.py:Mine --backbone {ran.parent}/net.py:Normalized --config {ran}/config" in page
    assert compare.main([str(ran)]) == 0
    assert "Mine (with" in capsys.readouterr().out
    assert predict.main([str(ran), "picture.png"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "name it again, as in --method" in error


def test_runs_of_two_files_are_two_rows(ran, folder, tmp_path):
    other = tmp_path / "mine.py"
    other.write_text(METHOD + "\n# another line\n")
    both = tmp_path / "both"
    for name in ("one", "two"):
        (both / name).mkdir(parents=True)
        for file in ("results.json", "metrics.jsonl"):
            (both / name / file).write_bytes((ran / file).read_bytes())
        (both / name / "config.yaml").write_bytes((ran / "config.yaml").read_bytes())
    recorded = yaml.safe_load((ran / "config.yaml").read_text())
    recorded["code"]["method"]["sha256"] = hashlib.sha256(other.read_bytes()).hexdigest()
    (both / "two/config.yaml").write_text(yaml.safe_dump(recorded))
    from cil_jax.report import groups

    assert len(groups.compare([both / "one", both / "two"])[0].groups) == 2


def test_the_flags_of_a_run_are_those_of_its_method(said, folder):
    status, out, _ = said("--method", f"{folder / 'mine.py'}:Mine", "--help-all")
    assert status == 0 and "settings of Mine:" in out and "--strength X" in out
    assert "--no-squared" in out and "--preset {strong}" in out
    assert "--epochs N" in out and "--memory" not in out and "--distill" not in out
    status, out, _ = said("--method", "icarl", "--help-all")
    assert status == 0 and "--memory N" in out and "--softmax-over" not in out
    status, out, _ = said("--help-all")
    assert status == 0 and "--epochs N" in out and "--memory" not in out
    for name, method_class in code.METHODS.items():
        assert f"  {name:9} {method_class.__doc__.splitlines()[0]}" in out


def test_a_file_of_settings_knows_those_of_the_method(said, folder, tmp_path):
    file, method = tmp_path / "mine.yaml", f"{folder / 'mine.py'}:Mine"
    file.write_text("strength: 3\npreset: strong\n")
    status, out, error = said("--method", method, "--config", file, "--print-config")
    assert status == 0, error
    values = {line.split(":")[0]: line.split(": ")[1] for line in out.splitlines()}
    assert values["strength"].split() == ["3.0", "#", str(file)]
    assert values["epochs"].split() == ["3", "#", "preset", "Mine/strong"]
    assert values["squared"].split() == ["true", "#", "default"]


def test_a_file_of_settings_names_the_method(said, tmp_path):
    file = tmp_path / "lwf.yaml"
    file.write_text("method: lwf\npreset: pycil\nlambda: 2\n")
    status, out, error = said("--config", file, "--print-config")
    assert status == 0, error
    assert "method: lwf" in out and "lambda: 2.0" in out
    status, _, error = said("--method", "ewc", "--config", file)
    assert status == 2 and "lwf" in error and "ewc" in error
    # What a file names is not imported.
    file.write_text(f"method: {tmp_path / 'mine.py'}:Mine\n")
    status, out, error = said("--config", file, "--print-config")
    assert status == 2 and "--method is missing" in error and "--config RUN/config.yaml" in error


REFUSALS = [
    ("", ["--method is missing: choose from finetune, joint, fixed"]),
    ("icrl", ["unknown method 'icrl': did you mean 'icarl'"]),
    ("{}/nothing.py:Mine", ["can't read", "nothing.py: No such file"]),
    ("{}/mine.py:Mien", ["mine.py has no class 'Mien': did you mean 'Mine'"]),
    ("{}/mine.py:NoMethod", ["mine.py:NoMethod is no method", "cil_jax.methods.base.Method"]),
    ("{}/mine.py:Lossless", ["mine.py:Lossless does not define loss"]),
    ("{}/mine.py:Undecorated", ["lacks the line @dataclasses.dataclass(frozen=True)"]),
    ("{}/mine.py:Twice", ["Twice can't have a setting 'epochs'"]),
    ("{}/mine.py:Wrong", ["setting 'names'", "list"]),
    ("{}/mine.py:Unfilled", ["Unfilled has fields that nothing fills in: width"]),
    ("{}/broken.py:Mine", ["broken.py can't be imported: line 2: ModuleNotFoundError"]),
    ("{}/syntax.py:Mine", ["syntax.py can't be imported: line 1: SyntaxError"]),
    ("{}/ends.py:Mine", ["ends.py can't be imported: line 1: SystemExit"]),
    ("{}/mine.py:Mine --strength -1", ["--strength is -1.0; it must be finite and not negative"]),
    ("{}/mine.py:Mine --preset weak", ["--preset", "'weak'", "strong"]),
    ("{}/mine.py:Mine --backbone {}/net.py:Nte", ["net.py has no class 'Nte'"]),
    ("{}/mine.py:Mine --backbone {}/mine.py:Mine", ["is no backbone", "flax.linen.Module"]),
    ("{}/mine.py:Mine --backbone {}/net.py:Maps", ["Maps must return one array [B, n_features]"]),
    ("{}/mine.py:Mine --backbone {}/net.py:Untrained", ["must take the arguments (images, train)"]),
    ("{}/mine.py:Mine --backbone {}/net.py:Needs", ["Needs has a field without a default: width"]),
]


@pytest.mark.parametrize(("flags", "words"), REFUSALS, ids=[flags for flags, _ in REFUSALS])
def test_what_cannot_be_used_gets_one_line(said, folder, tmp_path, monkeypatch, flags, words):
    monkeypatch.chdir(tmp_path)
    (folder / "broken.py").write_text("import os\nimport nothing_of_this_name\n")
    (folder / "syntax.py").write_text("def loss(:\n")
    (folder / "ends.py").write_text("raise SystemExit(3)\n")
    given = flags.replace("{}", str(folder)).split()
    status, out, error = said(*(["--method", *given] if given else []), *FLAGS)
    assert (status == 2 and out == "") or "Unfilled" in flags or "net.py" in flags, out
    assert error.startswith("error: ") and error.count("\n") == 1, error
    for word in words:
        assert word in error, error


def test_a_flag_without_effect_on_ones_own_code_is_said(said, folder):
    own = ("--method", f"{folder / 'mine.py'}:Mine", *FLAGS, "--print-config")
    status, _, error = said(*own, "--memory", "3")
    assert status == 0 and error.startswith("warning: --memory has no effect on Mine, which has")
    plain = ("--backbone", f"{folder / 'net.py'}:Plain", "--precision", "bfloat16")
    status, _, error = said(*own, *plain)
    assert status == 0 and error.startswith("warning: --precision has no effect on Mine with")


def test_ones_own_method_takes_the_recipe_of_another(said, folder, tmp_path):
    """Without what it lacks, which is said."""
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("brightness: 0.2\nobjective: softmax\nmemory: 9\n")
    own = ("--method", f"{folder / 'mine.py'}:Mine", "--print-config", "--config", str(recipe))
    status, out, error = said(*own)
    assert status == 0 and "brightness: 0.2 " in out and "memory" not in out
    assert error.splitlines() == [
        f"warning: {name} in {recipe} has no effect on Mine, which has no such setting"
        for name in ("objective", "memory")
    ]


def test_that_ones_own_method_has_no_presets_is_said(said, folder):
    status, _, error = said("--method", f"{folder / 'mine.py'}:Bare", "--preset", "pycil")
    assert status == 2 and "there is no preset 'pycil': the method has none; its class may" in error


def test_a_run_is_resumed_once_its_code_is_named(said, folder, ran):
    status, _, error = said("--method", "icarl", "--resume", "--out", ran)
    assert status == 2 and "name it again, as in --method" in error
    named = ["--method", f"{folder / 'mine.py'}:Mine"]
    status, _, error = said(*named, "--resume", "--out", ran)
    assert status == 2 and "name it again, as in --backbone" in error
    named += ["--backbone", f"{folder / 'net.py'}:Normalized"]
    status, _, error = said(*named, "--resume", "--out", ran, "--strength", "3")
    assert status == 2 and "strength was 2.0, is now 3.0" in error
    config = command_line.settings("Mine", "", {"resume": True, "out": str(ran)})
    assert launch.resume_command(config).startswith(
        f"cil-jax train --method {folder / 'mine.py'}:Mine "
        f"--backbone {folder / 'net.py'}:Normalized --resume --out {ran}"
    )
    assert loading.command(config).endswith(
        f"--method {folder / 'mine.py'}:Mine --backbone {folder / 'net.py'}:Normalized "
        "--dataset digits --task-size 2 --classes 4 --epochs 1 --batch-size 64 --strength 2.0"
    )


@dataclasses.dataclass(frozen=True)
class Halved(Method):
    """Half the cross-entropy."""

    factor: float = setting(0.5, "factor of the loss", bound=POSITIVE)

    def loss(self, params, learner, batch, key, train=True):
        output = self.student(params, learner, batch, train)
        loss = cil_jax.losses.cross_entropy(output.logits, batch.labels)
        return self.factor * loss, ({}, output)


def test_a_class_is_run_from_python_with_a_backbone_without_batch_norm(folder, tmp_path):
    backbone = f"{folder / 'net.py'}:Plain"
    config = loading.preset(Halved, backbone=backbone, out=str(tmp_path / "run"), **SMALL)
    assert config.factor == 0.5 and config.label() == "Halved-digits-Plain"
    results = cil_jax.run(config)
    assert results["method"] == "Halved"
    assert RunFolder(tmp_path / "run").settings()["code"]["method"]["file"] == __file__
    loaded = cil_jax.load(tmp_path / "run", method=Halved, backbone=backbone)
    assert not jax.tree.leaves(loaded.state.weights.batch_stats)
    # Common settings are kept where another method takes the place of the config's.
    other = loading.preset("replay", "pycil", backbone=backbone, memory=7, **SMALL)
    replaced = loading.with_method(other, Halved)
    assert (replaced.method, replaced.preset, replaced.brightness) == ("Halved", "", 0.247)
    out = tmp_path / "other"
    cil_jax.run(dataclasses.replace(other, out=str(out)), method=Halved)
    assert RunFolder(out).settings()["factor"] == 0.5


def test_a_class_of_the_package_is_its_name():
    icarl = code.METHODS["icarl"]
    assert loading.preset(icarl, "paper") == loading.preset("icarl", "paper")


def test_the_settings_of_a_method_are_checked_and_replaced_like_others():
    config = loading.preset(Halved, factor=2.0)
    assert dataclasses.replace(config, factor=3.0).factor == 3.0
    assert config_type("Halved", Halved) is type(config)
    with pytest.raises(UserError, match="--factor is 0; it must be above 0 and finite"):
        dataclasses.replace(config, factor=0)
    with pytest.raises(UserError, match="unknown setting 'facto' of Halved"):
        loading.preset(Halved, facto=1.0)
    with pytest.raises(UserError, match="unknown preset 'x' of Halved, which has none"):
        loading.preset(Halved, "x")


def test_a_run_of_an_older_version_had_the_settings_of_all_methods(tmp_path):
    RunFolder(tmp_path / "run").start(loading.preset("finetune", "pycil"))
    file = tmp_path / "run/config.yaml"
    file.write_text("lambda: 1.0\nmemory: 2000\n" + file.read_text())
    read = loading.config_of({"run": loading.read(file)})
    assert read == loading.preset("finetune", "pycil")
    assert loading.decisive_of(yaml.safe_load(file.read_text())) == read.decisive()

"""README.md and the documentation: links lead somewhere, commands exist, and code runs."""

import importlib.util
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest
from conftest import write_run

import cil_jax
from cil_jax.app import command_line
from cil_jax.commands import COMMANDS, run
from cil_jax.methods import METHODS

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
URLS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["urls"]
PAGES = {str(f.relative_to(ROOT)): f.read_text() for f in sorted(DOCS.rglob("*.md"))}
PAGES |= {f.name: f.read_text() for f in sorted(ROOT.glob("*.md"))}
README = PAGES["README.md"]


@pytest.mark.parametrize("file", sorted(DOCS.glob("examples/*.yaml")), ids=lambda file: file.stem)
def test_an_example_of_settings_is_one_and_is_named_in_the_documentation(file, capsys):
    assert run(["train", "--config", str(file), "--print-config"]) == 0
    size = f"image_size: {file.stem.removeprefix('images_')} "
    assert size in capsys.readouterr().out
    assert any(f"(examples/{file.name})" in page for page in PAGES.values())


def python_blocks(page):
    return re.findall(r"^```python\n(.*?)^```", PAGES[page], re.MULTILINE | re.DOTALL)


def commands(text):
    """The words of each cil-jax command in a text, without comments, and of flags for several."""
    for flags in re.findall(r'^    O="(?:\$O )?(.*?)"', text, re.MULTILINE):
        yield ["icarl", *shlex.split(flags)]
    text = text.replace("\\\n", " ")
    for line in re.findall(r"^    cil-jax .*|(?<=`)cil-jax [a-z][^`\n]*(?=`)", text, re.MULTILINE):
        yield shlex.split(line, comments=True)[1:]


@pytest.fixture(scope="module")
def hooks():
    spec = importlib.util.spec_from_file_location("docs_hooks", DOCS / "hooks.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_readme_is_short_and_its_methods_are_those_of_the_package(hooks):
    """If this fails: python docs/hooks.py"""
    assert hooks.updated_readme(README) == README
    assert all(f"`cil-jax {name}`" in README for name in METHODS)
    assert len(README.splitlines()) <= 140 + len(METHODS)


def test_departures_of_every_preset_are_in_the_page(hooks):
    page = hooks.on_page_markdown(PAGES["docs/fidelity.md"])
    for method in METHODS:
        for preset in cil_jax.settings.loading.presets(method):
            assert f"### {method}/{preset}\n" in page
    assert "- The final partial batch of an epoch is dropped." in page
    reference = hooks.on_page_markdown(PAGES["docs/api/methods.md"])
    assert all(f"::: cil_jax.methods.{name}" in reference for name in ("icarl", "lucir", "wa"))


def test_the_entry_of_a_method_is_made_from_its_code(hooks):
    """Its paper, kind, equation, file, settings, bytes, and published results beside ours."""
    entry = hooks.entry("wa")
    lines = entry.splitlines()
    assert lines[0] == "### wa" and "(https://arxiv.org/abs/1911.07053)" in lines[2]
    equation = "    L = (1 - n_old / n_seen) * CE(z, y) + n_old / n_seen * D_T(z, old z)"
    assert equation in lines and "Attributes:" not in entry
    assert "- *Kind:* exemplars, distillation" in lines
    assert "(https://github.com/cil-jax/cil_jax/blob/main/cil_jax/methods/wa.py)" in entry
    (kept,) = [line for line in lines if line.startswith("- *Keeps*")]
    network = 4 * (463_504 + 64 * 100 + 100)
    assert "(`pycil`)" in kept and f"2000 exemplars {2000 * 32 * 32 * 3:,}" in kept
    statistics = 4 * 2 * (16 * 11 + 32 * 10 + 64 * 10)  # of the batch normalisations
    assert f"network {network + statistics:,}, previous network {network + statistics:,}" in kept
    options = hooks.loading.type_of("wa").__dataclass_fields__
    (row,) = [line for line in lines if line.startswith("| --clip-weights |")]
    assert row == f"| --clip-weights | no | {options['clip_weights'].metadata['help']} |"
    assert "| --memory | 2000 |" in entry and "--epochs" not in entry
    assert "| wa-pycil | 10 x 10 | linear | 67.09 / 52.3 | survey | not run | 0 |" in lines


@pytest.mark.parametrize("page", PAGES)
def test_links_to_our_own_pages_lead_somewhere(page):
    for url in re.findall(r"https://[^\s)>\"'`#]+", PAGES[page]):
        if url.startswith(URLS["Homepage"]):
            name = url.removeprefix(URLS["Homepage"]).rstrip("/") or "index"
            found = [DOCS / f"{name}.md", DOCS / name / "index.md"]
            assert any(file.exists() for file in found), url
        for start in (f"{URLS['Source']}/blob/main/", f"{URLS['Source']}/tree/main/"):
            if url.startswith(start):
                assert (ROOT / url.removeprefix(start)).exists(), url
        raw = URLS["Source"].replace("github.com", "raw.githubusercontent.com") + "/main/"
        if url.startswith(raw):
            assert (ROOT / url.removeprefix(raw)).exists(), url


def test_the_readme_has_no_links_that_work_in_a_checkout_only():
    targets = re.findall(r"\]\(([^)]+)\)", README)
    assert targets and all(target.startswith("https://") for target in targets)


@pytest.mark.parametrize("page", [page for page in PAGES if any(commands(PAGES[page]))])
def test_commands_and_their_flags_exist(page, capsys):
    """Of a method in a user's file, only the flags that all methods have are known."""
    for name, *words in commands(PAGES[page]):
        if name.startswith("-") or name.isupper():
            continue
        assert name in COMMANDS or name in METHODS, name
        method = name if name in METHODS else ""
        if "--method" in words and words[words.index("--method") + 1] in METHODS:
            method = words[words.index("--method") + 1]
        if name in METHODS or name == "train":
            known = set(
                command_line.make_parser(method, "", program="train")._option_string_actions
            )
            is_users = name == "train" and not method
            known |= {"--strength", "--memory", "--head-epochs"} if is_users else set()
        else:
            assert run([name, "--help"]) == 0
            known = set(re.findall(r"--[a-z-]+", capsys.readouterr().out))
        given = {word.partition("=")[0] for word in words if word.startswith("--")}
        assert given <= known, (name, given - known)


@pytest.mark.parametrize("page", [page for page in PAGES if python_blocks(page)])
def test_code_compiles(page):
    for block in python_blocks(page):
        compile(block, page, "exec")


def test_the_code_of_the_readme_runs(tmp_path, monkeypatch, capsys):
    """With a tiny network and one epoch; the last line only where pandas is installed."""
    monkeypatch.chdir(tmp_path)
    (block,) = python_blocks("README.md")
    settings = 'task_size=2, backbone="resnet8", epochs=5'
    assert settings in block and len(block.strip().splitlines()) <= 11
    block = block.replace(settings, 'task_size=2, classes=4, backbone="tiny", epochs=1')
    if importlib.util.find_spec("pandas") is None:
        block, _, last = block.rpartition("print(")
        assert "frame" in last
    exec(compile(block, "README.md", "exec"), {})
    shown = capsys.readouterr().out
    assert "task 2/2  epoch 1/1" in shown and "run folder: runs/example" in shown
    accuracies = next(line for line in shown.splitlines() if line.startswith("["))
    assert accuracies.count(",") == 1


def test_the_file_of_noise_is_a_data_set(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (block,) = python_blocks("docs/your_data.md")
    exec(compile(block, "your_data.md", "exec"), {})
    noise = cil_jax.data.load("npz:noise.npz", None)
    assert noise.n_classes == 4 and noise.image_shape == (16, 16, 3)


def test_the_network_of_the_guide_gives_features_in_any_method(tmp_path):
    network, preset = python_blocks("docs/your_network.md")
    file = tmp_path / "small_net.py"
    file.write_text(network)
    config = cil_jax.preset("icarl", "pycil", backbone=f"{file}:SmallNet", dataset="digits")
    module = cil_jax.models.build(config.backbone)
    variables = jax.jit(module.init)(jax.random.key(0), jnp.zeros((2, 8, 8, 1)))
    assert module.apply(variables, jnp.zeros((2, 8, 8, 1))).shape == (2, 32)
    names = {"cil_jax": cil_jax, "SmallNet": type(module)}
    exec(compile(preset, "your_network.md", "exec"), names)
    assert names["config"].task_size == 2


def test_the_table_of_the_page_on_comparing_can_be_made(tmp_path, monkeypatch, capsys):
    pytest.importorskip("pandas")
    monkeypatch.chdir(tmp_path)
    for method in ("finetune", "icarl"):
        write_run(tmp_path / "runs" / method, method=method)
    (block,) = python_blocks("docs/comparing.md")
    exec(compile(block, "comparing.md", "exec"), {"cil_jax": cil_jax})
    assert "finetune" in capsys.readouterr().out


@pytest.mark.slow  # `make docs` builds it, too
def test_the_site_is_built_without_a_warning(tmp_path):
    """Each link and anchor within the site is checked by mkdocs; `make docs` installs it."""
    pytest.importorskip("mkdocs")
    pytest.importorskip("mkdocstrings")
    site = tmp_path / "site"
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(site)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    page = (site / "methods/index.html").read_text()
    assert "cil-jax icarl" in page and "<!-- table" not in page and "<!-- entries" not in page
    assert all(f'<h3 id="{name}">' in page for name in METHODS)
    assert "herding" in (site / "api/vocabulary/index.html").read_text()

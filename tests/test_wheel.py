"""The source distribution and the wheel, used as someone would who has only these.

The wheel is built from the source distribution, without a network, and installed into a fresh
environment. Dependencies are linked rather than installed; the optional ones are hidden, so this is
an installation without extras.
"""

import os
import shutil
import site
import subprocess
import sys
import tarfile
import zipfile
from email.parser import Parser
from pathlib import Path
from urllib.parse import urlparse

import pytest
from conftest import write_run

import cil_jax
from cil_jax.data import digits, tfds
from cil_jax.errors import MissingExtra
from cil_jax.training import streaming

ROOT = Path(__file__).parents[1]
OPTIONAL = ("matplotlib", "sklearn", "grain", "tensorboardX", "tensorflow_datasets", "array_record")
BUILD = "import sys; from setuptools import build_meta as b; print(b.build_{}(sys.argv[1]))"
NOT_SOURCES = (
    ".git",
    ".venv",
    ".cache",
    ".*_cache",
    ".hypothesis",
    "runs",
    "build",
    "dist",
    "site",
    "*.egg-info",
    "__pycache__",
)


def built(kind: str, sources: Path, folder: Path) -> Path:
    """A distribution built from a folder of sources."""
    done = subprocess.run(
        [sys.executable, "-c", BUILD.format(kind), str(folder)],
        cwd=sources,
        check=True,
        capture_output=True,
        text=True,
    )
    return folder / done.stdout.splitlines()[-1]


@pytest.fixture(scope="module")
def distributions(tmp_path_factory):
    """The names of the files in the source distribution, and the wheel built from it."""
    folder = tmp_path_factory.mktemp("distributions")
    shutil.copytree(ROOT, folder / "sources", ignore=shutil.ignore_patterns(*NOT_SOURCES))
    archive = built("sdist", folder / "sources", folder)
    with tarfile.open(archive) as file:
        file.extractall(folder / "unpacked", filter="data")
    (unpacked,) = (folder / "unpacked").iterdir()
    names = {str(f.relative_to(unpacked)) for f in unpacked.rglob("*") if f.is_file()}
    return names, built("wheel", unpacked, folder)


@pytest.fixture(scope="module")
def elsewhere(distributions, tmp_path_factory):
    """A function that runs a program of the fresh environment in a folder with other code."""
    folder = tmp_path_factory.mktemp("elsewhere")
    python = folder / "venv/bin/python"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder / "venv"], check=True)
    pip = [sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--no-compile"]
    subprocess.run([*pip, "--no-deps", "--no-index", distributions[1]], check=True)
    (packages,) = (folder / "venv/lib").glob("python*/site-packages")
    linked = [*site.getsitepackages(), *(path for path in sys.path if "site-packages" in path)]
    (packages / "dependencies.pth").write_text("\n".join(dict.fromkeys(linked)) + "\n")
    hidden = "".join(f"sys.modules[{name!r}] = None\n" for name in OPTIONAL)
    (packages / "sitecustomize.py").write_text(f"import sys\n{hidden}")
    (folder / "experiments").mkdir()
    for name in ("__init__", "icarl"):
        (folder / f"experiments/{name}.py").write_text("raise SystemExit('not ours')\n")
    kept = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}

    def run(program, *arguments):
        return subprocess.run(
            [folder / "venv/bin" / program, *arguments],
            cwd=folder,
            env={**kept, "PYTHONSAFEPATH": ""},
            capture_output=True,
            text=True,
            check=False,
        )

    return run


def test_the_source_distribution_has_its_tests_and_what_they_read(distributions):
    names, _ = distributions
    for folder in ("tests", "docs", "experiments", "notebooks", "cil_jax"):
        files = (f for f in (ROOT / folder).rglob("*") if f.suffix in (".py", ".md", ".ipynb"))
        assert {str(f.relative_to(ROOT)) for f in files} <= names
    files = {"README.md", "RESULTS.md", "BENCHMARKS.md", "LICENSE", "Makefile", "constraints.txt"}
    files |= {
        ".github/workflows/checks.yml",
        ".pre-commit-config.yaml",
        "CITATION.cff",
        "mkdocs.yml",
    }
    assert files <= names
    assert {str(f.relative_to(ROOT)) for f in (ROOT / "cil_jax").rglob("*.yaml")} <= names


def test_the_wheel_has_the_package_with_its_data_and_nothing_else(distributions):
    with zipfile.ZipFile(distributions[1]) as wheel:
        names = wheel.namelist()
        (metadata,) = (wheel.read(name).decode() for name in names if name.endswith("METADATA"))
    assert {name.split("/")[0].partition("-")[0] for name in names} == {"cil_jax"}
    data = {
        str(f.relative_to(ROOT))
        for f in (ROOT / "cil_jax").rglob("*")
        if f.is_file() and "__pycache__" not in f.parts
    }
    assert data <= set(names)
    about = Parser().parsestr(metadata)
    assert about["Version"] == cil_jax.__version__ and about["License-Expression"] == "MIT"
    urls = dict(line.split(", ") for line in about.get_all("Project-URL"))
    assert {"Source", "Documentation", "Changelog"} <= urls.keys()
    assert {urlparse(url).scheme for url in urls.values()} == {"https"}
    assert {"all", "digits", "plots", "stream", "tensorboard", "tfds"} <= {
        *about.get_all("Provides-Extra")
    }
    required = [line for line in about.get_all("Requires-Dist") if "extra ==" not in line]
    assert not [line for line in required if line.startswith(("matplotlib", "tensorflow", "grain"))]


def test_the_installed_command_ignores_an_experiments_folder_of_the_users(elsewhere):
    result = elsewhere("cil-jax", "icarl", "--epochs", "3", "--print-config")
    assert result.returncode == 0, result.stderr
    assert "method: icarl" in result.stdout and "epochs: 3 " in result.stdout
    result = elsewhere("python", "-m", "cil_jax", "--version")
    assert result.stdout == f"cil_jax {cil_jax.__version__}\n"
    result = elsewhere("cil-jax", "icrl")
    assert result.returncode == 2 and "unknown command 'icrl': did you mean 'icarl'" in (
        result.stderr
    )


def test_the_vocabulary_needs_no_extra(elsewhere):
    code = (
        "import cil_jax, jax.numpy as jnp; zeros = jnp.zeros((1, 2));"
        "print(cil_jax.__file__, cil_jax.losses.cross_entropy(zeros, jnp.zeros(1, int)))"
    )
    result = elsewhere("python", "-c", code)
    assert "/venv/" in result.stdout and "0.693" in result.stdout, result.stderr


def test_a_comparison_needs_an_extra_for_its_figure_only(elsewhere, tmp_path):
    run = write_run(tmp_path / "run")
    result = elsewhere("cil-jax", "compare", str(run.path), "--figure", str(tmp_path / "f.png"))
    assert "icarl" in result.stdout
    assert result.returncode == 2 and result.stderr == (
        "error: figures need matplotlib, which is not installed: pip install 'cil_jax[plots]'\n"
    )


def test_a_report_is_written_without_figures(elsewhere, tmp_path):
    run = write_run(tmp_path / "run")
    result = elsewhere("cil-jax", "report", str(run.path))
    assert result.returncode == 0 and run.report_file.exists(), result.stderr
    assert result.stderr.startswith("warning: no figures were drawn: figures need matplotlib")


@pytest.mark.parametrize(
    ("package", "use", "extra"),
    [
        ("sklearn.datasets", digits.load, "digits"),
        ("tensorflow_datasets.core", tfds.default_data_dir, "tfds"),
        ("grain", lambda: streaming.map_ahead(str, [1]), "stream"),
    ],
)
def test_what_is_missing_is_said_with_its_extra(monkeypatch, package, use, extra):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingExtra, match=rf"pip install 'cil_jax\[{extra}\]'"):
        use()

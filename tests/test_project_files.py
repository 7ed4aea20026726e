"""The project's files agree: GitHub and the hooks run what `make` runs, on the same Pythons."""

import re
import tomllib
from pathlib import Path

import yaml

import cil_jax

ROOT = Path(__file__).parents[1]
MAKEFILE = (ROOT / "Makefile").read_text()
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
WORKFLOW = yaml.safe_load((ROOT / ".github/workflows/checks.yml").read_text())
WEEKLY = yaml.safe_load((ROOT / ".github/workflows/weekly.yml").read_text())
HOOKS = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())
CHECKS = {"test", "test-all", "lint", "types", "docs", "wheel"}


def recipe(target):
    """What make runs for a target."""
    return re.search(rf"^{target}:.*\n((?:\t.*\n)+)", MAKEFILE, re.MULTILINE)[1]


def test_the_workflow_runs_each_check_of_make_and_nothing_else():
    ran = []
    for name, job in [*WORKFLOW["jobs"].items(), *WEEKLY["jobs"].items()]:
        (command,) = [step["run"] for step in job["steps"] if "run" in step]
        assert command == f"make {name} PYTHON=python"
        ran.append(name)
    assert sorted(ran) == sorted(CHECKS)
    assert all(recipe(name) for name in CHECKS)


def test_the_pythons_are_those_of_the_package():
    tested = WORKFLOW["jobs"]["test"]["strategy"]["matrix"]["python"]
    words = "Programming Language :: Python :: 3."
    declared = [line[len(words) - 2 :] for line in PROJECT["classifiers"] if line.startswith(words)]
    assert tested == declared == ["3.11", "3.12", "3.13"]
    assert PROJECT["requires-python"] == f">={tested[0]}"
    assert f"Python {tested[0]} to {tested[-1]}" in (ROOT / "README.md").read_text()


def test_hooks_run_targets_of_make():
    hooks = [hook for repository in HOOKS["repos"] for hook in repository["hooks"]]
    assert [hook["entry"] for hook in hooks] == ["make lint", "make types"]
    assert "ruff check" in recipe("lint") and "basedpyright" in recipe("types")


def test_the_suites_of_make_have_lint_and_types_and_one_of_them_all_tests():
    for name, selection in (("test", r' -m "not slow"'), ("test-all", "")):
        suite = rf"^{name}: lint types\n\t\$\(PYTEST\){selection}$"
        assert re.search(suite, MAKEFILE, re.MULTILINE)


def test_each_tool_of_make_is_in_an_extra_and_has_its_version():
    pinned = (ROOT / "constraints.txt").read_text()
    extras = PROJECT["optional-dependencies"]
    packages = " ".join([*extras["test"], *extras["docs"]])
    tools = {tool for tool in re.findall(r"\$\(RUN\) -m (\w+)", MAKEFILE)} - {"pip", "cil_jax"}
    assert tools == {"pytest", "ruff", "basedpyright", "mkdocs", "build"}
    for tool in tools:
        assert re.search(rf"(^| ){tool}(>=|-material>=)", packages), tool
        assert re.search(rf"^{tool}==", pinned, re.MULTILINE), tool


def test_version_and_addresses_are_the_same_everywhere():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    urls = PROJECT["urls"]
    assert citation["version"] == cil_jax.__version__
    assert (citation["repository-code"], citation["url"]) == (urls["Source"], urls["Homepage"])
    assert citation["license"] == PROJECT["license"]
    changes = (ROOT / "CHANGELOG.md").read_text()
    assert f"## [{cil_jax.__version__}]" in changes and "## [Unreleased]" in changes
    assert all(urls["Source"] in line for line in re.findall(r"^\[.*\]: .*", changes, re.MULTILINE))

"""The plan of the house: imports between rooms go down, and nothing imports in a circle."""

import ast
import graphlib
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "cil_jax"

# From the bottom up. A room may import from those in lines above its own, and from itself; rooms in
# one line do not import each other. A name is a folder, or a file directly in the package.
VOCABULARY = (
    *("losses", "heads", "selection", "memory", "classifiers", "metrics", "confusion"),
    *("schedules", "network", "learner", "regression"),
)
FLOORS = (
    ("typing", "errors"),
    ("files",),
    ("settings",),
    ("platform",),
    VOCABULARY,  # the flat files: these may import each other
    ("data", "models"),
    ("methods",),
    ("storage",),
    ("training",),
    ("report", "trained"),
    ("app", "benchmark"),
    ("commands",),
    ("__main__",),
)


def modules() -> dict[str, ast.Module]:
    """The syntax tree of each module of the package, by its dotted name."""
    found = {}
    for file in sorted(PACKAGE.rglob("*.py")):
        parts = ("cil_jax", *file.relative_to(PACKAGE).with_suffix("").parts)
        found[".".join(parts).removesuffix(".__init__")] = ast.parse(file.read_text())
    return found


MODULES = modules()


def imports(name: str) -> dict[str, int]:
    """The modules of the package that a module imports, also within functions, with their lines."""
    found: dict[str, int] = {}
    for node in ast.walk(MODULES[name]):
        if isinstance(node, ast.Import):
            imported = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            dotted = [f"{node.module}.{alias.name}" for alias in node.names]
            imported = [full if full in MODULES else node.module for full in dotted]
        else:
            continue
        found |= {module: node.lineno for module in imported if module in MODULES}
    found.pop("cil_jax", None)  # its names are looked up when they are used
    return found


def room(module: str) -> str:
    return module.split(".")[1]


def floor(module: str) -> int:
    return next(n for n, rooms in enumerate(FLOORS) if room(module) in rooms)


def test_every_file_has_a_room():
    entries = {
        p.stem for p in PACKAGE.iterdir() if p.suffix == ".py" or (p / "__init__.py").exists()
    }
    assert entries - {"__init__"} == {room for rooms in FLOORS for room in rooms}


@pytest.mark.parametrize("name", sorted(MODULES.keys() - {"cil_jax"}))
def test_imports_between_rooms_go_down(name):
    climbing = [
        f"{name}, line {line}, imports {module}"
        for module, line in imports(name).items()
        if room(module) != room(name)
        and floor(module) >= floor(name)
        and not {room(module), room(name)} <= set(VOCABULARY)
    ]
    assert not climbing


def test_no_file_imports_itself_in_a_circle():
    packages = {name for name in MODULES if any(m.startswith(f"{name}.") for m in MODULES)}
    graph = {
        # A package imports its own files; that they lie in it is no circle.
        name: {m for m in imports(name) if not (m in packages and name.startswith(f"{m}."))}
        for name in MODULES
        if name != "cil_jax"
    }
    graphlib.TopologicalSorter(graph).prepare()  # raises CycleError with the circle

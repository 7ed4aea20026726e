"""What results depend on beside the settings: set, refused or recorded; and a cache that fails."""

import os
import tempfile
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest
import yaml
from conftest import small_config, write_run
from jax.experimental.compilation_cache import compilation_cache

from cil_jax.app import program_cache
from cil_jax.app.launch import run
from cil_jax.data import cache
from cil_jax.errors import UserError
from cil_jax.platform import environment, machine
from cil_jax.report.groups import compare
from cil_jax.settings import config
from cil_jax.storage.run_folder import RunFolder
from cil_jax.trained.saved_learner import load

OTHERWISE = {  # what else each option may be
    "jax_enable_x64": True,
    "jax_explicit_x64_dtypes": "allow",
    "jax_numpy_dtype_promotion": "strict",
    "jax_default_prng_impl": "rbg",
    "jax_threefry_partitionable": False,
    "jax_random_seed_offset": 7,
    "jax_disable_jit": True,
    "jax_disable_most_optimizations": True,
    "jax_enable_pgle": True,
    "jax_numpy_rank_promotion": "raise",
    "jax_debug_nans": True,
    "jax_debug_infs": True,
}
KNOWN = jax.config.values  # not every version of JAX has each


@pytest.fixture
def option():
    """Sets an option of JAX, until the test ends."""
    before = {name: environment.option(name) for name in OTHERWISE if name in jax.config.values}
    yield jax.config.update
    for name, value in before.items():
        jax.config.update(name, value)


# Options of JAX


def test_the_tests_know_each_option():
    assert OTHERWISE.keys() == {**environment.NEEDED, **environment.CHECKS}.keys()


@pytest.mark.parametrize("name", [name for name in environment.NEEDED if name in KNOWN])
def test_from_python_an_option_that_changes_results_is_refused_and_left(option, tmp_path, name):
    option(name, OTHERWISE[name])
    with pytest.raises(UserError, match=f"{name} is {OTHERWISE[name]}.*unset {name.upper()}"):
        run(small_config("icarl", tmp_path / "run"))
    assert environment.option(name) == OTHERWISE[name] and not (tmp_path / "run").exists()


def test_in_its_context_a_run_is_not_refused(option, tmp_path):
    option("jax_enable_x64", True)
    with jax.enable_x64(False):
        environment.check_options()


@pytest.mark.parametrize("name", [name for name in OTHERWISE if name in KNOWN])
def test_a_command_sets_what_a_run_needs(option, name):
    option(name, OTHERWISE[name])
    environment.set_options()
    assert environment.option(name) == {**environment.NEEDED, **environment.CHECKS}[name]


# What is recorded, and what has changed since


def test_the_settings_have_what_they_depend_on_beside_them(tmp_path, monkeypatch):
    monkeypatch.setenv("NVIDIA_TF32_OVERRIDE", "0")
    folder = RunFolder(tmp_path / "run")
    with jax.default_matmul_precision("bfloat16"):
        folder.start(small_config("icarl", folder.path))
    found = yaml.safe_load(folder.config_file.read_text())
    assert found["machine"] == {k: v for k, v in machine.describe().items() if k != "load"}
    assert {"cpu", "cores", "platform", "device"} <= found["machine"].keys()
    assert found["options"]["jax_default_matmul_precision"] == "bfloat16"
    assert found["options"]["NVIDIA_TF32_OVERRIDE"] == "0"
    assert found["versions"]["jax"] == jax.__version__


def test_nothing_has_changed_where_nothing_has():
    assert environment.changes(environment.describe()) == []
    assert environment.changes({}) == []  # an older version wrote nothing
    assert environment.changes({"versions": "?", "machine": None, "options": [1]}) == []


@pytest.mark.parametrize(
    ("part", "name", "value"),
    [
        ("machine", "cores", 4096),
        ("machine", "cpu", "an abacus"),
        ("machine", "platform", "tpu"),
        ("versions", "jax", "0.1.0"),
        ("versions", "jaxlib", "0.1.0"),
        ("versions", "numpy", "0.1.0"),
        ("options", "jax_default_matmul_precision", "highest"),
        ("options", "XLA_FLAGS", "--xla_cpu_enable_fast_math=true"),
    ],
)
def test_what_has_changed_is_named(part, name, value):
    before = environment.describe()
    now = before[part][name]
    before[part][name] = value
    changes = environment.changes(before)
    assert f"{name} was {value}, is now {now}" in changes
    assert len(changes) == 1 or name == "platform"


def test_of_python_the_minor_version_counts():
    before = environment.describe()
    version = before["versions"]["python"]
    before["versions"]["python"] = version.rpartition(".")[0] + ".99"
    assert environment.changes(before) == []
    before["versions"]["python"] = "3.1.4"
    assert environment.changes(before) == [f"python was 3.1, is now {version.rpartition('.')[0]}"]


def test_runs_of_other_machines_are_of_one_group(tmp_path):
    for seed in (0, 1):
        folder = write_run(tmp_path / f"{seed}", seeds={"order": 1993, "init": seed, "data": seed})
        stored = yaml.safe_load(folder.config_file.read_text())
        stored["machine"]["cores"], stored["options"]["XLA_FLAGS"] = seed, f"--number={seed}"
        folder.config_file.write_text(yaml.safe_dump(stored))
    (group,) = compare([tmp_path / "0", tmp_path / "1"])[0].groups
    assert group.summary["n"] == 2


@pytest.fixture
def as_another_user():
    """Goes on as somebody without rights, where this is root, who has all."""
    yield lambda: os.seteuid(65534 if os.getuid() == 0 else os.getuid())
    os.seteuid(os.getuid())


# Caches


def damage_half(file):
    os.truncate(file, file.stat().st_size // 2)


def damage_a_byte(file):
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def empty(file):
    file.write_bytes(b"")


@pytest.fixture
def open_folder():
    """A folder that other users may enter, as they may not enter tmp_path."""
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        yield Path(folder)


@pytest.fixture
def kept(open_folder, monkeypatch):
    """The folder of compiled programs, and what compiles three of them."""
    names = ("jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs")
    before = {name: getattr(jax.config, name) for name in names}
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR")
    monkeypatch.setenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
    folder = open_folder / "programs"
    program_cache.keep_in(folder)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)

    def compile_three():
        """As a new process does."""
        compilation_cache.reset_cache()
        monkeypatch.setattr(program_cache, "_told", set())
        answers = [jax.jit(lambda x, n=n: x * n + 1)(jnp.float32(2)) for n in (3, 5, 7)]
        assert answers == [7, 11, 15]
        return sorted(folder.glob("*-cache"))

    yield folder, compile_three
    for name, value in before.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("damage", [damage_half, damage_a_byte, empty])
def test_damaged_programs_are_replaced_with_one_line(kept, capsys, damage):
    folder, compile_three = kept
    files = compile_three()
    assert len(files) >= 3 and capsys.readouterr().err == ""
    for file in files:
        damage(file)
    damaged = [file.read_bytes() for file in files]
    compile_three()
    error = capsys.readouterr().err
    assert error.startswith(f"warning: a compiled program in {folder} can't be read and is")
    assert error.count("\n") == 1
    # There may be others, of what JAX computes once a process.
    assert sum(f.read_bytes() != was for f, was in zip(files, damaged, strict=True)) >= 3
    compile_three()
    assert capsys.readouterr().err == ""


@pytest.mark.filterwarnings("error")
def test_programs_of_another_user_are_left(kept, capsys, as_another_user):
    folder, compile_three = kept
    files = compile_three()
    folder.chmod(0o777)
    for file in files:
        file.chmod(0)
    as_another_user()
    compile_three()
    assert [file.stat().st_mode & 0o777 for file in files] == [0] * len(files)
    assert capsys.readouterr().err.count("can't be read") == 1


@pytest.mark.filterwarnings("error")
def test_programs_that_cannot_be_kept_are_said_in_one_line(kept, capsys):
    folder, compile_three = kept
    folder.rmdir()
    folder.write_text("")  # a file
    compile_three()
    lines = capsys.readouterr().err.splitlines()
    assert 1 <= len(lines) <= 2 and all(str(folder) in line for line in lines), lines


@pytest.fixture
def homeless(monkeypatch):
    """A user without HOME and without an entry in passwd."""
    for name in ("HOME", "XDG_CACHE_HOME", "CIL_JAX_CACHE"):
        monkeypatch.delenv(name, raising=False)

    def unknown(number):
        raise KeyError(f"getpwuid(): uid not found: {number}")

    monkeypatch.setattr("pwd.getpwuid", unknown)


def test_nothing_is_kept_for_a_user_without_a_home(homeless, tmp_path):
    assert config.cache_dir() is None
    made = []
    for _ in range(2):
        arrays = cache.cached("name", tmp_path, 0, lambda: made.append(1) or {"a": jnp.zeros(1)})
        assert arrays.keys() == {"a"}
    assert len(made) == 2


def test_programs_are_not_kept_where_there_is_no_cache(monkeypatch, tmp_path):
    names = ("jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs")
    before = {name: getattr(jax.config, name) for name in names}
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR")
    (tmp_path / "file").write_text("")
    try:
        for folder in (None, tmp_path / "file/programs"):
            program_cache.keep_in(folder)
            assert jax.config.jax_compilation_cache_dir == before[names[0]]
    finally:
        for name, value in before.items():
            jax.config.update(name, value)


# Folders that the system refuses


@pytest.fixture
def shut(open_folder, as_another_user):
    """A folder that may not be entered."""
    folder = open_folder / "shut"
    folder.mkdir()
    folder.chmod(0)
    as_another_user()
    yield folder
    os.seteuid(os.getuid())
    folder.chmod(0o700)


def run_there(folder):
    run(small_config("icarl", folder))


def resume_there(folder):
    run(small_config("icarl", folder, resume=True))


def compare_there(folder):
    compare([folder])


ways = pytest.mark.parametrize("way", [run_there, resume_there, compare_there, load])


@ways
def test_a_folder_that_may_not_be_entered_is_refused(shut, way):
    for folder in (shut, shut / "run"):
        with pytest.raises(UserError) as refused:
            way(folder)
        assert refused.value.lines == (f"{folder} can't be read: Permission denied",)


@ways
def test_a_folder_whose_name_is_too_long_is_refused(tmp_path, way):
    folder = tmp_path / ("x" * 300)
    with pytest.raises(UserError) as refused:
        way(folder)
    assert refused.value.lines == (f"{folder} can't be read: File name too long",)

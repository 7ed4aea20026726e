"""What a command asks of the machine before JAX starts."""

import os
import sys
from types import SimpleNamespace

import jax
import pytest

from cil_jax.app import accelerator
from cil_jax.errors import UserError


@pytest.fixture
def started_anew(monkeypatch, tmp_path):
    """What a command is replaced by, a list; Linux gives huge pages to who asks for them."""
    calls = []
    monkeypatch.setattr(accelerator, "HUGE_PAGES", tmp_path / "enabled")
    accelerator.HUGE_PAGES.write_text("always [madvise] never\n")
    monkeypatch.setenv(accelerator.TUNABLES, "")
    monkeypatch.delenv(accelerator.TUNABLES)  # and after the test, whatever it was set to
    main = SimpleNamespace(__spec__=SimpleNamespace(name="cil_jax.__main__"))
    monkeypatch.setitem(sys.modules, "__main__", main)
    monkeypatch.setattr(sys, "orig_argv", ["python3", "-X", "dev", "-m", "cil_jax", "icarl", "-x"])
    monkeypatch.setattr(os, "execv", lambda *call: calls.append(call))
    return calls


def test_a_command_starts_anew_with_huge_pages_once(started_anew):
    for _ in range(2):
        accelerator.take_huge_pages("auto")
    same = [sys.executable, "-X", "dev", "-m", "cil_jax", "icarl", "-x"]
    assert started_anew == [(sys.executable, same)]
    assert os.environ["GLIBC_TUNABLES"] == "glibc.malloc.hugetlb=1"


@pytest.mark.parametrize(
    ("spec", "program"), [("experiments.icarl", "icarl.py"), (None, "bin/cil-jax")]
)
def test_so_do_the_other_ways_to_start_it(started_anew, monkeypatch, spec, program):
    main = SimpleNamespace(__spec__=SimpleNamespace(name=spec) if spec else None)
    monkeypatch.setitem(sys.modules, "__main__", main)
    monkeypatch.setattr(sys, "argv", [program, "-x"])
    accelerator.take_huge_pages("auto")
    assert len(started_anew) == 1


@pytest.mark.parametrize("name", ["gpu", "tpu"])
def test_nothing_starts_anew_for_other_accelerators(started_anew, name):
    accelerator.take_huge_pages(name)
    assert not started_anew


@pytest.mark.parametrize("pages", ["[always] madvise never\n", "always madvise [never]\n", None])
def test_nothing_starts_anew_where_asking_changes_nothing(started_anew, pages):
    accelerator.HUGE_PAGES.unlink()
    if pages:
        accelerator.HUGE_PAGES.write_text(pages)
    accelerator.take_huge_pages("auto")
    assert not started_anew


@pytest.mark.parametrize(
    "main",
    [SimpleNamespace(__spec__=None), SimpleNamespace(__spec__=SimpleNamespace(name="pytest"))],
)
def test_no_other_program_is_replaced(started_anew, monkeypatch, main):
    monkeypatch.setitem(sys.modules, "__main__", main)
    accelerator.take_huge_pages("auto")
    assert not started_anew


def test_a_file_that_has_started_jax_too_soon_is_said():
    """A file of the user's is imported before the accelerator is chosen, and may not compute."""
    jax.devices()
    before = jax.config.jax_platforms
    try:
        with pytest.raises(UserError, match="JAX was started on cpu before --accelerator gpu"):
            accelerator.start_accelerator("gpu")
    finally:
        jax.config.update("jax_platforms", before)

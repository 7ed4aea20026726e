"""Names of classes: what is refused in a list of them, and where data sets say so."""

import unicodedata

import numpy as np
import pytest
from PIL import Image

from cil_jax import data
from cil_jax.data.user_data import name_problems
from cil_jax.errors import UserError

ALIKE = [
    ("Käfer", unicodedata.normalize("NFD", "Käfer"), "'Käfer' (K<U+00E4>fer)", "(Ka<U+0308>fer)"),
    ("cat", "cat\u200b", "'cat'", "(cat<U+200B>)"),  # a space of no width
    ("cat", "\ufeffcat", "'cat'", "(<U+FEFF>cat)"),  # a byte order mark
    ("cat", "c\u00adat", "'cat'", "(c<U+00AD>at)"),  # a soft hyphen
    ("cat", "c\u034fat", "'cat'", "(c<U+034F>at)"),  # a joiner of graphemes
    ("❤", "❤\ufe0f", "'❤' (<U+2764>)", "(<U+2764><U+FE0F>)"),  # a variation selector
    ("葛", "葛\U000e0100", "'葛' (<U+845B>)", "(<U+845B><U+E0100>)"),
    ("가", "ᄀ\u200dᅡ", "'가' (<U+AC00>)", "(<U+1100><U+200D><U+1161>)"),
    ("sea lion", "sea\u00a0lion", "'sea lion'", "(sea<U+00A0>lion)"),
    ("sea lion", "sea  lion", "'sea lion'", "'sea  lion'"),
    ("cat", "cat ", "'cat'", "'cat '"),
]


@pytest.mark.parametrize(("name", "other", "shown", "shown_other"), ALIKE)
def test_names_that_look_the_same_are_refused_with_their_characters(
    name, other, shown, shown_other
):
    (problem,) = name_problems(["dog", name, "owl", other])
    assert problem.startswith(f"the class names {shown} and ")
    assert problem.endswith(f"{shown_other} look the same: rename one")


def test_names_that_can_be_told_apart_are_taken():
    names = [
        "cat",
        "Cat",
        "ca t",
        "m2",
        "m²",
        "A",
        "\uff21",
        "ﬁn",
        "fin",
        "Straße",
        "Strasse",
        "naïve",
    ]
    assert name_problems([*names, "naive", "👩‍🔬", "1"]) == []
    assert name_problems(np.array(["a", "b"])) == []


def test_equal_names_and_names_of_nothing_are_refused():
    assert name_problems(["a", "b", "a", "a"]) == ["two classes are named 'a'"]
    assert name_problems(np.array(["a", "a"])) == ["two classes are named 'a'"]
    nothing = ["", " ", "\u200b", "\ufe0f\u3164", "a\nb", "\x1b[31m", "\ud800", "a\u2028b"]
    for name, shown in [*((n, repr(n)) for n in nothing), (7, "7"), (None, "None"), (b"a", "b'a'")]:
        expected = f"the class name {shown} is not printable text: rename the class"
        assert name_problems(["a", name]) == [expected]


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("CIL_JAX_CACHE", str(tmp_path / "own_cache"))


def test_data_sets_refuse_names_that_look_the_same(tmp_path):
    images, labels = np.zeros((4, 2, 2), np.uint8), np.array([0, 0, 1, 1])
    np.savez(tmp_path / "x.npz", images=images, labels=labels, names=np.array(["a", "a\u200b"]))
    with pytest.raises(UserError, match=r"'a' and 'a\\u200b' \(a<U\+200B>\) look the same"):
        data.load(f"npz:{tmp_path / 'x.npz'}")
    for name in ("ä", "a\u0308"):
        (tmp_path / "pictures" / name).mkdir(parents=True)
        for i in range(2):
            Image.new("L", (2, 2)).save(tmp_path / "pictures" / name / f"{i}.png")
    with pytest.raises(UserError, match=r"\(a<U\+0308>\) and 'ä' \(<U\+00E4>\) look the same"):
        data.load(f"folder:{tmp_path / 'pictures'}")

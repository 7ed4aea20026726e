"""The bounded readers of YAML and JSON."""

import pytest

from cil_jax.errors import UserError
from cil_jax.files import reading
from cil_jax.settings import loading
from cil_jax.storage.run_folder import RunFolder

BOMB = "a: &a [1, 1, 1, 1, 1, 1, 1, 1, 1]\n" + "".join(
    f"{name}: &{name} [{', '.join([f'*{below}'] * 9)}]\n"
    for below, name in zip("abcdefgh", "bcdefghi", strict=True)
)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("epochs: 3\nmemory: 5\nepochs: 4\n", "line 3: epochs is given twice, first in line 1"),
        ("{epochs: 3, epochs: 4}", "line 1: epochs is given twice, first in line 1"),
        ('versions: {a: "1", b: "2",\n  a: "3"}', "line 2: a is given twice, first in line 1"),
        (BOMB, "line 1: anchors and aliases"),
        ("epochs: &x 3\nmemory: *x", "line 1: anchors and aliases"),
        ("epochs: 3\nmemory: !!int 5", "line 2: tags"),
        ("memory: !!python/object:os.system x", "line 1: tags"),
        (f"memory: {'[' * 20_000}{']' * 20_000}", "line 1: more than 16 levels"),
        ("- " * 20_000, "line 1: more than 16 levels"),
        ("memory: " + "1" * 5000, "not valid YAML"),
        ("memory: 2020-99-99", "not valid YAML"),
        ("memory: \x00", "not a text file"),
        ("? [1, 2]\n: 3", "line 1"),
        ("epochs: [", "not valid YAML: line 1"),
        ("a" * (reading.LARGEST_YAML + 1), "more than 1,048,576 bytes"),
    ],
)
def test_yaml_that_is_hostile_is_refused_with_its_line(tmp_path, text, said):
    file = tmp_path / "config.yaml"
    file.write_text(text)
    with pytest.raises(UserError) as error:
        loading.read(file)
    assert said in str(error.value) and str(file) in str(error.value)
    with pytest.raises(UserError) as error:
        RunFolder(tmp_path).settings()
    assert said in str(error.value) and str(file) in str(error.value)


def test_a_value_that_is_no_setting_is_refused_by_its_name(tmp_path):
    (tmp_path / "config.yaml").write_text("memory: 2020-01-01\n")
    with pytest.raises(UserError, match=r"config\.yaml is damaged: memory: Expected"):
        RunFolder(tmp_path).settings()


def test_settings_are_read_as_they_were(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text("epochs: 3\nrate-steps: [0.5, 0.8]\n".replace("rate-steps", "rate_steps"))
    assert loading.read(file) == {"epochs": 3, "rate_steps": (0.5, 0.8)}


def test_a_file_larger_than_its_bound_is_not_read_to_its_end(tmp_path):
    file = tmp_path / "large"
    with file.open("wb") as out:
        out.truncate(10**12)  # on no disk
    with pytest.raises(UserError, match="more than 100 bytes"):
        reading.read_bytes(file, 100)


def test_the_field_that_is_wrong_is_named(tmp_path):
    value = {"good": [{"a": 1}], "bad": [{"a": 1}, {"a": 1, "b": "text"}]}
    with pytest.raises(UserError, match=r"^x is damaged: bad\[1\]\.b: Expected `int`, got `str`$"):
        reading.converted(value, dict[str, list[dict[str, int]]], "x")


def test_numbers_that_json_does_not_have_are_numbers():
    assert reading.from_json('{"a": Infinity}', dict[str, float], "x") == {"a": float("inf")}


def test_what_cannot_be_printed_is_shown_as_escapes():
    assert reading.printable("a\0b\x1b[31mc") == "a\\x00b\\x1b[31mc"

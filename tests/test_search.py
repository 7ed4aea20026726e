"""The search for a learning rate and a trade-off: its course by hand, and that it sees no test."""

import dataclasses

import numpy as np
import pytest
from conftest import small_config

from cil_jax import data
from cil_jax.app.search import Trial, chosen, trials
from cil_jax.commands import search as command
from cil_jax.errors import UserError
from cil_jax.training.build import dataset_of

DIGITS = data.load("digits")
FINETUNED = {0.5: 0.7, 0.1: 0.9, 0.01: 0.4}


def learn(method, rate, trade_off):
    """Of lambda 8, 4, 2, ... the accuracy on the new task is 0.9 - lambda / 10."""
    new = FINETUNED[rate] if method == "finetune" else 0.9 - trade_off / 10
    return Trial(method, rate, trade_off, new, 0.5, seconds=1.0)


def test_the_best_rate_is_kept_and_the_trade_off_halved_until_it_is_within_the_drop():
    """0.8 * 0.9 = 0.72 is reached by 0.9 - lambda / 10 at lambda 1, not at 2 (0.7)."""
    done = list(trials(learn, "lwf", [0.5, 0.1, 0.01], 8.0, drop=0.2))
    assert [(trial.method, trial.rate) for trial in done[:3]] == [
        ("finetune", 0.5), ("finetune", 0.1), ("finetune", 0.01)
    ]  # fmt: skip
    assert [trial.trade_off for trial in done[3:]] == [8, 4, 2, 1]
    assert {trial.rate for trial in done[3:]} == {0.1}
    choice = chosen(done, 0.2)
    assert (choice.rate, choice.trade_off, choice.is_accepted) == (0.1, 1, True)


def test_a_method_without_a_trade_off_takes_the_best_rate():
    done = list(trials(learn, "replay", [0.5, 0.1], None, drop=0.2))
    assert len(done) == 2 and chosen(done, 0.2).rate == 0.1 and chosen(done, 0.2).trade_off is None


def test_it_gives_up_where_no_trade_off_is_within_the_drop():
    def learn_nothing(method, rate, trade_off):
        return Trial(method, rate, trade_off, 0.9 if method == "finetune" else 0.1, 0.5, 1.0)

    done = list(trials(learn_nothing, "lwf", [0.1], 1.0, drop=0.2))
    choice = chosen(done, 0.2)
    assert len(done) == 14 and not choice.is_accepted and choice.trade_off is None


def test_held_out_images_are_training_images_and_the_same_share_of_each_class():
    held = DIGITS.validating(0.25)
    before, after = np.bincount(DIGITS.train_labels), np.bincount(held.train_labels)
    assert (before - after == np.round(0.25 * before)).all()
    assert (np.bincount(held.test_labels) == before - after).all()

    def rows(*images):
        return sorted(image.tobytes() for part in images for image in part)

    assert rows(held.train_images, held.test_images) == rows(DIGITS.train_images)
    again = DIGITS.validating(0.25)
    assert again.sha256() == held.sha256()
    one = dataclasses.replace(DIGITS, train_labels=np.arange(len(DIGITS.train_labels)) * 0)
    with pytest.raises(UserError, match="two training images of each class; '1' has 0"):
        one.validating(0.1)


def test_the_setting_holds_images_out(tmp_path):
    config = small_config("finetune", tmp_path, validation=0.5)
    assert len(dataset_of(config).test_labels) == pytest.approx(len(DIGITS.train_labels) / 2, abs=9)


def test_the_search_never_sees_a_test_image(tmp_path, monkeypatch, capsys):
    """Where all of them are noise, it chooses the same, by the same numbers."""
    flags = ["lwf", "--dataset", "digits", "--task-size", "2", "--backbone", "tiny", "--epochs"]
    flags += ["2", "--batch-size", "32", "--rates", "0.1", "--start", "2"]

    def said(name):
        assert command.main([*flags, "--out", str(tmp_path / name)]) == 0
        return capsys.readouterr().out

    lines = said("one")
    noise = np.random.RandomState(0).randint(0, 256, DIGITS.test_images.shape, np.uint8)
    monkeypatch.setattr(
        data, "load", lambda *_, **__: dataclasses.replace(DIGITS, test_images=noise)
    )
    other = said("other")

    def without_times(text):
        trials = [line for line in text.splitlines() if "on the new task" in line]
        return [line.rpartition(", in ")[0] for line in trials]

    assert without_times(lines) == without_times(other) and len(without_times(lines)) >= 2
    assert "choose --rate 0.1 --lambda" in lines and "cost: " in lines
    # A second time, nothing is trained again.
    monkeypatch.setattr(command.launch, "run", lambda *_, **__: pytest.fail("trained again"))
    assert without_times(said("one")) == without_times(lines)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["lwff"], "unknown method 'lwff': did you mean 'lwf'?"),
        (["lwf", "--seeds", "0,1"], "--seeds is not for a search"),
        (["lwf", "--trade-off", "rates"], "lwf has no number 'rates'"),
        (["lwf", "--drop", "1"], "--drop is 1.0; it must lie between 0 and 1"),
        (["lwf", "--rates", "0"], "--rates must be above 0"),
    ],
)
def test_what_it_can_not_search_is_refused(flags, message, capsys):
    assert command.main(flags) == 2
    assert message in capsys.readouterr().err

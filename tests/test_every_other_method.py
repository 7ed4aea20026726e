"""The tests of `test_every_method.py` for the other half of the methods."""

import pytest
from test_every_method import (
    COVERING,
    HALF,
    run_whole,
    some,
    test_a_loaded_learner_predicts_learns_and_is_saved_and_exported,
    test_it_learns_something,
    test_stopped_in_each_step_of_its_plan_it_ends_the_same,
    test_together_with_another_seed_it_is_the_same,
    test_with_images_on_the_host_it_is_the_same,
)

from cil_jax.methods import METHODS

__all__ = [
    "test_a_loaded_learner_predicts_learns_and_is_saved_and_exported",
    "test_it_learns_something",
    "test_stopped_in_each_step_of_its_plan_it_ends_the_same",
    "test_together_with_another_seed_it_is_the_same",
    "test_with_images_on_the_host_it_is_the_same",
]


@pytest.fixture(scope="module", params=some(sorted(set(METHODS) - set(HALF)), COVERING))
def config(request, tmp_path_factory):
    return run_whole(request.param, tmp_path_factory)

"""A class is forgotten as if it had never been learned."""

import chex
import numpy as np
import pytest
from conftest import small_config
from frozen_features import ROOM, Pixels, after_tasks, all_of, difference, engine_of, images_of

from cil_jax.errors import UserError
from cil_jax.methods.acil import ACIL
from cil_jax.methods.dsal import DSAL
from cil_jax.methods.ewc import EWC
from cil_jax.methods.fecam import FeCAM
from cil_jax.methods.ranpac import RanPAC
from cil_jax.methods.simplecil import SimpleCIL
from cil_jax.methods.slda import SLDA
from cil_jax.settings import code
from cil_jax.trained.forgetting import forgotten
from cil_jax.trained.saved_learner import SavedLearner
from cil_jax.training.build import Room

TASKS, WITHOUT_2 = ((0, 1), (2, 3), (4,)), ((0, 1), (3,), (4,))
BY_CLASS = [(SimpleCIL, {}), (FeCAM, {})]
BY_SUMS = [(SLDA, {}), (ACIL, {"n_random": 16}), (RanPAC, {"n_random": 16, "ridge": 1.0})]


def scores_of(engine, learner):
    points = all_of(0, 1, 3, 4)[0].astype(np.float32)
    return np.asarray(engine.method.classifiers()[engine.method.headline](learner, points))


@pytest.mark.parametrize(("method", "settings"), [*BY_CLASS, *BY_SUMS])
def test_it_answers_as_if_it_had_never_learned_the_class(method, settings):
    engine = engine_of(method, **settings)
    whole, never = (after_tasks(engine, *tasks) for tasks in (TASKS, WITHOUT_2))
    images = None if (method, settings) in BY_CLASS else images_of(2)
    left = forgotten(engine, whole, 2, images)
    assert difference(scores_of(engine, left)[:, :4], scores_of(engine, never)[:, :4]) < 1e-4
    assert difference(scores_of(engine, whole)[:, :4], scores_of(engine, never)[:, :4]) > 1e-2
    assert int(left.n_seen) == 4 and left.task_of.tolist() == [0, 0, 1, 2, -1, -2]
    for of_left, of_never in ((left.own, never.own), (left.teacher_own, never.own)):
        for part in ("classes", "total"):
            chex.assert_trees_all_close(of_left[part], of_never[part], rtol=1e-4, atol=1e-4)


def test_what_can_not_be_forgotten_is_said():
    engine = engine_of(SLDA)
    learner = after_tasks(engine, *TASKS)
    with pytest.raises(UserError, match="the network was trained on this class"):
        forgotten(engine, learner, 1, images_of(1))
    with pytest.raises(UserError, match="only with its training images"):
        forgotten(engine, learner, 2)
    for others in (images_of(3), images_of(2)[:100]):
        with pytest.raises(UserError, match="not the images that the class was learned from"):
            forgotten(engine, learner, 2, others)
    for method, problem in (
        (EWC, "trains on the images of every class"),
        (DSAL, "residuals of later tasks depend on its images"),
    ):
        with pytest.raises(UserError, match=problem):
            engine_of(method).method.forgotten(learner, 2, None)
    ranpac = engine_of(RanPAC, n_random=16).method
    with pytest.raises(UserError, match="the ridge was chosen on images of this class"):
        ranpac.forgotten(learner, 4, None)


def test_a_saved_learner_forgets_a_class_by_its_name_and_learns_it_again(tmp_path):
    code.BACKBONES.add(Pixels)
    config = small_config("simplecil", tmp_path, backbone="Pixels", pad=0, mirror="no")
    engine = engine_of(SimpleCIL)
    names = ("ant", "bee", "cat", "dog", "eel")
    learner = SavedLearner(config, after_tasks(engine, *TASKS), names, Room(ROOM, 4, ROOM))
    before = learner.predict(images_of(4)).scores
    with pytest.raises(UserError, match="unknown class 'cow'"):
        learner.forget("cow")
    learner.forget("cat")
    assert learner.class_names == ("ant", "bee", "dog", "eel")
    answers = learner.predict(images_of(4))
    np.testing.assert_allclose(answers.scores, np.delete(before, 2, axis=1), rtol=1e-6)
    learner.learn(images_of(2), np.zeros(150, int), ["cat"])
    assert learner.class_names == ("ant", "bee", "dog", "eel", "cat")
    again = learner.predict(images_of(4)).scores
    np.testing.assert_allclose(again, before[:, [0, 1, 3, 4, 2]], rtol=1e-6)

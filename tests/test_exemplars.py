"""Which images each policy keeps, worked out by hand, for all methods that keep exemplars."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_method_contract import begun, engine_of, learned, task_pool
from third_task import FACTS, N_SEEN, ROOM, SHAPE, Small, learner_of

from cil_jax import memory as memory_lib
from cil_jax.errors import UserError
from cil_jax.heads import CLOSED
from cil_jax.methods import METHODS
from cil_jax.methods.bic import BiC
from cil_jax.methods.er import ER
from cil_jax.methods.exemplars import AT_RANDOM, BY_FEATURES, ExemplarMethod
from cil_jax.methods.gdumb import GDumb
from cil_jax.methods.rehearsal import nme
from cil_jax.methods.replay import Replay
from cil_jax.settings.loading import preset
from cil_jax.training.streaming import Streamed

N_NEW_ROWS, CLASS_ROOM = 16, 8
# Images of class 4. Their mean is (.75, .15), to which 0 and then 3 is nearest; the squared
# distances of 1 and 2 are .445 and .925. Herding takes 2 before 1: see test_selection.py.
FOUR = [[1.0, 0.0], [0.6, 0.8], [0.6, -0.8], [0.8, 0.6]]
# With a head that reads this feature as the logit of class 0, the classifier is the less sure the
# closer it is to 0.
LOGITS = [3.0, 0.1, -1.0, 2.0]


def learner_with(method, labels):
    """In the third task, in which classes 4 and 5 are new, with exemplars of these labels."""
    learner = learner_of(method)
    n_slots = len(learner.memory.labels)
    padded = jnp.full(n_slots, -1, jnp.int32).at[: len(labels)].set(jnp.array(labels, jnp.int32))
    return learner.replace(memory=learner.memory.replace(labels=padded))


def pool_of(learner, n_images):
    """So many images of class 4 and of class 5, then the exemplars."""
    labels = np.full(N_NEW_ROWS, -1, np.int32)
    labels[: sum(n_images)] = np.repeat([4, 5], n_images)
    images = np.zeros((N_NEW_ROWS, *SHAPE), np.uint8)
    return memory_lib.join(images, jnp.asarray(labels), learner.memory, 2, CLASS_ROOM)


def kept(slots):
    """The rows that fill the slots of each class, in order."""
    rows: dict[int, list[int]] = {}
    for row, label in zip(np.asarray(slots.source), np.asarray(slots.labels), strict=True):
        if label >= 0:
            rows.setdefault(int(label), []).append(int(row))
    return rows


@pytest.mark.parametrize(
    ("selection", "picks"), [("herding", [0, 3, 2]), ("closest", [0, 3, 1]), ("entropy", [1, 2, 3])]
)
@pytest.mark.parametrize("sizes", [{"memory": 18}, {"per_class": 3, "n_classes": 14}])
def test_a_policy_by_name_orders_new_images_and_old_classes_keep_their_first(
    selection, picks, sizes
):
    """Three images of each class, of five exemplars of class 0; class 5 has only two images.

    With a fixed number per class, there are slots for fourteen classes, of which six are seen.
    """
    method = Replay(Small(), **FACTS | sizes, selection=selection, mirror_means=False)
    assert method.selects_by_features
    learner = learner_with(method, [0] * 5 + [1, 2, 2])
    kernel = jnp.zeros((4, ROOM)).at[2, 0].set(1.0)
    params = {**learner.weights.params, "head": {"kernel": kernel, "bias": jnp.zeros(ROOM)}}
    learner = learner.replace(weights=learner.weights.replace(params=params))
    features = np.zeros((N_NEW_ROWS, 4), np.float32)
    if selection == "entropy":
        features[:4, 2] = LOGITS
    else:
        features[:4, :2] = 7.0 * np.array(FOUR)  # of any length
    slots = method.policy(learner, pool_of(learner, (4, 2)), jnp.array(features), jax.random.key(0))
    first = N_NEW_ROWS  # of the exemplars
    assert kept(slots) == {
        0: [first, first + 1, first + 2],
        1: [first + 5],
        2: [first + 6, first + 7],
        4: picks,
        5: [4, 5],
    }


@pytest.mark.parametrize("method_class", [Replay, ER, GDumb])
def test_a_balanced_reservoir_is_full_and_a_fair_sample_of_each_class(method_class):
    """Ten slots; seven exemplars of class 0 and three of class 1; eight images of class 4 and one.

    Three of each that has them, one of class 5: each image of class 4 with probability 3 / 8.
    """
    method = method_class(Small(), **FACTS, memory=10, selection="balanced-reservoir")
    assert not method.selects_by_features
    learner = learner_with(method, [0, 0, 0, 1, 0, 0, 1, 0, 0, 1])
    pool, n = pool_of(learner, (8, 1)), 2000

    @jax.jit
    @jax.vmap
    def policy(key):
        return method.policy(learner.replace(data_key=key), pool, None, key)

    slots = policy(jax.random.split(jax.random.key(1), n))
    counts = (slots.labels[:, :, None] == jnp.arange(ROOM)).sum(axis=1)
    assert np.all(np.asarray(counts) == [3, 3, 0, 0, 3, 1, 0])
    source = np.asarray(slots.source)
    assert set(source[np.asarray(slots.labels) == 0]) == {N_NEW_ROWS + i for i in (0, 1, 2)}
    shares = np.bincount(source[np.asarray(slots.labels) == 4], minlength=8) / n
    np.testing.assert_allclose(shares, 3 / 8, atol=4.5 * np.sqrt(3 / 8 * 5 / 8 / n))


def test_random_images_are_equal_shares_and_a_reservoir_asks_for_no_class():
    learner = learner_with(Replay(Small(), **FACTS, memory=14, mirror_means=False), [0] * 5)
    pool, key = pool_of(learner, (8, 8)), jax.random.key(2)
    random = Replay(Small(), **FACTS, memory=14, selection="random", mirror_means=False)
    rows = kept(random.policy(learner, pool, None, key))
    assert {c: len(r) for c, r in rows.items()} == {0: 2, 4: 2, 5: 2}  # 14 // 6
    assert set(rows[4]) < set(range(8)) and set(rows[5]) < set(range(8, 16))
    uniform = Replay(Small(), **FACTS, memory=14, selection="reservoir", mirror_means=False)
    slots = uniform.policy(learner, pool, None, key)
    chex.assert_trees_all_equal(slots, memory_lib.reservoir(pool, learner.memory.n_offered, key))
    assert (np.asarray(slots.labels) >= 4).sum() > 4  # more than equal shares allow


@pytest.mark.parametrize("name", sorted(METHODS))
def test_all_methods_with_exemplars_have_the_same_four_settings(name):
    """They are declared in one place, and none keeps exemplars in another way."""
    method_class, config = METHODS[name], preset(name)
    keeps = engine_of(name).method.memory_size is not None
    assert keeps == issubclass(method_class, ExemplarMethod)
    settings = ("memory", "per_class", "budget_mb", "selection")
    assert all(hasattr(config, setting) == keeps for setting in settings)
    if keeps:
        assert method_class.policy is ExemplarMethod.policy or name == "gdumb"
        field = type(config).__dataclass_fields__["selection"]
        choices = AT_RANDOM if name == "gdumb" else (*BY_FEATURES, *AT_RANDOM)
        assert field.metadata["choices"] == choices


def test_what_does_not_fit_is_refused_in_a_line():
    with pytest.raises(UserError, match="--per-class 3 does not go with --selection reservoir"):
        ER(Small(), **FACTS, per_class=3)
    assert ER(Small(), **FACTS, per_class=3, selection="balanced-reservoir").memory_size == 21
    with pytest.raises(UserError, match="unknown --selection 'herding'"):
        preset("gdumb", "paper", selection="herding")


def test_a_class_without_exemplars_is_never_the_nearest():
    """Its mean is zero, which is closer to most features than the mean of another class."""
    learner = learner_with(Replay(Small(), **FACTS, memory=14, mirror_means=False), [])
    means = jnp.zeros((ROOM, 4)).at[3, 0].set(1.0)
    scores = nme(learner.replace(means=means), jnp.array([[-0.9, 0.1, 0.0, 0.3]]))
    assert scores.argmax() == 3 and np.all(scores[0, N_SEEN:] == CLOSED)


def test_bic_holds_out_a_fraction_of_a_fixed_number_per_class():
    """Two of ten of each class; of a total, a fraction of what an old class has of it."""
    learner = learner_with(Replay(Small(), **FACTS, memory=70), np.repeat(np.arange(4), 10))
    pool, key = pool_of(learner, (8, 8)), jax.random.key(0)
    for sizes, n in (({"per_class": 10, "memory": 60}, 2), ({"memory": 60}, 3)):
        method = BiC(Small(), **FACTS, held_out=0.2, mirror_means=False, **sizes)
        rows = np.asarray(method.is_held_out(learner, pool, key))
        counts = np.bincount(np.asarray(pool.labels)[rows], minlength=6)
        assert counts.tolist() == [n] * 6


@pytest.mark.parametrize("selection", ["closest", "entropy", "balanced-reservoir"])
def test_the_same_images_are_kept_where_they_stay_on_the_host(selection):
    engine = engine_of("icarl", selection=selection)
    learner = begun(engine, learned(engine, 1), 1)
    on_device, on_host = (
        programs.keep(learner, task_pool(programs, learner, 1)).memory
        for programs in (engine, Streamed(engine))
    )
    chex.assert_trees_all_equal(on_device, on_host)
    assert on_device.counts(ROOM).tolist() == [3, 3, 3, 3, 0, 0, 0]

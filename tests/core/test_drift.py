"""Whether new samples differ: what is asked, and how often it is wrong."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy.stats import chi2

from finepruning.core.drift import (
    CLASSES,
    DEVICE,
    OTHER,
    DriftOptions,
    Usual,
    _chi_squared,
    familiar,
    judge,
    movement,
    novelty,
    shuffled,
)

RNG = np.random.default_rng(0)
START = RNG.bit_generator.state


@pytest.fixture(autouse=True)
def _same_numbers() -> None:
    """Whichever tests ran before."""
    RNG.bit_generator.state = START


LAYERS, CHANNELS = 6, 12
MIXED = RNG.normal(size=(LAYERS * CHANNELS, LAYERS * CHANNELS)) / 6


def answers(which: Any, noise: float = 1.0) -> np.ndarray:
    return 6 * np.eye(8)[which] + noise * RNG.normal(size=(len(which), 8))


def outputs(n: int, shift: Any = 0.0) -> dict[str, np.ndarray]:
    """Correlated mean outputs of six layers; ``shift`` (6,) moves each of them."""
    z = RNG.normal(size=(n, LAYERS * CHANNELS)) @ MIXED
    parts = np.split(z, LAYERS, axis=1)
    moved = np.broadcast_to(shift, LAYERS)
    return {f"{i}": part + moved[i] for i, part in enumerate(parts)}


def seen(n: int = 200) -> Usual:
    return Usual.of(outputs(n))


def test_a_class_that_was_not_there_is_named() -> None:
    known = familiar(answers(RNG.integers(0, 3, 120)))
    found = novelty(known, answers(np.array([0, 1, 2, 5, 5, 5, 5, 5])))
    assert found.p < 0.01
    assert found.classes[0][0] == 5
    assert found.classes[0][1] == pytest.approx(5, abs=0.5)
    assert found.now == pytest.approx(5 / 8, abs=0.1)
    assert found.before < 0.1


@pytest.mark.parametrize("m", [4, 16, 64])
def test_ordinary_answers_are_rarely_taken_for_new_classes(m: int) -> None:
    options = DriftOptions(shuffles=99)
    alarms = [
        novelty(
            familiar(answers(RNG.integers(0, 4, 60), 3.0)),
            answers(RNG.integers(0, 4, m), 3.0),
            options,
        ).p
        <= 0.05
        for _ in range(100)
    ]
    assert sum(alarms) <= 10


@pytest.mark.parametrize("m", [4, 16, 64])
def test_ordinary_outputs_rarely_seem_to_have_moved(m: int) -> None:
    alarms = [movement(seen(), outputs(m)).p <= 0.05 for _ in range(200)]
    assert sum(alarms) <= 20


def test_what_has_moved_is_noticed_and_told_by_layer() -> None:
    found = movement(seen(), outputs(32, shift=[0, 0, 0, 0, 0, 3.0]))
    assert found.p < 1e-4
    assert max(found.layers, key=lambda name: found.layers[name]) == "5"
    assert found.late > 1 > abs(found.middle)
    assert not found.device
    assert movement(seen(), outputs(32, shift=[0, 0, 3.0, 3.0, 1.0, 1.0])).device


def test_outputs_that_never_vary_may_move_a_little() -> None:
    constant = Usual.of({"0": np.ones((50, 4))})
    assert movement(constant, {"0": np.ones((8, 4))}).p > 0.5
    half = Usual.of({"0": np.concatenate([np.ones((50, 4)), RNG.normal(size=(50, 4))], 1)})
    new = np.concatenate([np.ones((8, 4)) + 1e-6, RNG.normal(size=(8, 4))], 1)
    assert movement(half, {"0": new}).p > 1e-3


def test_nothing_in_common_says_nothing() -> None:
    assert movement(seen(), {"other": np.ones((4, 3))}).p == 1
    assert movement(seen(), {}).layers == {}


def test_a_sample_alone_can_be_far_away() -> None:
    assert movement(seen(), outputs(2, shift=9.0)).p < 0.05


@pytest.mark.parametrize("freedom", [1.0, 3.5, 20.0])
@pytest.mark.parametrize("ratio", [0.3, 1.0, 2.0, 4.0])
def test_chi_squared(freedom: float, ratio: float) -> None:
    wanted = chi2.sf(ratio * freedom, freedom)
    assert _chi_squared(ratio * freedom, freedom) == pytest.approx(wanted, abs=0.02)


def test_shuffling_is_exact() -> None:
    p = [shuffled(RNG.random(5), RNG.random(20), 99) for _ in range(400)]
    assert np.mean(np.array(p) <= 0.05) <= 0.09
    assert np.mean(np.array(p) <= 0.5) == pytest.approx(0.5, abs=0.1)


def test_what_makes_the_difference() -> None:
    known = familiar(answers(RNG.integers(0, 3, 120)))
    means, strict = seen(), DriftOptions(false_alarms=0.004)
    old, new = answers(RNG.integers(0, 3, 32)), answers(np.full(32, 6))
    device = [0, 2.0, 2.0, 2.0, 1.0, 1.0]
    late = [0, 0, 0, 0, 2.0, 2.0]
    for shift, logits, cause in [
        (0.0, old, ""),
        (0.0, new, CLASSES),
        (late, new, CLASSES),
        (device, old, DEVICE),
        (device, new, CLASSES),  # nothing familiar is left to tell it by
        (late, old, OTHER),
    ]:
        found = judge(means, known, outputs(32, shift), logits, strict)
        assert (found.cause, found.changed) == (cause, bool(cause)), (shift, cause)
    assert judge(means, None, outputs(32, device), None, strict).cause == DEVICE
    assert judge(means, None, outputs(32), None, strict).cause == ""


def test_more_false_alarms_are_earlier_ones() -> None:
    known, means = familiar(answers(RNG.integers(0, 3, 120))), seen()
    windows = [(outputs(16), answers(RNG.integers(0, 3, 16))) for _ in range(60)]
    rates = [
        sum(judge(means, known, *w, DriftOptions(false_alarms=a)).changed for w in windows)
        for a in (0.0, 0.05, 0.5, 1.0)
    ]
    assert rates == sorted(rates)
    assert rates[0] == 0
    assert rates[-1] > rates[1]


def test_both_sets_of_samples_are_one() -> None:
    one, two = outputs(60), outputs(40)
    both = Usual.of({name: np.concatenate([one[name], two[name]]) for name in one})
    merged = Usual.of(one).merge(Usual.of(two))
    assert merged.squares == pytest.approx(both.squares, rel=0.4)
    for name in one:
        np.testing.assert_allclose(merged.means[name].mean, both.means[name].mean)
        np.testing.assert_allclose(merged.means[name].variance, both.means[name].variance)
    less = merged.decayed(0.5)
    assert less.means["0"].count == 50
    np.testing.assert_allclose(less.means["0"].mean, both.means["0"].mean)
    assert Usual({}, 1.0).merge(merged) is merged
    assert merged.merge(Usual({}, 1.0)) is merged


def test_other_shares_of_the_same_classes_are_no_other_device() -> None:
    """One of three classes alone moves the means, and no more than its own mean leads to expect."""
    places = 2 * RNG.normal(size=(8, LAYERS))

    def of(which: np.ndarray) -> dict[str, np.ndarray]:
        return {
            name: z + places[which, i, None]
            for i, (name, z) in enumerate(outputs(len(which)).items())
        }

    which = RNG.integers(0, 3, 200)
    known = familiar(answers(which))
    usual = Usual.of(of(which), np.eye(8)[which])
    one = np.full(32, 1)
    assert movement(usual, of(one)).p < 1e-3
    assert movement(usual, of(one), np.eye(8)[one]).p > 1e-3
    far = {name: z + 2 for name, z in of(one).items()}
    assert movement(usual, far, np.eye(8)[one]).p < 1e-6
    assert judge(usual, known, of(one), answers(one)).cause != DEVICE
    merged = Usual.of(of(which[:90]), np.eye(8)[which[:90]]).merge(
        Usual.of(of(which[90:]), np.eye(8)[which[90:]])
    )
    assert merged.counts == pytest.approx(usual.counts)
    assert movement(merged, of(one), np.eye(8)[one]).p > 1e-4

"""The read-out: skew is found where there is some, and nothing is made up where there is none."""

from __future__ import annotations

import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from finepruning.core.readout import Readout, ReadoutOptions, read_out
from problems import Unchanged


def predictions(
    classes: list[int], n: int, K: int, margin: float = 5.0, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Logits ``(n, K)`` of a classifier that is right most of the time, and the true classes."""
    rng = np.random.default_rng(seed)
    truth = rng.choice(classes, n)
    logits = rng.normal(size=(n, K)) * 1.5
    logits[np.arange(n), truth] += margin
    return logits, truth


@pytest.mark.parametrize("n", [50, 200, 1000])
def test_without_skew_nothing_moves(n: int) -> None:
    found = read_out(predictions(list(range(10)), n, 10)[0])
    assert np.abs(found.shift).max() < 0.1
    assert found.trust < 0.05


@pytest.mark.parametrize("n", [60, 300])
def test_skew_is_found_and_helps(n: int) -> None:
    logits, _ = predictions([1, 4], n, 20, margin=5)
    found = read_out(logits)
    assert found.trust > 0.7
    assert set(np.argsort(found.prior)[-2:]) == {1, 4}
    assert found.classes == 2
    new, true = predictions([1, 4], 500, 20, margin=5, seed=1)
    before = (new.argmax(1) == true).mean()
    assert ((new + found.shift).argmax(1) == true).mean() > before + 0.1


@pytest.mark.parametrize("n", [60, 300, 1000])
def test_a_network_that_is_mostly_wrong_is_not_made_worse(n: int) -> None:
    """Half its answers are wrong: the classes cannot be told for sure, and little is changed."""
    found = read_out(predictions([1, 4], n, 20, margin=2.5)[0])
    new, true = predictions([1, 4], 500, 20, margin=2.5, seed=1)
    before = (new.argmax(1) == true).mean()
    assert before < 0.6
    assert ((new + found.shift).argmax(1) == true).mean() >= before


@pytest.mark.parametrize("n", [32, 200])
def test_one_sided_errors_take_no_class_away(n: int) -> None:
    """All classes come up alike, but everything looks a little like a 9: that is no skew."""
    bias = 1.5 * (np.arange(10) == 9)
    found = read_out(predictions(list(range(10)), n, 10, margin=4.0)[0] + bias)
    logits, truth = predictions(list(range(10)), 500, 10, margin=4.0, seed=1)
    dense = ((logits + bias).argmax(1) == truth).mean()
    assert np.bincount((logits + bias).argmax(1), minlength=10)[9] > 75
    assert ((logits + bias + found.shift).argmax(1) == truth).mean() > dense - 0.02


def test_a_rare_class_that_is_clear_is_not_traded() -> None:
    """Three of a hundred samples are of another class, and the network is sure of them."""
    for K in (2, 5, 20):
        logits, truth = predictions([0] * 30 + [1], 100, K, margin=6)
        assert 1 <= (truth == 1).sum() <= 5
        found = read_out(logits)
        new, true = predictions([1], 200, K, margin=6, seed=1)
        before = (new.argmax(1) == true).mean()
        assert ((new + found.shift).argmax(1) == true).mean() > 0.8 * before


def test_a_look_alike_of_the_persons_classes_is_no_class() -> None:
    """Half of a class's samples are a toss-up between it and one that is not there."""
    logits, truth = predictions([0, 1, 2], 120, 50, margin=7)
    unsure = np.flatnonzero(truth == 0)[::2]
    logits[unsure, 9] = logits[unsure, 0] + np.random.default_rng(1).normal(size=len(unsure)) / 2
    assert (logits.argmax(1) == 9).sum() > 5
    found = read_out(logits)
    assert ((logits + found.shift).argmax(1) == truth).mean() > 0.95


def test_what_did_not_come_up_is_unlikely_and_not_impossible() -> None:
    for n in (20, 200):
        found = read_out(predictions([1, 4], n, 30, margin=8)[0])
        assert found.shift.min() >= -np.log(n) * max(found.temperature, 1.25) - 1e-9


@given(st.integers(5, 60), st.integers(3, 12), st.integers(0, 10**6))
def test_a_closed_world_answers_nothing_else(n: int, K: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(n, K)) * 3
    allowed = np.sort(rng.permutation(K)[: rng.integers(1, K)])
    found = read_out(logits, allowed=allowed)
    assert np.isin((logits + found.shift).argmax(1), allowed).all()
    assert (found.prior[np.delete(np.arange(K), allowed)] == 0).all()
    assert (found.prior[allowed] > 0).all()
    assert np.isfinite(found.shift.astype(np.float16)).all()
    np.testing.assert_array_equal(found.shift[allowed], read_out(logits[:, allowed]).shift)


def test_frequencies_of_training_are_taken_off_where_there_is_skew() -> None:
    """A network trained mostly on class 0 answers it too often; a person has 0 and 1 alike."""
    usual = np.array([0.9, 0.05, 0.02, 0.02, 0.01])
    logits, _ = predictions([0, 1], 200, 5, margin=4)
    known = read_out(logits + np.log(usual), class_prior=usual)
    plain = read_out(logits)
    assert known.skew == pytest.approx(plain.skew)
    apart = known.shift - plain.shift + known.trust * np.log(usual)
    np.testing.assert_allclose(apart, apart[0], atol=1e-9)
    everybody = read_out(predictions(list(range(5)), 500, 5, margin=4)[0], class_prior=usual)
    assert everybody.trust < 1


@given(st.integers(2, 9), st.integers(2, 12), st.integers(0, 10**6), st.sampled_from([0, 1, 1e3]))
def test_few_samples_give_finite_numbers(n: int, K: int, seed: int, scale: float) -> None:
    logits = np.random.default_rng(seed).normal(size=(n, K)) * scale
    found = read_out(logits)
    assert np.isfinite(found.shift).all()
    assert found.shift.shape == found.prior.shape == (K,)
    assert found.prior.sum() == pytest.approx(1)
    assert (found.prior > 0).all()
    assert 0 <= found.trust <= 1
    assert 1 <= found.classes <= K + 1e-9
    assert found.unseen > 0


def test_extreme_logits() -> None:
    logits = np.zeros((40, 5))
    logits[:, 3] = 1e30
    logits[:, 1] = -np.inf  # a model that masks a class
    found = read_out(logits)
    assert np.isfinite(found.shift).all()
    assert found.shift.argmax() == 3


def test_it_is_deterministic_and_has_no_order() -> None:
    logits, _ = predictions([2, 3], 80, 7, margin=3)
    one, two = read_out(logits), read_out(logits.copy())
    np.testing.assert_array_equal(one.shift, two.shift)
    np.testing.assert_allclose(read_out(logits[::-1]).shift, one.shift, atol=1e-9)
    np.testing.assert_allclose(read_out(logits[:, ::-1]).shift[::-1], one.shift, atol=1e-9)


def test_a_constant_a_sample_changes_nothing() -> None:
    logits, _ = predictions([2, 3], 80, 7, margin=3)
    moved = logits + np.arange(80)[:, None]
    np.testing.assert_allclose(read_out(moved).shift, read_out(logits).shift, atol=1e-9)


def test_of_very_many_samples_some_are_looked_at() -> None:
    logits, _ = predictions([1, 4], 20_000, 20, margin=25)
    found = read_out(logits)
    assert set(np.argsort(found.prior)[-2:]) == {1, 4}
    assert found.classes == 2


def test_it_takes_seconds_for_thousands_of_samples_of_a_thousand_classes() -> None:
    logits = predictions(list(range(10)), 4096, 1000, margin=8)[0]
    started = time.process_time()
    read_out(logits)
    assert time.process_time() - started < 10  # 1.3 s on one quiet core


def test_logits_are_left_as_they_are() -> None:
    logits, _ = predictions([2, 3], 80, 7, margin=3)
    single = logits.astype(np.float32)
    with Unchanged(logits, single):
        first = read_out(logits)
        found = read_out(single)
    assert found.shift.dtype == np.float64
    np.testing.assert_allclose(found.shift, first.shift, atol=1e-4)


# --- What the options are for


def skewed(**options: float) -> Readout:
    """A person of two classes out of ten."""
    logits = predictions([1, 4], 100, 10, margin=8)[0]
    return read_out(logits, ReadoutOptions(**options))  # type: ignore[arg-type]


def test_the_temperature_is_one_of_those_tried() -> None:
    tried = np.geomspace(1.0, 3.0, 5)
    found = skewed(coolest=1.0, hottest=3.0, temperatures=5)
    assert np.isclose(found.temperature, tried).any()
    assert skewed(coolest=7.0, hottest=7.0, temperatures=1).temperature == pytest.approx(7.0)


def test_skew_is_believed_from_doubt_to_full() -> None:
    assert skewed().trust == 1
    assert skewed(doubt=100.0, full=101.0).trust == 0
    half = skewed(doubt=0.0, full=2 * skewed().skew * max(skewed().temperature, 1.0))
    assert half.trust == pytest.approx(0.5)
    np.testing.assert_allclose(half.shift, skewed().shift / 2)


def test_unclear_classes_are_pushed_down_as_far_as_told() -> None:
    logits, truth = predictions([0, 1, 2], 120, 50, margin=7)
    toss_up = np.flatnonzero(truth == 0)[::2]
    logits[toss_up, 9] = logits[toss_up, 0] + 0.1
    found = [read_out(logits, ReadoutOptions(clear=c)).shift for c in (0.0, 0.25, 0.5)]
    apart = [shift[0] - shift[9] for shift in found]
    assert apart[0] < apart[1] < apart[2]


def test_no_more_samples_are_looked_at_than_told() -> None:
    logits, _ = predictions([1, 4], 1000, 10, margin=4)
    some = logits[np.linspace(0, 999, 50).round().astype(int)]
    found = read_out(logits, ReadoutOptions(few=50, most=50))
    np.testing.assert_array_equal(found.shift, read_out(some).shift)

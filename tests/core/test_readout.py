"""The read-out: skew is found where there is some, and nothing is made up where there is none."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from finepruning.core.readout import DEFAULT, ReadoutOptions, read_out
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
    assert not found.silent.any()
    assert found.trust < 0.05


@pytest.mark.parametrize("n", [60, 300])
def test_skew_is_found_and_helps(n: int) -> None:
    logits, _ = predictions([1, 4], n, 20, margin=3.5)
    found = read_out(logits)
    assert found.trust > 0.99
    assert set(np.argsort(found.prior)[-2:]) == {1, 4}
    assert 1.5 < found.classes < 4
    new, true = predictions([1, 4], 500, 20, margin=3.5, seed=1)
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


def test_outputs_are_silenced_only_when_enough_was_seen() -> None:
    many, few = (predictions([0, 1], n, 30, margin=25)[0] for n in (200, 12))
    silent = read_out(many).silent
    assert silent.sum() > 20
    assert not silent[[0, 1]].any()
    assert DEFAULT.silent_unseen < 1 / 12
    assert not read_out(few).silent.any()


def test_a_class_seen_once_is_not_silenced() -> None:
    logits, _ = predictions([0, 1], 200, 10, margin=25)
    logits[7] = 0
    logits[7, 5] = 25
    found = read_out(logits)
    assert not found.silent[5]
    assert found.prior[5] > np.delete(found.prior, [0, 1, 5]).max()


@given(st.integers(2, 9), st.integers(2, 12), st.integers(0, 10**6), st.sampled_from([0, 1, 1e3]))
def test_few_samples_give_finite_numbers(n: int, K: int, seed: int, scale: float) -> None:
    logits = np.random.default_rng(seed).normal(size=(n, K)) * scale
    found = read_out(logits)
    assert np.isfinite(found.shift).all()
    assert found.shift.shape == found.prior.shape == found.silent.shape == (K,)
    assert found.prior.sum() == pytest.approx(1)
    assert (found.prior > 0).all()
    assert 0 <= found.trust <= 1
    assert 1 <= found.classes <= K + 1e-9
    assert not found.silent.all()


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
    logits[19_999] = 0
    logits[19_999, 7] = 25  # seen once, and perhaps passed over: never silenced for all that
    found = read_out(logits)
    assert set(np.argsort(found.prior)[-2:]) == {1, 4}
    assert found.classes == 2
    assert found.silent[0]
    assert not found.silent[7]


def test_logits_are_left_as_they_are() -> None:
    logits, _ = predictions([2, 3], 80, 7, margin=3)
    single = logits.astype(np.float32)
    with Unchanged(logits, single):
        first = read_out(logits)
        found = read_out(single)
    assert found.shift.dtype == np.float64
    np.testing.assert_allclose(found.shift, first.shift, atol=1e-4)


# --- What the options are for


def skewed(**options: float) -> tuple[float, np.ndarray, np.ndarray]:
    """Trust, shift and silent outputs for a person of two classes out of ten."""
    found = read_out(predictions([1, 4], 100, 10, margin=25)[0], ReadoutOptions(**options))  # type: ignore[arg-type]
    return found.trust, found.shift, found.silent


def test_the_temperature_is_one_of_those_tried() -> None:
    unsure, sure = predictions([1, 4], 200, 10, margin=0.5)[0], np.eye(10)[[1, 4] * 50] * 1e3
    for logits, power in ((unsure, 0), (sure, 4)):
        options = ReadoutOptions(coolest=2.0, heating=3.0, heatings=5, shift_heat=1.0)
        assert read_out(logits, options).temperature == pytest.approx(2.0 * 3.0**power)
    hotter = read_out(unsure, ReadoutOptions(coolest=2.0, shift_heat=7.0))
    assert hotter.temperature == pytest.approx(14.0)
    surer = [read_out(sure / 100, ReadoutOptions(confidence=c)).temperature for c in (0.9, 0.5)]
    assert surer[0] < surer[1]


def test_skew_is_believed_where_the_evidence_beats_the_caution() -> None:
    assert skewed()[0] > 0.99
    assert skewed(caution=100.0)[0] < 0.01
    assert skewed(caution_set=100.0)[0] < 0.01
    assert np.abs(skewed(caution=100.0)[1]).max() < 0.01


@pytest.mark.parametrize(
    "options",
    [{"silent_peak": 0.0}, {"silent_count": 0.0}, {"silent_trust": 1.0}, {"silent_unseen": 0.0}],
)
def test_each_condition_alone_keeps_an_output(options: dict[str, float]) -> None:
    assert skewed()[2].sum() == 8
    assert not skewed(**options)[2].any()


def test_what_is_missing_is_pushed_down_as_far_as_told() -> None:
    shifts = [skewed(missing=missing)[1] for missing in (0.3, 0.03, 0.003)]
    apart = [shift[1] - shift[0] for shift in shifts]
    assert apart[0] < apart[1] < apart[2]


def test_no_more_samples_are_looked_at_than_told() -> None:
    logits, _ = predictions([1, 4], 1000, 10, margin=4)
    some = logits[np.linspace(0, 999, 50).round().astype(int)]
    found = read_out(logits, ReadoutOptions(most_samples=50))
    np.testing.assert_array_equal(found.shift, read_out(some).shift)

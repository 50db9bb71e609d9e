"""The check: what is expected of a finished network, beside a plain sum over all samples."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from finepruning.core.check import CheckOptions, Expected, against, by_rank, expected, sparing
from finepruning.core.readout import Readout, read_out


def said(n: int, K: int, seed: int, classes: int = 3) -> tuple[np.ndarray, Readout]:
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(n, K)) * 1.5
    logits[np.arange(n), rng.integers(0, classes, n)] += 5
    return logits, read_out(logits)


@given(st.integers(8, 40), st.integers(3, 12), st.integers(1, 4), st.integers(0, 10**6))
def test_as_a_plain_sum_over_samples_and_errors(n: int, K: int, m: int, seed: int) -> None:
    dense, answer = said(n, K, seed)
    errors = np.random.default_rng(seed).normal(size=(m, K)) * 2
    found = expected(dense, answer, errors)
    gain = 0.0
    for logits in dense:
        wanted = logits + answer.shift
        belief = np.exp(wanted / max(answer.temperature, 1) - 99)
        belief /= belief.sum()
        order = sorted(range(K), key=lambda k: -wanted[k])
        for error in errors:
            after = {k: wanted[k] + error[rank] for rank, k in enumerate(order)}
            answered = max(order, key=lambda k: after[k])
            gain += (belief[answered] - belief[logits.argmax()]) / (n * m)
    assert found.gain == pytest.approx(gain, abs=1e-9)
    assert 0 <= found.recall <= 1


@given(st.integers(8, 40), st.integers(3, 12), st.integers(0, 10**6))
def test_without_errors_the_read_out_gains_and_nothing_is_lost(n: int, K: int, seed: int) -> None:
    dense, answer = said(n, K, seed)
    found = expected(dense, answer, np.zeros((2, K)))
    assert found.gain >= -1e-12
    surer = expected(dense, answer, 3.0 * (np.arange(K) == 0)[None])
    assert surer.gain == pytest.approx(found.gain)  # to be surer is no error


def test_errors_that_flip_answers_are_a_loss() -> None:
    dense, answer = said(60, 10, 0, classes=10)
    losses = [expected(dense, answer, np.array([[-size] + [0.0] * 9])).gain for size in (0, 3, 9)]
    assert losses[0] > losses[1] > losses[2]
    assert losses[2] < -0.5


def test_a_class_that_goes_shows_in_the_recall() -> None:
    dense, answer = said(200, 6, 1)
    assert expected(dense, answer, np.zeros((1, 6))).recall > 0.9
    destroyed = expected(dense, answer, np.array([[-20.0, 0, 0, 0, 0, 0]]))
    assert destroyed.recall < 0.2
    assert destroyed.worst in (0, 1, 2)
    none = expected(dense, answer, np.zeros((1, 6)), CheckOptions(samples=1e6))
    assert (none.recall, none.worst) == (1.0, -1)


def test_no_more_samples_are_judged_than_told() -> None:
    dense, answer = said(300, 5, 2)
    some = dense[np.linspace(0, 299, 40).round().astype(int)]
    errors = np.random.default_rng(0).normal(size=(3, 5))
    assert expected(dense, answer, errors, CheckOptions(belief=40)) == expected(
        some, answer, errors
    )


def test_errors_by_rank_follow_what_was_wanted() -> None:
    wanted = np.array([[1.0, 3.0, 2.0], [5.0, 4.0, 3.0]])
    found = wanted + np.array([[0.1, 0.3, 0.2], [0.5, 0.4, 0.3]])
    np.testing.assert_allclose(by_rank(wanted, found), [[0.3, 0.2, 0.1], [0.5, 0.4, 0.3]])


def changed(samples: int, n: int, odds: float = 4.0) -> tuple[np.ndarray, Readout]:
    """A read-out that corrects so many of ``n`` samples, by ``odds`` beside the network."""
    dense = 8.0 * np.eye(4)[np.arange(n) % 2]
    dense[:samples] = [0.0, -9.0, odds, -9.0]
    shift = np.array([0.0, 0.0, -2 * odds, -9.0])
    return dense, Readout(shift, np.full(4, 0.25), 1.0, 1.0, 2, 1.0, 0.0)


@given(st.integers(16, 200))
def test_a_gain_must_show_in_three_samples(n: int) -> None:
    options = CheckOptions(margin=0.001)
    for samples in (1, 2):
        found = expected(*changed(samples, n), np.zeros((1, 4)))
        assert found.gain > options.margin
        assert "too few samples show it" in against(found, options)
    assert not against(expected(*changed(4, n), np.zeros((1, 4))), options)


def test_what_speaks_against_a_network() -> None:
    good = Expected(gain=0.05, error=0.01, recall=0.9, worst=2)
    assert against(good) == ""
    assert against(replace(good, gain=-0.02)) == "accuracy is expected to change by -2.0%"
    assert "+5.0%, give or take 8.2%" in against(replace(good, error=0.05))
    assert (
        against(replace(good, recall=0.6)) == "40% of what it names right of class 2 would be lost"
    )
    assert against(replace(good, recall=0.6), CheckOptions(recall=0.5)) == ""
    assert against(replace(good, error=9.0), CheckOptions(sure=0.0)) == ""


def lost_three(sure: float, options: CheckOptions) -> Expected:
    """Three of 400 samples are answered with class 2, and no more when a class goes first to 3."""
    dense = np.full((400, 4), -30.0)
    dense[np.arange(400), np.arange(400) % 2] = 9.0
    dense[:3] = [-30.0, -30.0, sure, 0.0]
    answer = Readout(np.array([0.0, 0.0, -0.9, 0.0]), np.full(4, 0.25), 1.0, 1.0, 3, 1.0, 0.0)
    return expected(dense, answer, np.zeros((1, 4)), options)


def test_a_look_alike_that_goes_is_no_class_that_is_lost() -> None:
    """What a class loses counts where it is more than all are to gain, or is believed in."""
    options = CheckOptions(recognised=0.45, samples=0.5)
    assert lost_three(0.8, options).recall == 0.0  # half believed in: odds of 0.8 - 0.9
    assert lost_three(0.1, options).recall == 1.0  # a look-alike
    assert lost_three(0.1, replace(options, margin=0.001)).recall == 0.0


def test_a_class_that_would_be_lost_is_left_alone() -> None:
    """A read-out that would help, but for one class that it makes too unlikely."""
    rng = np.random.default_rng(0)
    dense = rng.normal(size=(200, 12))
    dense[np.arange(200), np.arange(200) % 4] += 2.5  # four classes, and eight that are noise
    answer = read_out(dense)
    shift = np.where(np.arange(12) < 4, 0.0, -6.0)
    shift[3] = -2.5
    wrong = replace(answer, shift=shift, temperature=1.0)
    assert "would be lost" in against(expected(dense, wrong, np.zeros((1, 12))))
    spared = sparing(dense, wrong)
    assert spared is not None
    assert spared.shift[3] == 0
    assert np.array_equal(np.delete(spared.shift, 3), np.delete(shift, 3))
    assert not against(expected(dense, spared, np.zeros((1, 12))))
    assert spared.classes == len(np.unique((dense + spared.shift).argmax(1)))


def test_of_what_is_mended_it_must_be_twice_as_sure() -> None:
    rng = np.random.default_rng(0)
    dense = rng.normal(size=(200, 12))
    dense[np.arange(200), np.arange(200) % 4] += 2.5
    shift = np.where(np.arange(12) < 4, 0.0, -6.0)
    shift[3] = -2.5
    wrong = replace(read_out(dense), shift=shift, temperature=1.0)
    e = expected(
        dense, replace(wrong, shift=np.where(np.arange(12) < 4, 0.0, -6.0)), np.zeros((1, 12))
    )
    ratio = e.gain / e.error
    assert sparing(dense, wrong, CheckOptions(sure=ratio / 2.1)) is not None
    assert sparing(dense, wrong, CheckOptions(sure=ratio / 1.9)) is None

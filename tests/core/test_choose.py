"""How many answers change, and which sparsity that leaves."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from finepruning.core.check import expected
from finepruning.core.choose import ChoiceOptions, at_most, changes, differences, largest
from finepruning.core.readout import read_out

RNG = np.random.default_rng(0)


def test_what_noise_changes_is_what_is_expected_to_change() -> None:
    """By rank, from 40 samples held back, of 2,000 answers."""
    dense = 3 * RNG.normal(size=(2000, 8))
    errors = 0.5 * RNG.normal(size=(2040, 8))
    answer = read_out(dense)
    e = expected(dense, answer, errors[2000:])
    wanted = dense + answer.shift
    truth = (wanted.argmax(1) != (wanted + errors[:2000]).argmax(1)).mean()
    assert truth > 0.02
    assert abs(e.changed - truth) < 3 * e.changed_error + 0.01
    assert 0 < e.changed_error < 0.05


def test_no_errors_change_nothing() -> None:
    dense = RNG.normal(size=(50, 4))
    e = expected(dense, read_out(dense), np.zeros((3, 4)))
    assert (e.changed, e.changed_error) == (0, 0)


def test_counted_and_expected_weigh_alike() -> None:
    flipped = np.array([True, False, False, False, False])
    changed, error = changes(0.1, 0.03, flipped)
    assert changed == pytest.approx(0.15)
    assert error == pytest.approx(np.hypot(0.03, (0.2 * 0.8 / 4) ** 0.5) / 2)
    assert changes(0.1, 0.0, np.array([True]))[1] == 0  # of one, no spread is known


@given(st.floats(0, 1), st.floats(0, 1), st.integers(1, 10_000))
def test_fewer_samples_may_hide_more(changed: float, error: float, n: int) -> None:
    options = ChoiceOptions()
    assert at_most(changed, error, n, options) >= changed
    assert at_most(changed, error, n, options) >= at_most(changed, error, n + 1, options)
    assert at_most(changed, error, n, options) >= at_most(changed, error / 2, n, options)


@pytest.mark.parametrize("task", ["labels", "tokens", "values"])
@pytest.mark.parametrize("shape", [(6, 5), (6, 7, 5)])
def test_the_same_outputs_do_not_differ(task: str, shape: tuple[int, ...]) -> None:
    wanted = RNG.normal(size=shape)
    assert differences(wanted, wanted, task).tolist() == [0] * 6


def test_labels_count_among_those_that_are_given() -> None:
    wanted = np.full((3, 100), -1.0)
    wanted[:2, :2] = 1
    found = wanted.copy()
    found[1, 1] = -1  # one of two is lost
    assert differences(wanted, found, "labels").tolist() == [0, 0.5, 0]


def test_tokens_count_position_by_position() -> None:
    wanted = np.zeros((1, 4, 3))
    wanted[..., 1] = 1
    found = wanted.copy()
    found[0, 2, 0] = 5
    assert differences(wanted, found, "tokens").tolist() == [0.25]


def test_values_count_in_units_of_what_varies() -> None:
    wanted = np.array([[0.0], [2.0]])
    assert differences(wanted, wanted.mean() + 0 * wanted, "values").mean() == pytest.approx(1)
    one, two = (differences(s * wanted, s * wanted + 0.1 * s, "values") for s in (1, 1000))
    assert one == pytest.approx(two)


@given(st.lists(st.booleans(), max_size=9))
def test_nothing_below_the_largest_has_failed(passed: list[bool]) -> None:
    sparsities = [i / 10 for i in range(1, len(passed) + 1)]
    best = largest(sparsities, passed)
    upto = 0 if best is None else sparsities.index(best) + 1
    assert all(passed[:upto])
    assert upto == len(passed) or not passed[upto]

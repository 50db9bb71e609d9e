"""Evidence: values that merge in any order, grow old, and never change."""

from __future__ import annotations

from dataclasses import FrozenInstanceError, replace
from functools import reduce
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from finepruning.core.arrays import LowRank, gram_macs
from finepruning.core.evidence import Evidence
from finepruning.core.moments import Gram, Marginals, Moments
from problems import (
    GROUPS,
    INPUTS,
    OUTPUTS,
    SAMPLES,
    Unchanged,
    W,
    X,
    Y,
    close,
    in_torch,
    joint,
    parts,
    plain,
    sampled,
)

quickly = settings(max_examples=40)
BOTH = pytest.mark.parametrize("to", [np.asarray, in_torch], ids=["numpy", "torch"])
Part = tuple[Any, Any]


@st.composite
def three_parts(draw: st.DrawFn) -> list[Part]:
    """Samples ``(X, Y)`` of one layer in three parts of any sizes, whose means lie apart."""
    G, D, outputs = draw(st.integers(1, 2)), draw(st.integers(1, 5)), draw(st.integers(1, 3))
    rng = np.random.default_rng(draw(st.integers(0, 10**6)))
    found = []
    for _ in range(3):
        n, mean = draw(st.integers(1, 7)), draw(st.sampled_from([0.0, 1.0, -100.0, 1e4]))
        x = mean + rng.normal(size=(G, n, D)) @ rng.normal(size=(G, D, D))
        found.append((x, rng.normal(size=(G, n, outputs)) - mean / 2 + x[..., :1]))
    return found


def written(part: Part) -> Moments:
    return Moments.of([part])


def low_rank(part: Part) -> Moments:
    return Moments.few([part])


def as_evidence(part: Part, number: int) -> Evidence:
    seen = sampled(*part, positions=part[0].shape[1] * 3)
    return replace(seen, sampled={number: seen.sampled[0]}, joint=written(part))


def statistics(drawn: list[Part], kind: str) -> list[Any]:
    """The evidence of each part, in one of the forms that there are."""
    forms: dict[str, list[Any]] = {
        "marginals": [Marginals.of(x) for x, _ in drawn],
        "gram": [written(part).gram for part in drawn],
        "low-rank gram": [low_rank(part).gram for part in drawn],
        "written out": [written(part) for part in drawn],
        "low rank": [low_rank(part) for part in drawn],
        "mixed": [written(drawn[0]), low_rank(drawn[1]), low_rank(drawn[2])],
        "evidence": [as_evidence(part, i) for i, part in enumerate(drawn)],
    }
    return forms[kind]


KINDS = pytest.mark.parametrize(
    "kind",
    ["marginals", "gram", "low-rank gram", "written out", "low rank", "mixed", "evidence"],
)


@KINDS
@quickly
@given(drawn=three_parts(), tensors=st.booleans())
def test_merging_is_associative_and_order_free(kind: str, drawn: list[Part], tensors: bool) -> None:
    if tensors:
        drawn = [(in_torch(x), in_torch(y)) for x, y in drawn]
    a, b, c = statistics(drawn, kind)
    with Unchanged(a, b, c):
        together = a.merge(b).merge(c)
        close(a.merge(b.merge(c)), together)
        close(c.merge(a).merge(b), together)
        close(b.merge(a), a.merge(b))


@KINDS
@quickly
@given(drawn=three_parts(), f=st.floats(0.01, 1), g=st.floats(0.01, 1))
def test_growing_old_is_linear(kind: str, drawn: list[Part], f: float, g: float) -> None:
    a, b, _ = statistics(drawn, kind)
    with Unchanged(a, b):
        close(a.merge(b).decayed(f), a.decayed(f).merge(b.decayed(f)))
        close(a.decayed(f).decayed(g), a.decayed(f * g))
        close(a.decayed(1.0), a)


@pytest.mark.parametrize("form", [Moments.of, Moments.few])
@quickly
@given(drawn=three_parts())
def test_merged_parts_are_the_whole(form: Any, drawn: list[Part]) -> None:
    x, y = (np.concatenate(arrays, 1) for arrays in zip(*drawn, strict=True))
    whole = Moments.of([(x, y)])
    found = reduce(Moments.merge, [form([part]) for part in drawn])
    if form == Moments.few:
        assert isinstance(found.H, LowRank)
        found = replace(found, macs=whole.macs)  # it takes fewer
    close(found, whole)
    close(replace(form(drawn), macs=whole.macs), whole)


@given(three_parts())
def test_marginals_of_parts_are_those_of_the_whole(drawn: list[Part]) -> None:
    whole = np.concatenate([x for x, _ in drawn], 1)
    found = reduce(Marginals.merge, [Marginals.of(x) for x, _ in drawn])
    assert found.count == whole.shape[1]
    close(found, Marginals.of(whole))
    close(found.mean, whole.mean(1))
    close(found.energy, (whole**2).mean(1))
    np.testing.assert_allclose(found.variance, whole.var(1), atol=1e-7)


@pytest.mark.parametrize("form", [Moments.of, Moments.few])
@quickly
@given(drawn=three_parts(), f=st.floats(0.01, 1))
def test_a_part_that_has_grown_old_weighs_less(form: Any, drawn: list[Part], f: float) -> None:
    old, new, _ = drawn
    wanted = form([(*old, f), new])
    close(form([old]).decayed(f).merge(form([new])), wanted)
    assert wanted.count == pytest.approx(old[0].shape[1] * f + new[0].shape[1])


@pytest.mark.parametrize("form", [Moments.of, Moments.few])
def test_a_weight_of_two_is_to_be_there_twice(form: Any) -> None:
    a, b = (X[:, :30], Y[:, :30]), (X[:, 30:], Y[:, 30:])
    twice, weighted = form([a, a, b]), form([(*a, 2.0), b])
    assert twice.macs > weighted.macs
    close(replace(weighted, macs=twice.macs), twice)
    doubled = Marginals.of(a[0]).merge(Marginals.of(a[0]))
    close(Marginals.of(a[0]).decayed(2.0), doubled)


@BOTH
@pytest.mark.parametrize("form", [Moments.of, Moments.few])
def test_moments(form: Any, to: Any) -> None:
    found = form([(to(X), to(Y))])
    assert found.count == SAMPLES
    for g in range(GROUPS):
        wanted = np.cov(X[g].T, Y[g].T, bias=True)
        np.testing.assert_allclose(plain(found.H)[g], wanted[:INPUTS, :INPUTS])
        np.testing.assert_allclose(found.C[g], wanted[:INPUTS, INPUTS:], atol=1e-12)
        np.testing.assert_allclose(found.variance[g], np.diag(wanted)[INPUTS:])
    np.testing.assert_allclose(found.x_mean, X.mean(1))
    np.testing.assert_allclose(found.y_mean, Y.mean(1))


def test_macs_are_those_of_the_products() -> None:
    per_sample = GROUPS * INPUTS * OUTPUTS
    with_gram = Moments.of([(X, Y)])
    assert with_gram.macs == SAMPLES * (per_sample + GROUPS * gram_macs(INPUTS))
    assert Moments.few([(X, Y)]).macs == SAMPLES * per_sample
    assert Moments.of([(X, Y)], with_gram.gram).macs == SAMPLES * per_sample
    parts_ = Moments.of([(X[:, :7], Y[:, :7]), (X[:, 7:], Y[:, 7:])])
    assert parts_.macs == with_gram.macs


@BOTH
def test_a_gram_that_is_known_is_used_as_it_is(to: Any) -> None:
    x, y = to(X), to(Y)
    whole = Moments.of([(x, y)])
    with Unchanged(whole, x, y):
        found = Moments.of([(x[:, :50], y[:, :50]), (x[:, 50:], y[:, 50:])], whole.gram)
    assert found.gram is whole.gram
    close(replace(found, macs=whole.macs), whole)


@given(st.lists(st.integers(1, SAMPLES - 1), max_size=5, unique=True).map(sorted))
def test_moments_stream(cuts: list[int]) -> None:
    """Bit by bit or all at once: the same."""
    found = Moments.of(zip(np.split(X, cuts, 1), np.split(Y, cuts, 1), strict=True))
    close(found, Moments.of([(X, Y)]), 1e-12)


@BOTH
@pytest.mark.parametrize("deviation", [1.0, 1e-2])
def test_large_means_cost_no_digits(to: Any, deviation: float) -> None:
    """In parts whose means lie apart by as much as they vary."""
    x = 1e4 + deviation * X
    x[:, 40:] += deviation
    y = -1e4 + deviation * Y
    wanted = (np.cov(a, b, bias=True) for a, b in zip(x.mT - 1e4, y.mT + 1e4, strict=True))
    first, second = ((to(a), to(b)) for a, b in ((x[:, :40], y[:, :40]), (x[:, 40:], y[:, 40:])))
    of, few = Moments.of, Moments.few
    found = [of([first, second]), of([first]).merge(of([second])), few([first, second]),
             of([first]).merge(few([second]))]  # fmt: skip
    for g, both in enumerate(wanted):
        within = 1e-9 * float(np.abs(both).max())
        for m in found:
            np.testing.assert_allclose(plain(m.H)[g], both[:INPUTS, :INPUTS], atol=within)
            np.testing.assert_allclose(m.C[g], both[:INPUTS, INPUTS:], atol=within)
            np.testing.assert_allclose(m.variance[g], np.diag(both)[INPUTS:], atol=within)
    # Sums of squares as they are: of 16 digits, twice as many are lost.
    marginals = Marginals.of(first[0]).merge(Marginals.of(second[0]))
    np.testing.assert_allclose(marginals.variance, x.var(1), rtol=1e-7 / deviation**2)


@BOTH
def test_half_the_digits_are_summed_in_full(to: Any) -> None:
    x = (1000 + 0.1 * X).astype(np.float32)
    found = Marginals.of(to(x))
    assert parts(found)["squares."].dtype == np.float64
    np.testing.assert_allclose(found.variance, x.astype(np.float64).var(1), rtol=1e-5)


@BOTH
def test_variances_are_never_negative(to: Any) -> None:
    constant = to(np.full((1, 7, 3), 0.1) * 1e5)
    assert (plain(Marginals.of(constant).variance) >= 0).all()
    for m in (Moments.of([(constant, constant)]), Moments.few([(constant, constant)])):
        assert (plain(m.variance) >= 0).all()
        assert (plain(m.H).diagonal(0, 1, 2) >= 0).all()


# --- The evidence of a layer


def test_batches_are_put_together() -> None:
    a, b = as_evidence((X[:, :30], Y[:, :30]), 0), as_evidence((X[:, 30:], Y[:, 30:]), 3)
    both = a.merge(b)
    assert both.sampled == {**a.sampled, **b.sampled}
    assert both.count == SAMPLES
    assert both.positions == 3 * SAMPLES
    close(both.inputs, Marginals.of(X))
    close(both.outputs, Marginals.of(Y))
    close(both.joint, Moments.of([(X, Y)]))
    pairs = list(both.pairs())
    np.testing.assert_array_equal(np.concatenate([x for x, _, _ in pairs], 1), X)
    np.testing.assert_array_equal(np.concatenate([y for _, y, _ in pairs], 1), Y)


def test_one_without_moments_leaves_the_others() -> None:
    with_moments, without = joint(X, Y), sampled(X, Y)
    assert with_moments.merge(without).joint is with_moments.joint
    assert without.merge(with_moments).joint is with_moments.joint
    assert without.merge(Evidence(without.inputs, without.outputs)).joint is None


def test_a_batch_is_not_counted_twice() -> None:
    with pytest.raises(ValueError, match="both hold batch 0; merge that of other batches"):
        sampled(X, Y).merge(sampled(X, Y))


def test_what_has_grown_old_weighs_less_in_every_part() -> None:
    seen = replace(sampled(X, Y, 1.0, 0.5), joint=Moments.of([(X, Y)]))
    seen = replace(seen, gram=seen.joint.gram)
    old = seen.decayed(0.25)
    assert [s.weight for s in old.sampled.values()] == [0.25, 0.125]
    assert old.inputs.count == old.outputs.count == old.joint.count == SAMPLES / 4
    assert old.gram.count == SAMPLES / 4
    assert old.count == seen.count
    assert old.positions == seen.positions
    close(old.inputs.mean, seen.inputs.mean)
    close(old.joint.H, seen.joint.H)


def test_seen_by_some_batches_with_ways_to_their_inputs() -> None:
    seen = sampled(X, Y, 1.0, 1.0)
    asked = []

    def way(part: Any) -> Any:
        asked.append(part)
        return X[:, 40:]

    found = seen.seen_by({1: way})
    assert not asked  # not before they are wanted
    ((x, y, weight),) = found.pairs()
    assert asked == [seen.sampled[1]]
    np.testing.assert_array_equal(x, X[:, 40:])
    np.testing.assert_array_equal(y, Y[:, 40:])
    assert weight == 1
    assert seen.sampled.keys() == {0, 1}
    known = replace(seen, gram=Moments.of([(X, Y)]).gram)
    assert known.seen_by({1: way}).gram is None  # it is of both batches


@BOTH
def test_rows(to: Any) -> None:
    live = to(np.array([True, False, True, True]))
    seen = replace(sampled(to(X), to(Y)), joint=Moments.of([(to(X), to(Y))]))
    with Unchanged(seen):
        some = seen.rows(live)
    wanted = Y[:, :, [0, 2, 3]]
    close(some.outputs, Marginals.of(wanted))
    close(some.joint, replace(Moments.of([(X, wanted)]), macs=some.joint.macs))
    np.testing.assert_array_equal(some.sampled[0].y, wanted)
    assert some.inputs is seen.inputs


@pytest.mark.parametrize(
    "value", [Marginals.of(X), Moments.of([(X, Y)]), Moments.of([(X, Y)]).gram, sampled(X, Y)]
)
def test_nothing_can_be_set(value: Any) -> None:
    with pytest.raises(FrozenInstanceError):
        value.count = 1


@BOTH
def test_samples_are_left_as_they_are(to: Any) -> None:
    x, y = to(X), to(Y)
    wide = to(np.random.default_rng(0).normal(size=(1, 6, 600)))
    with Unchanged(x, y, wide, W):
        for form in (Moments.of, Moments.few):
            first = form([(x, y), (x, y, 0.5)])
            with Unchanged(first):
                form([(x, y), (x, y, 0.5)])
        Marginals.of(x)
        one = Moments.of([(wide, wide[..., :2])])
        with Unchanged(one):  # more than a block of columns is added to in place: not these
            Moments.of([(wide, wide[..., :2]), (wide, wide[..., :2])], one.gram)
            Moments.of([(wide, wide[..., :2]), (wide, wide[..., :2])])
            one.merge(one)


def test_tensors_and_arrays_give_the_same() -> None:
    tensors = in_torch(X), in_torch(Y)
    for form in (Moments.of, Moments.few):
        found = form([tensors, (*tensors, 0.5)])
        assert isinstance(found.C, torch.Tensor)
        close(found, form([(X, Y), (X, Y, 0.5)]), 1e-12)
    assert isinstance(Marginals.of(tensors[0]).total, torch.Tensor)
    close(Marginals.of(tensors[0]), Marginals.of(X), 1e-12)
    assert isinstance(Moments.of([(X, Y)]).gram, Gram)

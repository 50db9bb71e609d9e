"""What is known of a batch norm's inputs merges in any order, and grows old."""

from __future__ import annotations

from functools import reduce

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from finepruning.network.norms import ChannelMoments
from problems import Unchanged, close

quickly = settings(max_examples=40)


@st.composite
def three_parts(draw: st.DrawFn) -> list[Tensor]:
    """Inputs ``(N, C, ...)`` of three batches, whose means lie apart."""
    C, space = draw(st.integers(1, 4)), draw(st.sampled_from([(1,), (3,), (2, 3)]))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 10**6)))
    found = []
    for _ in range(3):
        n, mean = draw(st.integers(1, 5)), draw(st.sampled_from([0.0, 1.0, -100.0, 1e4]))
        x = torch.randn(n, C, *space, generator=generator, dtype=torch.float64)
        found.append(mean + x * torch.arange(1, C + 1).reshape(-1, *(1 for _ in space)))
    return found


@quickly
@given(three_parts())
def test_merging_is_associative_and_order_free(drawn: list[Tensor]) -> None:
    a, b, c = map(ChannelMoments.of, drawn)
    with Unchanged(a, b, c, *drawn):
        together = a.merge(b).merge(c)
        close(a.merge(b.merge(c)), together)
        close(c.merge(a).merge(b), together)
        close(b.merge(a), a.merge(b))


@quickly
@given(three_parts(), st.floats(0.01, 1), st.floats(0.01, 1))
def test_growing_old_is_linear(drawn: list[Tensor], f: float, g: float) -> None:
    a, b, _ = map(ChannelMoments.of, drawn)
    with Unchanged(a, b):
        close(a.merge(b).decayed(f), a.decayed(f).merge(b.decayed(f)))
        close(a.decayed(f).decayed(g), a.decayed(f * g))
        close(a.decayed(f).mean, a.mean)
        close(a.decayed(1.0), a)


@quickly
@given(three_parts())
def test_merged_parts_are_the_whole(drawn: list[Tensor]) -> None:
    whole = torch.cat(drawn)
    found = reduce(ChannelMoments.merge, map(ChannelMoments.of, drawn))
    close(found, ChannelMoments.of(whole))
    assert found.samples == len(whole)
    assert found.count == len(whole) * whole[0, 0].numel()
    flat = whole.transpose(0, 1).flatten(1).numpy()
    close(found.mean, flat.mean(1))
    np.testing.assert_allclose(found.variance, flat.var(1), atol=1e-7)
    close(found.per_sample, whole.flatten(2).mean(2).square().sum(0))


def test_a_weight_of_two_is_to_be_there_twice() -> None:
    one = ChannelMoments.of(torch.randn(4, 3, 5))
    close(one.decayed(2.0), one.merge(one))


@pytest.mark.parametrize("kind", [torch.float32, torch.float64])
def test_large_means_and_small_variances(kind: torch.dtype) -> None:
    x = (1e4 + torch.randn(20, 3, 8, 8, dtype=torch.float64)).to(kind)
    found = reduce(ChannelMoments.merge, map(ChannelMoments.of, x.split(5)))
    wanted = x.double().var((0, 2, 3), correction=0)
    within = {torch.float32: 1e-2, torch.float64: 1e-6}[kind]
    np.testing.assert_allclose(found.variance, wanted, rtol=within)


def test_inputs_that_never_vary() -> None:
    found = ChannelMoments.of(torch.full((4, 3, 5), 0.1) * 1e5)
    assert (found.variance >= 0).all()

"""What is kept of earlier samples: it fades, it merges, and it aligns another device."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from changing import Small, device, drawn
from finepruning import Config, personalize
from finepruning.core.arrays import LowRank
from finepruning.data.batches import read_batches
from finepruning.network.engine import Engine
from finepruning.network.norms import ChannelMoments, find_norms
from finepruning.steps.statistics import Statistics, align_norms


def kept(x: torch.Tensor, rank: int = 256) -> Statistics:
    config = Config(
        sparsity=0.0, effort="fast", observe={"rank": rank}, task="classes", check=False
    )
    found = personalize(Small(), x, config=config, progress=False).statistics
    assert found is not None
    return found


X, MORE = drawn([0, 1], 60)[0], drawn([2], 40, seed=1)[0]


def test_both_together_are_what_all_samples_give() -> None:
    both, merged = kept(torch.cat([X, MORE])), kept(X).merge(kept(MORE))
    assert merged.samples == both.samples == 100
    first, wanted = merged.inputs["0"], both.inputs["0"]  # the other layers see other inputs
    np.testing.assert_allclose(first.mean, wanted.mean, atol=0.05)
    np.testing.assert_allclose(first.H.dense(), wanted.H.dense(), atol=0.3)
    one, two = merged.usual.means["0"], both.usual.means["0"]
    np.testing.assert_allclose(one.mean, two.mean, rtol=1e-6, atol=1e-9)
    norm = merged.norms["1"]
    np.testing.assert_allclose(norm.mean, both.norms["1"].mean, rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(norm.variance, both.norms["1"].variance, rtol=1e-6)


def test_older_samples_count_less_and_each_class_keeps_its_share() -> None:
    x, which = drawn([0, 0, 0, 1], 400)
    full = kept(x)
    less = full.capped(100)
    assert less.samples == 100
    assert less.usual.means["0"].count == pytest.approx(100)
    assert less.logits is not None
    assert len(less.logits) == 100
    share = float((which == 1).float().mean())
    assert float((less.logits.argmax(1) == 1).float().mean()) == pytest.approx(share, abs=0.02)
    assert full.capped(1000).samples == 400


def test_memory_is_bounded_by_the_rank() -> None:
    small = kept(X, rank=4)
    assert all(isinstance(g.H, LowRank) and g.H.F.shape[1] <= 4 for g in small.inputs.values())
    assert small.nbytes < kept(X).nbytes


def test_an_aligned_norm_gives_what_it_gave() -> None:
    """Of a device that adds and scales, exactly; of the way to it, a share."""
    model = Small()
    given = [*read_batches(X)]
    changed = [*read_batches(device(X))]

    def outputs(engine: Engine, batches: list) -> torch.Tensor:  # type: ignore[type-arg]
        engine_outputs = [passed.output for passed in engine.stream(batches)]
        return torch.cat(engine_outputs)

    plain = Engine(nn.Sequential(nn.Conv1d(1, 4, 1), nn.BatchNorm1d(4)).eval(), torch.device("cpu"))
    norms = find_norms(plain.model) or ()
    if not norms:  # statistics that are zero and one count as folded
        plain.model[1].running_mean += 0.1
        norms = find_norms(plain.model)
    wanted = outputs(plain, given)
    past = {"1": moments(plain, given)}
    align_norms(plain, norms, changed, past, share=1.0)
    torch.testing.assert_close(outputs(plain, changed), wanted, rtol=1e-4, atol=1e-4)
    assert model is not None


def moments(engine: Engine, batches: list) -> ChannelMoments:  # type: ignore[type-arg]
    found: list[ChannelMoments] = []
    for norm in find_norms(engine.model):
        x = torch.cat([engine.model[0](batch.inputs) for batch in batches])
        found.append(ChannelMoments.of(x))
        assert norm.name == "1"
    return found[0]

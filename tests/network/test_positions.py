"""Padding in a fixed window: left out of the statistics, and the same network comes of it."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from finepruning import Config, personalize
from finepruning.network.convolutions import ConvLayer
from finepruning.network.layers import LinearLayer
from finepruning.network.positions import RealPositions, drawn
from speech import Speech, clips


@pytest.mark.filterwarnings("ignore:Using padding=.same")
def test_convolutions_have_the_positions_of_the_sample_alone() -> None:
    """For every geometry, a position is real where the sample alone would have it too."""
    lengths = [4, 9, 16, 23]
    mask = torch.arange(23) < torch.tensor(lengths)[:, None]
    for kernel in (1, 2, 3, 4):
        for options in (
            {}, {"stride": 2}, {"padding": kernel // 2}, {"stride": 3, "padding": kernel // 2},
            {"padding": "same"}, {"dilation": 2, "padding": "same"},
        ):  # fmt: skip
            conv = nn.Conv1d(2, 2, kernel, **options)  # type: ignore[arg-type]
            real = RealPositions(mask).of(ConvLayer("c", conv), torch.zeros(4, 2, 23))
            assert real is not None
            alone = [conv(torch.zeros(1, 2, n)).shape[2] for n in lengths]
            if isinstance(conv.padding, tuple) or conv.padding == "same":
                assert real.sum(1).tolist() == alone, (kernel, options)
            assert bool((real.long().diff(dim=1) <= 0).all()), "first the real ones"


def test_patches_tokens_and_what_follows() -> None:
    """A spectrogram (AST): patches, two tokens before them, then layers on all tokens."""
    mask = torch.arange(64) < torch.tensor([64, 24])[:, None]
    known = RealPositions(mask)
    patches = ConvLayer("p", nn.Conv2d(1, 8, 8, stride=8))
    grid = known.of(patches, torch.zeros(2, 1, 16, 64))
    assert grid is not None
    assert grid.view(2, 2, 8).sum(2).tolist() == [[8, 8], [3, 3]]
    linear = LinearLayer("l", nn.Linear(8, 8))
    tokens = known.of(linear, torch.zeros(2, 18, 8))
    assert tokens is not None
    assert tokens[:, :2].all()
    assert torch.equal(tokens[:, 2:], grid)
    assert known.of(linear, torch.zeros(2, 8)) is None, "pooled: one position, and it is real"
    assert known.of(linear, torch.zeros(2, 5, 8)) is None, "no time axis that is known"


def test_shapes_that_networks_give_their_layers() -> None:
    mask = torch.tensor([[True, True, False, False], [True] * 4])
    linear = LinearLayer("l", nn.Linear(3, 3))
    real = [RealPositions(mask).of(linear, torch.zeros(*s, 3)) for s in [(2, 4), (4, 2), (8,)]]
    assert [None if r is None else r.tolist() for r in real] == [
        mask.tolist(), mask.T.tolist(), mask.reshape(8, 1).tolist()
    ]  # fmt: skip
    four = RealPositions(mask).of(linear, torch.zeros(2, 4, 2, 3))
    assert four is not None
    assert four.tolist() == mask.repeat_interleave(2, 1).tolist()
    assert RealPositions(None).of(linear, torch.zeros(2, 4, 3)) is None


def test_positions_are_drawn_evenly_from_what_is_real() -> None:
    real = torch.tensor([[False] * 2 + [True] * 6, [True] + [False] * 7, [False] * 8])
    sample, position = drawn(real, 3, torch.zeros(3, 1))
    assert list(zip(sample.tolist(), position.tolist(), strict=True)) == [
        (0, 2), (0, 4), (0, 6), (1, 0)
    ]  # fmt: skip


# Through personalize


@pytest.mark.parametrize("effort", ["best", "fast", "paper"])
@pytest.mark.parametrize("norm", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_same_network_whatever_the_padding(effort: str, norm: bool, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    model = Speech(norm=norm).to(dtype).eval()
    results = [
        personalize(model, data, sparsity=0.5, effort=effort)
        for data in (
            clips(60, False, dtype), clips(97, False, dtype), clips(60, True, dtype),
            clips(60, False, dtype, garbage=50.0),
        )
    ]  # fmt: skip
    first = results[0].model.state_dict()
    for result in results[1:]:
        for name, value in result.model.state_dict().items():
            assert torch.equal(value, first[name]), name


@pytest.mark.parametrize("effort", ["best", "fast", "paper"])
def test_what_fills_a_fixed_window_never_counts(effort: str) -> None:
    """The network answers from the real frames alone, so that the filling can be anything."""
    torch.manual_seed(0)
    model = Speech(window=60).eval()
    results = [
        personalize(model, clips(60, False, torch.float32, garbage), sparsity=0.5, effort=effort)
        for garbage in (0.0, 50.0)
    ]
    first = results[0].model.state_dict()
    for name, value in results[1].model.state_dict().items():
        assert torch.allclose(value, first[name], atol=1e-5), name


def test_long_clips_after_a_short_one_stay_within_the_memory() -> None:
    torch.manual_seed(0)
    short = {"input_values": torch.randn(1, 40)}
    long = [{"input_values": torch.randn(1, 4000)} for _ in range(20)]
    config = Config(sparsity=0.5, observe={"memory": 3e6})
    result = personalize(Speech().eval(), iter([short, *long]), config=config)
    assert 1 < result.report.calibration_samples < 21
    assert result.report.samples == 21

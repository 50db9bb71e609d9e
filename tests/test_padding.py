"""Padding: cut off where the network stands it, left out of the statistics where it does not."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from finepruning._batches import Batch, read_batches
from finepruning._evaluate import predict
from torch import Tensor, nn

from finepruning import personalize
from finepruning._errors import FinepruningError
from finepruning._layers import ConvLayer, LinearLayer
from finepruning._padding import RealPositions, Unpad, drawn, unpadded

LENGTHS = [5, 5, 3, 8, 8, 2]


def padded(lengths: list[int], whole: int = 8, left: bool = False) -> dict[str, Tensor]:
    """Sample ``i`` counts up from 100 i; what is padding is -1."""
    mask = torch.arange(whole) < torch.tensor(lengths)[:, None]
    mask = mask.flip(1) if left else mask
    x = torch.arange(float(whole)) + 100 * torch.arange(len(lengths))[:, None]
    return {"x": torch.where(mask, x, -1.0), "attention_mask": mask.long()}


def anything(batch: Batch) -> None:
    pass


def only_whole(batch: Batch) -> None:
    """A network with a window of 8 steps."""
    if batch.inputs["x"].shape[1] != 8:  # type: ignore[index]
        raise FinepruningError("8 steps")


def no_mask(batch: Batch) -> None:
    only_whole(batch)
    if "attention_mask" in batch.inputs:
        raise FinepruningError("unexpected keyword attention_mask")


# Cutting


def test_samples_are_cut_to_their_length_in_order() -> None:
    parts = Unpad(anything)(Batch(padded(LENGTHS), 6, items=1))
    assert [tuple(p.inputs["x"].shape) for p in parts] == [(2, 5), (1, 3), (2, 8), (1, 2)]  # type: ignore[union-attr,index]
    values = [row.tolist() for p in parts for row in p.inputs["x"]]  # type: ignore[union-attr,index]
    assert values == [[100.0 * i + t for t in range(n)] for i, n in enumerate(LENGTHS)]
    assert all(bool(p.inputs["attention_mask"].all()) for p in parts)  # type: ignore[union-attr,index]
    assert sum(p.items for p in parts) == 1
    assert all(p.mask is None for p in parts)


def test_every_way_to_batch_is_the_same_stream() -> None:
    one = [padded(LENGTHS)]
    more = [padded(LENGTHS, 20)]
    each = [{k: v[i : i + 1] for k, v in padded(LENGTHS, 11).items()} for i in range(6)]
    cut = [{k: v[:, : LENGTHS[i]] for k, v in item.items()} for i, item in enumerate(each)]
    streams = [
        [dict(b.inputs) for b in unpadded(read_batches(data), anything)]  # type: ignore[arg-type]
        for data in (one, more, each, cut)
    ]
    for stream in streams[1:]:
        assert len(stream) == len(streams[0])
        for a, b in zip(streams[0], stream, strict=True):
            assert all(torch.equal(a[key], b[key]) for key in a)


def test_only_the_time_axis_is_cut() -> None:
    inputs = {
        "features": torch.zeros(2, 4, 8),
        "decoder_input_ids": torch.zeros(2, 8),
        "flag": True,
        "attention_mask": padded([3, 3])["attention_mask"],
    }
    (part,) = Unpad(anything)(Batch(inputs, 2))
    shapes = {k: tuple(v.shape) for k, v in part.inputs.items() if isinstance(v, Tensor)}  # type: ignore[union-attr]
    assert shapes == {
        "features": (2, 4, 3), "decoder_input_ids": (2, 8), "attention_mask": (2, 3)
    }  # fmt: skip


def test_a_fixed_window_stays_and_says_what_is_real() -> None:
    unpad = Unpad(only_whole)
    (part,) = unpad(Batch(padded(LENGTHS), 6))
    assert part.inputs["x"].shape == (6, 8)  # type: ignore[index]
    assert part.mask is not None
    assert part.mask.sum(1).tolist() == LENGTHS
    (full,) = unpad(Batch(padded([8, 8]), 2))
    assert full.mask is None


def test_samples_are_cut_for_a_network_that_takes_no_mask() -> None:
    def call(batch: Batch) -> None:
        if "attention_mask" in batch.inputs:
            raise FinepruningError("unexpected keyword attention_mask")

    for first, second in ((LENGTHS, [8, 8]), ([8, 8], LENGTHS)):
        unpad = Unpad(call)
        parts = [p for n in (first, second) for p in unpad(Batch(padded(n), len(n)))]
        assert all(p.inputs.keys() == {"x"} and p.mask is None for p in parts)  # type: ignore[union-attr]
        shapes = [(2, 5), (1, 3), (2, 8), (1, 2)]
        expected = [*shapes, (2, 8)] if first is LENGTHS else [(2, 8), *shapes]
        assert [tuple(p.inputs["x"].shape) for p in parts] == expected  # type: ignore[union-attr,index]


def test_a_mask_that_the_network_does_not_take_is_kept_from_it() -> None:
    unpad = Unpad(no_mask)
    for lengths in (LENGTHS, [8, 8]):
        (part,) = unpad(Batch(padded(lengths), len(lengths)))
        assert part.inputs.keys() == {"x"}  # type: ignore[union-attr]
        assert (part.mask is None) == (lengths == [8, 8])


def test_padding_before_the_sample_is_left_out() -> None:
    (part,) = Unpad(anything)(Batch(padded([3, 8], left=True), 2))
    assert part.mask is not None
    assert part.mask[0].tolist() == [False] * 5 + [True] * 3


def test_a_sample_of_padding_alone_is_an_error() -> None:
    with pytest.raises(FinepruningError, match="sample 1 of a batch is padding alone"):
        Unpad(anything)(Batch(padded([3, 0]), 2))


@pytest.mark.parametrize("mask", [torch.zeros(2, 1, 4, 4), torch.tensor([[0.0, -1e9]] * 2)])
def test_masks_of_another_form_are_left_to_the_network(mask: Tensor) -> None:
    batch = Batch({"x": torch.ones(2, 2), "attention_mask": mask}, 2)
    assert Unpad(anything)(batch) == [batch]


# Positions in a fixed window


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


class Speech(nn.Module):
    """Convolutions over the waveform, frames, a pooled answer; with a window, or without."""

    def __init__(self, window: int = 0, norm: bool = False) -> None:
        super().__init__()
        self.window = window
        self.first = nn.Conv1d(1, 8, 4, 2)
        self.norm = nn.GroupNorm(8, 8) if norm else nn.Identity()
        self.second = nn.Conv1d(8, 12, 3, 2)
        self.frame = nn.Linear(12, 12)
        self.head = nn.Linear(12, 4)

    def forward(self, input_values: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        if self.window and input_values.shape[1] != self.window:
            raise ValueError(f"{self.window} samples")
        x = self.second(self.norm(self.first(input_values[:, None])).relu()).relu()
        x = self.frame(x.transpose(1, 2)).relu()
        if attention_mask is None:
            return self.head(x.mean(1))
        frames = (((attention_mask.sum(1) - 4) // 2 + 1) - 3) // 2 + 1
        real = (torch.arange(x.shape[1]) < frames[:, None]).to(x.dtype)[..., None]
        return self.head((x * real).sum(1) / real.sum(1))


def clips(whole: int, each: bool, dtype: torch.dtype, garbage: float = 0.0) -> list[Any]:
    generator = torch.Generator().manual_seed(0)
    lengths = torch.randint(30, 60, (24,), generator=generator)
    x = torch.randn(24, 60, generator=generator)
    x = nn.functional.pad(x, (0, whole - 60))
    mask = (torch.arange(whole) < lengths[:, None]).long()
    x = torch.where(mask.bool(), x, garbage).to(dtype)
    sizes = 1 if each else 6
    return [
        {"input_values": a, "attention_mask": m}
        for a, m in zip(x.split(sizes), mask.split(sizes), strict=True)
    ]


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
    from finepruning import Config

    torch.manual_seed(0)
    short = {"input_values": torch.randn(1, 40)}
    long = [{"input_values": torch.randn(1, 4000)} for _ in range(20)]
    config = Config(sparsity=0.5, memory=3e6)
    result = personalize(Speech().eval(), iter([short, *long]), config=config)
    assert 1 < result.report.calibration_samples < 21
    assert result.report.samples == 21


def test_predict_cuts_too() -> None:
    torch.manual_seed(0)
    model = Speech(norm=True).eval()
    with torch.inference_mode():
        one = torch.cat([predict(model, x) for x in clips(60, False, torch.float32)])
        other = torch.cat([predict(model, x) for x in clips(97, True, torch.float32, 9.0)])
    assert torch.allclose(one, other, atol=1e-6)

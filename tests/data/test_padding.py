"""Padding is cut off where the network stands it, and said to be padding where it does not."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from finepruning import FinepruningError
from finepruning.data.batches import Batch, read_batches
from finepruning.data.padding import Unpad, unpadded

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

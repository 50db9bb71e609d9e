"""The fingerprint of a network."""

from __future__ import annotations

import torch
from torch import nn

from finepruning.artifact.fingerprint import fingerprint, is_of


def test_fingerprint() -> None:
    """Of names, types, shapes and bits; not of mode, gradients or memory layout."""
    model = nn.Conv2d(3, 4, 3)
    one = fingerprint(model)
    assert len(one) == 64
    model.train().requires_grad_(False)
    assert fingerprint(model) == fingerprint(model.to(memory_format=torch.channels_last)) == one
    odd = nn.Module()
    for name, value in {
        "scalar": torch.tensor(1.0), "empty": torch.zeros(0, 3), "flag": torch.tensor([True]),
        "number": torch.tensor(3), "half": torch.ones(2, dtype=torch.bfloat16),
    }.items():  # fmt: skip
        odd.register_buffer(f"a_{name}", value)
    assert fingerprint(odd) != one
    with torch.no_grad():
        model.weight[0, 0, 0, 0] = 0.0
        zero = fingerprint(model)
        model.weight[0, 0, 0, 0] = -0.0
    assert fingerprint(model) != zero


def test_what_inference_does_not_read_is_left_out() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).eval()
    model.register_parameter("masked_spec_embed", nn.Parameter(torch.zeros(4)))
    one, first = fingerprint(model), fingerprint(model, unread=())
    assert is_of(model, one)
    assert is_of(model, first)  # as the first version had it
    model[1].num_batches_tracked += 1
    model.masked_spec_embed.data += 1
    assert fingerprint(model) == one
    assert not is_of(model, first)
    model[1].running_mean += 1
    assert not is_of(model, one)

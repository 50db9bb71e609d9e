"""Layers that see the same inputs share one Gram matrix, and their statistics in observing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import transformers as hf
from torch import Tensor, nn

from finepruning import Result
from finepruning.core import evidence, moments
from finepruning.steps import prune, watch
from unchecked import personalize

GENERATOR = torch.Generator().manual_seed(0)
TOKENS = torch.randn(48, 6, 16, generator=GENERATOR)
IMAGES = torch.randn(48, 8, 6, 6, generator=GENERATOR)
BATCHES = 6


class Bottleneck(nn.Module):
    """A residual block whose downsample, which comes last, sees what its first layer sees."""

    def __init__(self, stride: int = 1, kernel: int = 1, inplace: bool = False) -> None:
        super().__init__()
        self.inplace = inplace
        self.conv1 = nn.Conv2d(8, 4, 1)
        self.conv2 = nn.Conv2d(4, 4, 3, stride, padding=1)
        self.conv3 = nn.Conv2d(4, 16, 1)
        self.downsample = nn.Conv2d(8, 16, kernel, stride, padding=kernel // 2)
        self.head = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = x + 0.0
        y = self.conv3(self.conv2(self.conv1(x).relu()).relu())
        if self.inplace:
            x.mul_(2)
        return self.head((y + self.downsample(x)).relu().mean((2, 3)))


class Encoder(nn.Module):
    def __init__(self, batch_first: bool = True, inference: bool = False) -> None:
        super().__init__()
        self.batch_first, self.inference = batch_first, inference
        self.block = nn.TransformerEncoderLayer(16, 2, 32, batch_first=batch_first)
        self.head = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        with torch.inference_mode(self.inference):
            x = x + 0.0 if self.batch_first else x.transpose(0, 1)
            return self.head(self.block(x).mean(1 if self.batch_first else 0))


class Cross(nn.Module):
    """Queries of their own; keys and values of one memory."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(16, 2, batch_first=True)
        self.head = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.attention(x[:, :3], x, x)[0].mean(1))


def bert() -> nn.Module:
    return hf.BertForSequenceClassification(
        hf.BertConfig(
            vocab_size=50, hidden_size=16, num_hidden_layers=2, num_attention_heads=2,
            intermediate_size=32, num_labels=5,
        )
    )  # fmt: skip


def vit() -> nn.Module:
    return hf.ViTForImageClassification(
        hf.ViTConfig(
            hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32,
            image_size=32, patch_size=8, num_labels=5,
        )
    )  # fmt: skip


def texts() -> list[dict[str, Tensor]]:
    ids = torch.randint(1, 50, (48, 9))
    return [{"input_ids": i} for i in ids.split(8)]


def photos() -> Tensor:
    return torch.randn(48, 3, 32, 32)


CASES: dict[str, tuple[Callable[[], nn.Module], Callable[[], Any], int]] = {
    # what makes the network, its data, and how many of its layers need no matrix of their own
    "encoder": (Encoder, lambda: TOKENS, 2),
    "encoder, time first": (lambda: Encoder(False), lambda: TOKENS, 2),
    "cross": (Cross, lambda: TOKENS, 1),
    "inference": (lambda: Encoder(inference=True), lambda: TOKENS, 0),
    "bert": (bert, texts, 4),
    "vit": (vit, photos, 4),
    "bottleneck": (Bottleneck, lambda: IMAGES, 1),
    "bottleneck, stride 2": (lambda: Bottleneck(2), lambda: IMAGES, 0),
    "bottleneck, another kernel": (lambda: Bottleneck(1, 3), lambda: IMAGES, 0),
    "bottleneck, changed between": (lambda: Bottleneck(inplace=True), lambda: IMAGES, 0),
}


def run(case: str, monkeypatch: pytest.MonkeyPatch) -> tuple[Result, int]:
    """The result, and how many layers' Gram matrices were multiplied out."""
    make, data, _ = CASES[case]
    torch.manual_seed(0)
    model = make().eval()
    given = data()
    calls, plain = [], moments.gram
    with monkeypatch.context() as patch:
        patch.setattr(moments, "gram", lambda X, *args: calls.append(X) or plain(X, *args))
        patch.setattr(moments, "PART", 1)  # each batch is added up by itself
        result = personalize(model, given, sparsity=0.5)
    return result, len(calls) // BATCHES


@pytest.mark.parametrize("case", CASES)
def test_one_matrix_for_what_is_seen_together(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    shared, computed = run(case, monkeypatch)
    errors = {layer.name: layer.error for layer in shared.report.layers}
    # The same positions, as observing draws them, but a matrix for each layer.
    monkeypatch.setattr(prune._Shared, "known", lambda *_: None)
    alone, all_of_them = run(case, monkeypatch)
    assert all_of_them - computed == CASES[case][2]
    for layer in alone.report.layers:
        assert errors[layer.name] == pytest.approx(layer.error, abs=1e-5)
    for one, two in zip(shared.model.parameters(), alone.model.parameters(), strict=True):
        torch.testing.assert_close(one, two, atol=2e-4, rtol=1e-3)
    if computed < all_of_them:
        assert shared.report.forward_passes < alone.report.forward_passes


@pytest.mark.parametrize("case", [case for case in CASES if CASES[case][2]])
def test_positions_are_drawn_once_for_them(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """And moments of their inputs are gathered once: that is what the layers' evidence shares."""
    draws: list[int] = []
    plain = watch.Watcher._draw

    def draw(self: Any, *args: Any) -> Any:
        draws.append(1)
        return plain(self, *args)

    monkeypatch.setattr(watch.Watcher, "_draw", draw)
    result, _ = run(case, monkeypatch)
    assert len(draws) == BATCHES * (len(result.report.layers) - CASES[case][2])


def test_matrices_are_let_go_with_their_inputs() -> None:
    """No more than the last, and those that are smaller than inputs which wait anyway."""

    class Seen:
        view = ("linear",)

    def sight(x: Tensor) -> Any:
        sampled = evidence.Sampled((1, 1), x, x, x)
        of = evidence.Evidence(None, None, sampled={0: sampled})
        return prune._Sight.of(Seen(), of, {0: x})  # type: ignore[arg-type]

    def gram(size: int) -> moments.Gram:
        return moments.Gram(1, torch.zeros(1, size), torch.zeros(1, size, size))

    shared, small, large, other = prune._Shared(), *(torch.zeros(10, 10) for _ in range(3))
    for x, size in ((small, 3), (large, 11)):
        assert shared.known(sight(x)) is None
        shared.note(sight(x), gram(size))
    assert shared.known(sight(small)) is not None
    assert shared.known(sight(large)) is not None
    assert shared.known(sight(other)) is None
    assert shared.known(sight(large)) is None, "it was not the last, and is large"
    assert shared.known(sight(small)) is not None
    before = sight(small)
    del small
    assert shared.known(before) is None
    assert shared._grams == []

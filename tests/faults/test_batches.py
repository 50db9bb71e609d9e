"""Batches as people have them: counted right, or refused in one true line."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence

from finepruning import Config, FinepruningError
from finepruning.data.batches import read_batches
from unchecked import personalize

X = torch.randn(64, 8, generator=torch.Generator().manual_seed(0))


def sizes(data: Any) -> list[int]:
    return [batch.size for batch in read_batches(data)]


@pytest.mark.parametrize(
    ("item", "size"),
    [
        ({"positions": torch.arange(10)[None], "ids": torch.zeros(32, 10)}, 32),
        ({"ids": torch.zeros(32, 10), "positions": torch.arange(10)[None]}, 32),
        ({"table": torch.zeros(100, 4), "a": torch.zeros(32, 10), "b": torch.zeros(32)}, 32),
        ({"bias": torch.zeros(1, 4), "x": torch.zeros(1, 4)}, 1),
        ({"mask": torch.zeros(5, 5), "input_ids": torch.zeros(40, 5)}, 40),
    ],
)
def test_how_many_samples_there_are(item: dict[str, Tensor], size: int) -> None:
    assert sizes([item]) == [size]


def test_a_tensor_that_all_samples_share() -> None:
    class Shared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.e, self.p, self.a, self.f = (
                nn.Embedding(50, 32), nn.Embedding(16, 32), nn.Linear(32, 64), nn.Linear(64, 5)
            )  # fmt: skip

        def forward(self, position_ids: Tensor, input_ids: Tensor) -> Tensor:
            return self.f(self.a(self.e(input_ids) + self.p(position_ids)).relu().mean(1))

    data = [
        {"position_ids": torch.arange(10)[None], "input_ids": torch.randint(0, 50, (32, 10))}
        for _ in range(4)
    ]
    assert personalize(Shared(), data, sparsity=0.5).report.samples == 128


@pytest.mark.parametrize(
    ("item", "reason"),
    [
        (pack_padded_sequence(torch.zeros(3, 4, 2), [4, 3, 1], batch_first=True), "PackedSequence"),
        ({"images": [torch.zeros(3, 8, 8), torch.zeros(3, 9, 8)]}, "'images'.* list of tensors"),
    ],
)
def test_what_cannot_be_taken(item: Any, reason: str) -> None:
    with pytest.raises(FinepruningError, match=f"batches: item 0.*{reason}"):
        sizes([item])


def test_a_buffer_that_an_iterator_writes_over() -> None:
    """Each batch is what it was when it was given."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 4))

    def reusing() -> Iterator[Tensor]:
        buffer = torch.empty(32, 8)
        for part in X.split(32):
            buffer.copy_(part)
            yield buffer

    one, two = (personalize(model, data, sparsity=0.5).model for data in (reusing(), X.split(32)))
    for a, b in zip(one.parameters(), two.parameters(), strict=True):
        assert torch.equal(a, b)


def test_items_of_unequal_sizes_keep_to_the_memory() -> None:
    """The first is small, and says little of the others."""

    class Items:
        def __len__(self) -> int:
            return 9

        def __iter__(self) -> Iterator[Tensor]:
            yield torch.randn(33, 8)
            for _ in range(8):
                yield torch.randn(33 * 64, 8)

    model = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 4))
    room = 33 * 64 * 2 * (8 + 32) * 4 * 1.5  # bytes for two of the large ones
    config = Config(sparsity=0.5, observe={"memory": room})
    report = personalize(model, Items(), config=config).report
    assert report.samples == 33 + 8 * 33 * 64
    assert report.calibration_samples <= 33 + 2 * 33 * 64

"""The person's data in every form, and what is refused."""

from __future__ import annotations

from collections import UserDict
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from finepruning import FinepruningError
from finepruning.data import batches
from finepruning.data.batches import Batch, count_items, read_batches

X = torch.arange(12.0).reshape(6, 2)


def read(data: Any) -> list[Batch]:
    return list(read_batches(data))


@pytest.mark.parametrize(
    "data",
    [
        X,
        X.numpy(),
        [X[:4], X[4:]],
        (X[:4], X[4:]),
        [(X[:4], "labels"), [X[4:], 3, None]],
        [X[:4].numpy(), (X[4:].numpy(), 1)],
        X.split(1),
        DataLoader(TensorDataset(X, torch.zeros(6)), batch_size=4),
        DataLoader(TensorDataset(X)),
    ],
)
def test_tensors(data: Any) -> None:
    for items in (data, iter(data)) if not isinstance(data, Tensor | np.ndarray) else (data,):
        batches = read(items)
        assert torch.equal(torch.cat([b.inputs for b in batches]), X)
        assert sum(b.size for b in batches) == 6


def test_a_tensor_is_split() -> None:
    size = batches.BATCH_SIZE
    data = torch.zeros(2 * size + 1, 3)
    assert [b.size for b in read(data)] == [size, size, 1]
    assert count_items(data) == 3


def test_small_batches_are_joined() -> None:
    data = torch.arange(50.0).reshape(25, 2)
    batches = read(data.split(1))
    assert [(b.size, b.items) for b in batches] == [(8, 8), (8, 8), (8, 8), (1, 1)]
    assert torch.equal(torch.cat([b.inputs for b in batches]), data)
    other = [torch.zeros(2, 3), torch.zeros(2, 4), torch.zeros(2, 4).double(), torch.zeros(9, 4)]
    assert [b.size for b in read(other)] == [2, 2, 2, 9]


def test_minus_infinity_is_welcome_in_a_mask_alone() -> None:
    (batch,) = read([{"x": torch.zeros(2, 3), "attention_mask": torch.full((2, 3), -torch.inf)}])
    assert batch.size == 2
    with pytest.raises(FinepruningError, match="attention_mask"):
        read([{"x": torch.zeros(2, 3), "attention_mask": torch.full((2, 3), torch.inf)}])
    with pytest.raises(FinepruningError, match="infinite"):
        read([torch.full((2, 3), -torch.inf)])


@pytest.mark.parametrize("kind", [dict, UserDict])
def test_keywords(kind: Callable[[dict[str, Any]], Any]) -> None:
    item = kind({"x": X, "scale": 2, "labels": X * torch.nan, "label": 1, "flag": torch.tensor(3)})
    (batch,) = read([item])
    assert batch.size == 6
    assert set(batch.inputs) == {"x", "scale", "flag"}

    class Model(nn.Module):
        def forward(self, *, x: Tensor, scale: int, flag: Tensor) -> Tensor:
            return x * scale + flag

    assert torch.equal(batch.call(Model()), X * 2 + 3)
    first = batch.take(0)
    assert first.size == 1
    assert torch.equal(first.call(Model()), X[:1] * 2 + 3)
    assert torch.equal(batch.to(torch.device("cpu")).call(Model()), X * 2 + 3)


def test_positional() -> None:
    (batch,) = read([X])
    assert torch.equal(batch.call(nn.Identity()), X)
    assert torch.equal(batch.take(0).inputs, X[:1])
    assert torch.equal(batch.to(torch.device("cpu")).inputs, X)


def test_reading_is_lazy() -> None:
    def endless() -> Iterator[Tensor]:
        while True:
            yield X

    stream = read_batches(endless())
    assert next(stream).size == next(stream).size == 6


def test_integers_need_not_be_finite() -> None:
    assert read([torch.tensor([[1, 2]])])[0].size == 1


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (torch.tensor(1.0), "shape"),
        (torch.zeros(3), "shape"),
        (np.zeros(3), "shape"),
        ("photos/", "str"),
        (b"photos", "bytes"),
        ({"x": X}, "dict"),
        (3, "int"),
        (None, "NoneType"),
        ([1.0], "item 0 is a float"),
        ([X, "two"], "item 1 is a str"),
        ([None], "NoneType"),
        ([()], "tuple"),
        ([[]], "list"),
        ([torch.tensor(1.0)], "single number"),
        ([{}], "no tensor"),
        ([{"labels": X}], "no tensor"),
        ([{"x": 3}], "no tensor"),
        ([X, X.log() - X.log()], "item 1 holds NaN"),
        ([X / 0], "item 0 holds NaN or inf"),
        ([(X / 0, 1)], "item 0 holds NaN or inf"),
        ([{"x": X, "y": X / 0}], r"item 0\['y'\] holds NaN"),
        (X / 0, "item 0 holds NaN"),
        (np.full((2, 2), np.nan, dtype=np.float16), "item 0 holds NaN"),
    ],
)
def test_refused(data: Any, what: str) -> None:
    with pytest.raises(FinepruningError, match=what) as error:
        read(data)
    message = str(error.value)
    assert message.startswith("batches: ")
    assert ";" in message  # what is wrong; what to do
    assert "\n" not in message

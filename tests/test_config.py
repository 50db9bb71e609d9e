"""The record of choices refuses what makes no sense, in one line."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from finepruning import Config, FinepruningError


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *(
            ("sparsity", v)
            for v in (1, 1.0, 1.5, -0.1, 70, float("nan"), float("inf"), "0.7", None)
        ),
        *(("effort", v) for v in ("", "Best", "slow", None)),
        *(("positions", v) for v in (0, -1)),
        *(("memory", v) for v in (0, -1.0, float("nan"))),
        *(("ridge", v) for v in (0, -0.1, float("nan"), float("inf"))),
        *(("planned", v) for v in (-0.1, 1.1, float("nan"))),
    ],
)
def test_refused(field: str, value: Any) -> None:
    with pytest.raises(FinepruningError) as error:
        Config(**{field: value})
    message = str(error.value)
    assert message.startswith(f"{field}={value!r}: ")  # what is wrong, then what to do
    assert "\n" not in message


@pytest.mark.parametrize("sparsity", [0, 0.0, 0.5, 0.999])
def test_accepted(sparsity: float) -> None:
    assert Config(sparsity=sparsity).sparsity == sparsity


def test_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        Config().sparsity = 0.5  # type: ignore[misc]


@pytest.mark.parametrize(
    "field",
    [{"seed": "a"}, {"seed": 1.5}, {"seed": 2**63}, {"positions": "a"}, {"memory": None},
     {"ridge": "x"}, {"planned": "x"}, {"sparsity": "0.7"}, {"memory": float("inf")}],
)  # fmt: skip
def test_another_type(field: dict[str, Any]) -> None:
    with pytest.raises(FinepruningError, match=next(iter(field))):
        Config(**field)

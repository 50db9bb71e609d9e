"""What is left of the answers, counted by hand."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from finepruning.scoring.stored import Stays, stays


class Gives(nn.Module):
    """The same outputs whatever comes in, as many as there are samples."""

    def __init__(self, outputs: list[list[float]] | Tensor | None) -> None:
        super().__init__()
        self.outputs = None if outputs is None else torch.as_tensor(outputs)
        self.weight = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor | dict[str, str]:
        return {"no": "tensor"} if self.outputs is None else self.outputs[: len(x)]


X = torch.zeros(3, 2)


def test_answers_and_distances() -> None:
    one = Gives([[1.0, 0.0], [0.0, 2.0], [2.0, 0.0]])
    two = Gives([[1.0, 0.0], [0.0, 1.0], [0.0, 2.0]])
    assert stays(one, one, [X]) == Stays(3, 3, 0.0)
    assert stays(one, two, [X]) == Stays(3, 2, math.sqrt((1 + 8) / 9))


def test_outputs_of_which_nothing_can_be_said() -> None:
    assert stays(Gives(None), Gives(None), [X]) is None
    assert stays(Gives(torch.zeros(3)), Gives(torch.zeros(3)), [X]) is None
    assert stays(Gives(torch.zeros(3, 2)), Gives(torch.zeros(3, 2)), [X]) == Stays(3, 3, 0.0)

"""An example of what a network takes: shapes that its code is followed and exported by."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from .._errors import FinepruningError
from ..data.batches import Batch, read_batches
from ..data.padding import unpadded
from ..data.tokens import started
from ..network.copying import copied


def example_of(model: nn.Module, example: Any) -> Batch:
    """A batch of it, without padding, and with a first token for a decoder that needs one.

    Raises :class:`FinepruningError` where there is no sample in it, or the model fails on it.
    """
    whole = copied(model)

    def call(batch: Batch) -> None:
        with torch.no_grad():
            started(whole, batch).call(whole)

    first = next(iter(unpadded(read_batches([example]), call)), None)
    if first is None or not first.size:
        raise FinepruningError("example: there is no sample in it; give a batch")
    return started(whole, first)

"""Samples: how many differ, and what a user should be told of them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from ..core.options import number
from ..data.batches import Batch


@dataclass(frozen=True)
class WarnOptions:
    """When the report warns of the samples."""

    few: int = number(16, 0)
    """Fewer different samples than this are few."""


@dataclass
class Distinct:
    """Lets each different sample through once: copies of one would confirm each other."""

    given: int = 0
    different: int = 0

    def once(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        """The batches without the copies; of a batch whose samples cannot be told apart all pass.

        Where all samples are the same, one copy passes too.
        """
        known: set[bytes] = set()
        copy: Batch | None = None
        for batch in batches:
            self.given += batch.size
            fresh = []
            for i in range(batch.size):
                found = _digest(batch.take(i))
                if found not in known:
                    known.add(found)
                    fresh.append(i)
            self.different = len(known)
            some = batch if len(fresh) == batch.size else batch.pick(fresh)
            if some is None:
                yield batch
            elif some.size:
                yield some
            if copy is None and len(fresh) < batch.size:
                copy = batch.take(0)
        if self.different == 1 and copy is not None:
            yield copy

    def warnings(self, options: WarnOptions) -> tuple[str, ...]:
        """One plain sentence for each thing that a user should know."""
        said, count = [], self.different
        if count == 1:
            said.append(
                f"all {self.given} samples are the same: nothing can be learnt from them;"
                " give samples that differ"
            )
        elif count < self.given:
            said.append(
                f"{self.given - count} of {self.given} samples are copies of others and were left"
                f" out: {count} differ"
            )
        if 1 < count < options.few:
            said.append(
                f"{count} samples are few: which classes a person has, and whether a sparse network"
                " serves them, hardly shows; give 64 or more"
            )
        return tuple(said)


def _digest(sample: Batch) -> bytes:
    """The same for the same inputs, and for no others."""
    inputs = {"": sample.inputs} if isinstance(sample.inputs, Tensor) else sample.inputs
    found = hashlib.blake2b(digest_size=16)
    for name, value in inputs.items():
        if isinstance(value, Tensor):
            raw = value.detach().cpu().contiguous().flatten().view(torch.uint8)
            found.update(f"{name} {tuple(value.shape)} {value.dtype}".encode())
            found.update(raw.numpy().data)
    return found.digest()

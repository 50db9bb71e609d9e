"""Where an artifact's bytes go, from the headers of its files alone."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .folder import damaged, file_of
from .layout import read_about
from .seal import open_file

MASK = ("mask", "rows", "columns", "words")
VALUES = ("values", "step", "coded", "counts", "first", "far", "gain")


@dataclass(frozen=True)
class Sizes:
    """Bytes of an artifact's parts, and of the whole."""

    mask: int
    values: int
    changed: int
    """Biases and what else is stored as it is."""
    rest: int
    """Names, the report, digests."""
    statistics: int
    """What is kept for updates: no part of the network, and not in ``total``."""
    kind: str
    """What is stored of the values: ``exact``, ``int8``, ..."""
    written: str
    """When, in UTC; empty: not known."""

    @property
    def total(self) -> int:
        """Of the network."""
        return self.mask + self.values + self.changed + self.rest

    def line(self, weights: int) -> str:
        """The sizes in one line, by the ``weights`` that are prunable.

        >>> Sizes(10**6, 10**6, 0, 10**5, 0, "int8", "").line(10**7)
        '2.1 MB, int8: 1.68 bits a weight (mask 0.80, values 0.80, all else 0.08)'
        """
        each = [8 * n / max(weights, 1) for n in (self.total, self.mask, self.values)]
        return (
            f"{self.total / 1e6:.1f} MB, {self.kind}: {each[0]:.2f} bits a weight"
            f" (mask {each[1]:.2f}, values {each[2]:.2f}, all else {each[0] - sum(each[1:]):.2f})"
        )


def sizes_of(path: str | os.PathLike[str], key: bytes | None = None) -> Sizes:
    """Where the bytes of the artifact at ``path`` go. Raises :class:`FinepruningError` where it is
    damaged."""
    folder, about = Path(path), read_about(path, key)
    personal, statistics = (file_of(folder, about, p) for p in ("personal", "statistics"))
    try:
        assert personal is not None
        by = {name: of["data_offsets"] for name, of in _header(personal).items()}
        size = {name: int(end) - int(start) for name, (start, end) in by.items()}
        own = {n: f"{n}." for n in about["pruned"]}
        found = {"mask": 0, "values": 0, "changed": 0}
        for name, number in size.items():
            owner, _, part = name.rpartition(".")
            kind = "mask" if part in MASK else "values" if part in VALUES else "changed"
            found[kind if owner in own else "changed"] += number
        rest = personal.stat().st_size - sum(size.values())
        rest += sum(f.stat().st_size for f in folder.glob("*.json"))
        kept = 0 if statistics is None or not statistics.is_file() else statistics.stat().st_size
    except Exception as error:  # whatever a hostile one comes up with
        raise damaged(folder, error) from error
    return Sizes(
        **found, rest=rest, statistics=kept, kind=about.get("values", "exact"),
        written=str(about.get("written", "")),
    )  # fmt: skip


def _header(file: Path) -> Mapping[str, Any]:
    """A safetensors file begins with the size of its header, little-endian, and that as JSON."""
    with open_file(file) as stream:
        size = int.from_bytes(stream.read(8), "little")
        found: dict[str, Any] = json.loads(stream.read(min(size, file.stat().st_size)))
    found.pop("__metadata__", None)
    return found

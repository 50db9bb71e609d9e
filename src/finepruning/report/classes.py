"""The person's classes, as a reader wants them: by name, how many samples, how sure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..core.readout import Readout

MOST = 50
"""Classes, and pairs of answers, that are told."""


def classes_in_use(
    logits: NDArray[np.float64], answer: Readout | None, names: Sequence[str] | None
) -> dict[str, Any]:
    """Which classes samples of ``logits`` ``(n, K)`` are answered with, the read-out added if there
    is one, most frequent first; and which answers that changes.

    >>> import numpy as np
    >>> from finepruning.core.readout import read_out
    >>> found = classes_in_use(np.eye(2)[[0, 0, 1]], read_out(np.eye(2)[[0, 0, 1]]), ["cat", "dog"])
    >>> [(one["name"], one["samples"]) for one in found["in_use"]], found["changed"]
    ([('cat', 2), ('dog', 1)], [])
    """
    after = logits if answer is None else logits + answer.shift
    heat = 1.0 if answer is None else max(answer.temperature, 1.0)
    p = np.exp((after - after.max(1, keepdims=True)) / heat)
    sure = p.max(1) / p.sum(1)
    before, now = logits.argmax(1), after.argmax(1)
    counts = np.bincount(now, minlength=logits.shape[1])
    order = [int(k) for k in np.argsort(-counts, kind="stable")[:MOST] if counts[k]]
    pairs, moved = np.unique(np.stack([before, now], 1)[before != now], axis=0, return_counts=True)
    most = np.argsort(-moved, kind="stable")[:MOST]

    def named(k: int) -> str:
        return str(k) if names is None else names[k]

    return {
        "in_use": [
            {"class": k, "name": named(k), "samples": int(counts[k]),
             "sure": float(sure[now == k].mean())}
            for k in order
        ],
        "changed": [
            {"from": named(int(pairs[i, 0])), "to": named(int(pairs[i, 1])),
             "samples": int(moved[i])}
            for i in most
        ],
    }  # fmt: skip

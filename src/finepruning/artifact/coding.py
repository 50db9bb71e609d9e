"""Masks and differences in as few bits as their statistics need (range coding).

A weight ``(O, D)`` keeps many of some outputs' and some inputs' connections and few of others'. So
each row ``o`` and each column ``d`` has a log-odds, in sixteenths of a nat, and the connection
stays with probability ``1 / (1 + exp(-(rows[o] + columns[d]) / 16))``. Differences to the base's
weights are rounded to multiples of a step, of each row its own, and coded by how often each comes.

Source of the coder: Martin 1979, Range encoding; Bamler 2022, arXiv 2201.01741 (constriction).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .._errors import FinepruningError

UNIT, FAR = 16, 127
LARGEST = 255
"""Differences of more steps than that are written out beside the others."""
SWEEPS = 8


def coder() -> Any:
    """The library that codes. Raises :class:`FinepruningError` where it is missing."""
    try:
        import constriction
    except ImportError as error:
        raise FinepruningError(
            "coded artifacts need constriction; pip install 'finepruning[small]'"
        ) from error
    return constriction.stream


def encode_mask(mask: np.ndarray) -> dict[str, np.ndarray]:
    """A mask ``(O, D)`` of bool: ``rows`` ``(O,)`` and ``columns`` ``(D,)`` int8, ``words`` uint32.

    >>> mask = np.arange(12).reshape(3, 4) % 3 == 0
    >>> bool((decode_mask(encode_mask(mask), (3, 4)) == mask).all())
    True
    """
    rows, columns = _log_odds(mask)
    stream = coder()
    encoder = stream.queue.RangeEncoder()
    model = stream.model.Bernoulli(perfect=False)
    encoder.encode(mask.reshape(-1).astype(np.int32), model, _chances(rows, columns))
    return {"rows": rows, "columns": columns, "words": encoder.get_compressed()}


def decode_mask(parts: dict[str, np.ndarray], shape: tuple[int, int]) -> np.ndarray:
    """What :func:`encode_mask` was given. Raises :class:`ValueError` where it cannot be."""
    rows, columns = parts["rows"], parts["columns"]
    if rows.shape != shape[:1] or columns.shape != shape[1:]:
        raise ValueError("the mask is for another size")
    if rows.dtype != np.int8 or columns.dtype != np.int8:
        raise ValueError("the log-odds are not int8")
    stream = coder()
    decoder = stream.queue.RangeDecoder(parts["words"])
    model = stream.model.Bernoulli(perfect=False)
    found: np.ndarray = decoder.decode(model, _chances(rows, columns))
    return found.reshape(shape).astype(bool)


def _chances(rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """That each stays ``(O D,)``, in 65536ths: the same to the bit on any machine."""
    each = np.arange(-FAR, FAR + 1)
    table = np.clip(np.round(65536 / (1 + np.exp(-each / UNIT))), 1, 65535) / 65536
    total = rows.astype(np.int16)[:, None] + columns.astype(np.int16)
    return np.asarray(table[np.clip(total, -FAR, FAR) + FAR].reshape(-1))


def _log_odds(mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Those of the rows and columns, so that each keeps as many as it is expected to."""
    held = mask.astype(np.float64)
    rows = _logit(held.mean(1), held.shape[1])
    columns = np.zeros(held.shape[1])
    for _ in range(SWEEPS):  # a step of Newton's in each, the other held
        columns = columns + _step(held, rows, columns, 0)
        rows = rows + _step(held, rows, columns, 1)
    shift = columns.mean()
    return _whole(rows + shift), _whole(columns - shift)


def _step(held: np.ndarray, rows: np.ndarray, columns: np.ndarray, axis: int) -> np.ndarray:
    p = 1 / (1 + np.exp(-(rows[:, None] + columns)))
    return np.asarray(np.clip((held - p).sum(axis) / ((p * (1 - p)).sum(axis) + 1), -2, 2))


def _logit(p: np.ndarray, count: int) -> np.ndarray:
    p = (p * count + 0.5) / (count + 1)
    return np.log(p / (1 - p))


def _whole(x: np.ndarray) -> np.ndarray:
    return np.clip(np.round(x * UNIT), -FAR, FAR).astype(np.int8)


def encode_numbers(numbers: np.ndarray) -> dict[str, np.ndarray]:
    """Whole numbers ``(n,)``, small ones the most: ``counts`` of each from ``-LARGEST`` to
    ``LARGEST`` and of larger ones, ``words``, and the larger ones as they are, ``far`` int32.

    >>> decode_numbers(encode_numbers(np.array([0, 1, 0, -1, 0, 1000])), 6).tolist()
    [0, 1, 0, -1, 0, 1000]
    """
    far = np.abs(numbers) > LARGEST
    symbols = np.where(far, 2 * LARGEST + 1, numbers + LARGEST).astype(np.int32)
    counts = np.bincount(symbols, minlength=2 * LARGEST + 2).astype(np.int32)
    words = np.zeros(0, np.uint32)
    if len(symbols):
        encoder = coder().queue.RangeEncoder()
        encoder.encode(symbols, _categorical(counts))
        words = encoder.get_compressed()
    ends = np.flatnonzero(counts)[[0, -1]] if len(symbols) else np.zeros(2, int)
    return {
        "counts": counts[ends[0] : ends[1] + 1],
        "first": np.array([ends[0]], np.int32),
        "words": words,
        "far": numbers[far].astype(np.int32),
    }


def decode_numbers(parts: dict[str, np.ndarray], count: int) -> np.ndarray:
    """What :func:`encode_numbers` was given, ``count`` numbers. Raises :class:`ValueError` where
    it cannot be."""
    first, given, far = int(parts["first"][0]), parts["counts"], parts["far"]
    counts = np.zeros(2 * LARGEST + 2, np.int64)
    if first < 0 or first + len(given) > len(counts) or (given < 0).any():
        raise ValueError("the counts are of other numbers")
    counts[first : first + len(given)] = given
    if counts.sum() != count or counts[-1] != len(far):
        raise ValueError("there are more numbers, or fewer")
    if not count:
        return np.zeros(0, np.int64)
    decoder = coder().queue.RangeDecoder(parts["words"])
    symbols: np.ndarray = decoder.decode(_categorical(counts), count).astype(np.int64)
    found = symbols - LARGEST
    if (symbols == 2 * LARGEST + 1).sum() != len(far):
        raise ValueError("the large numbers are more, or fewer")
    found[symbols == 2 * LARGEST + 1] = far
    return found


def _categorical(counts: np.ndarray) -> Any:
    p = counts.astype(np.float64) / counts.sum()  # rounded alike everywhere, unlike a logarithm
    return coder().model.Categorical(p, perfect=False)


def rounded(rows: np.ndarray, step: np.ndarray) -> np.ndarray:
    """``rows`` ``(n,)`` in steps ``(n,)``; where the step is zero, zero."""
    return np.asarray(np.round(rows / np.where(step > 0, step, 1)) * (step > 0)).astype(np.int64)

"""What is stored of a pruned weight: the values as they are, in fewer bits, coded, or none.

``exact``: the base's dtype. ``float16``, ``bfloat16``: that. ``int8``: in steps of each output's
own. ``differences``: to the base's, in steps of each output's own, coded. ``mask``: none; the
base's stay, each output times a gain. All but the first have coded masks.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from .._errors import FinepruningError
from .coding import decode_mask, decode_numbers, encode_mask, encode_numbers, rounded
from .layout import Values

SHORT = {"float16": torch.float16, "bfloat16": torch.bfloat16}
STEPS = 8
"""Of a difference, in the root mean square of an output's weights that stay."""
LIKE = 1e-3
"""A weight may be so far, in its size, from a gain times the base's."""


def stored(name: str, weight: Tensor, base: Tensor | None, kind: Values) -> dict[str, Tensor]:
    """The tensors that a weight is stored as. ``base`` is that of the base network, which
    ``differences`` and ``mask`` need. Raises :class:`FinepruningError` where ``mask`` cannot be."""
    weight = weight.detach().cpu()
    flat = weight.reshape(-1)
    mask = flat != 0
    if kind == "exact":
        packed = torch.from_numpy(np.packbits(mask.numpy()))
        return {f"{name}.mask": packed, f"{name}.values": flat[mask].clone()}
    rows = weight.reshape(len(weight), -1)
    found: dict[str, Any] = encode_mask((rows != 0).numpy())
    if kind in SHORT:
        found["values"] = flat[mask].to(SHORT[kind])
    elif kind == "mask":
        assert base is not None
        found["gain"] = _gain(name, weight, base.detach().cpu())
    else:
        change = rows.float().numpy()
        if kind == "differences":
            assert base is not None
            change = change - base.detach().cpu().reshape(rows.shape).float().numpy()
        step = _steps(rows.float().numpy(), change, kind)
        numbers = rounded(change, step[:, None].astype(np.float64))[(rows != 0).numpy()]
        found["step"] = step
        if kind == "int8":
            found["values"] = numbers.astype(np.int8)
        else:
            coded = encode_numbers(numbers)
            found |= {"coded": coded.pop("words"), **coded}
    as_tensors = {k: v if isinstance(v, Tensor) else torch.from_numpy(v) for k, v in found.items()}
    return {f"{name}.{k}": v.contiguous() for k, v in as_tensors.items()}


def _steps(rows: np.ndarray, change: np.ndarray, kind: Values) -> np.ndarray:
    """Of each output, float32: as large as what stays allows."""
    if kind == "int8":
        return np.asarray(np.abs(change).max(1) / 127, np.float32)
    count = np.maximum((rows != 0).sum(1), 1)
    return np.asarray(np.sqrt((rows**2).sum(1) / count) / STEPS, np.float32)


def _gain(name: str, weight: Tensor, base: Tensor) -> Tensor:
    """What each output's weights that stay are times the base's, ``(O, 1, ...)``, or each input's
    where the outputs come second, as in a transposed convolution."""
    held = torch.where(weight != 0, base, 0)
    for axis in range(min(weight.ndim, 2)):
        others = [d for d in range(weight.ndim) if d != axis]
        squares = (held.double() ** 2).sum(others, keepdim=True)
        gain = (weight.double() * held).sum(others, keepdim=True) / squares.clamp_min(1e-300)
        gain = gain.float()
        off = (weight - _times(gain, held)).abs().amax()
        if bool(off <= LIKE * weight.abs().amax()):
            return gain
    raise FinepruningError(
        f"values='mask': the weights of {name!r} are not the base's times a gain; personalise with"
        " Config(fit={'method': 'rescale'})"
    )


def _times(gain: Tensor, held: Tensor) -> Tensor:
    return (gain * held.float()).to(held.dtype)


def parts_of(kind: Values) -> tuple[str, ...]:
    """The parts that each weight has."""
    if kind == "exact":
        return ("mask", "values")
    each = {"mask": ("gain",), "differences": ("step", "coded", "counts", "first", "far")}
    own = each.get(kind, ("values",) if kind in SHORT else ("step", "values"))
    return ("rows", "columns", "words", *own)


def restored(name: str, base: Tensor, tensors: dict[str, Tensor], kind: Values) -> Tensor:
    """The weight that :func:`stored` was given, to what the kind keeps of it; of the base's shape
    and dtype. Raises :class:`ValueError` where the tensors are others."""
    parts = {key: tensors[f"{name}.{key}"] for key in parts_of(kind)}
    if kind == "exact":
        mask = _unpacked(name, parts["mask"], base.numel())
        values = parts["values"]
        if values.dtype != base.dtype:
            raise ValueError(f"the values of {name!r} are of another type")
        return _placed(name, base, mask, values)
    arrays = {k: v.numpy() for k, v in parts.items() if k in ("rows", "columns", "words")}
    shape = (len(base), base.numel() // max(len(base), 1))
    mask = decode_mask(arrays, shape).reshape(-1)
    if kind in SHORT:
        if parts["values"].dtype != SHORT[kind]:
            raise ValueError(f"the values of {name!r} are of another type")
        return _placed(name, base, mask, parts["values"].to(base.dtype))
    if kind == "mask":
        gain = parts["gain"]
        fits = (g in (1, n) for g, n in zip(gain.shape, base.shape, strict=True))
        if gain.dtype != torch.float32 or not all(fits) or not bool(gain.isfinite().all()):
            raise ValueError(f"the gains of {name!r} do not fit it")
        held = torch.where(torch.from_numpy(mask).reshape(base.shape), base.cpu(), 0)
        return _times(gain, held)
    step = parts["step"].numpy()
    if step.dtype != np.float32 or step.shape != shape[:1]:
        raise ValueError(f"the steps of {name!r} do not fit it")
    count = int(mask.sum())
    if kind == "int8":
        numbers = parts["values"].numpy()
        if numbers.dtype != np.int8 or numbers.shape != (count,):
            raise ValueError(f"the values of {name!r} do not fit its mask")
    else:
        coded = {k: parts[k].numpy() for k in ("counts", "first", "far")}
        numbers = decode_numbers(coded | {"words": parts["coded"].numpy()}, count)
    # In numpy, which adds after it has multiplied: the same bits on any machine.
    change = np.repeat(step, np.bincount(np.flatnonzero(mask) // shape[1], minlength=shape[0]))
    change = change * numbers.astype(np.float32)
    if kind == "differences":
        change = base.detach().cpu().reshape(-1).float().numpy()[mask] + change
    return _placed(name, base, mask, torch.from_numpy(change).to(base.dtype))


def _unpacked(name: str, packed: Tensor, size: int) -> np.ndarray:
    if packed.shape != (-(-size // 8),):
        raise ValueError(f"the mask of {name!r} is for another size")
    return np.unpackbits(packed.numpy(), count=size).view(bool)


def _placed(name: str, base: Tensor, mask: np.ndarray, values: Tensor) -> Tensor:
    """Zeros, and the values where the mask says. In numpy, which takes a fifth of the time."""
    places = np.flatnonzero(mask)
    if values.shape != places.shape:
        raise ValueError(f"the values of {name!r} do not fit its mask")
    if not _all_numbers(values):
        raise ValueError(f"the values of {name!r} are not all numbers")
    flat = torch.zeros(base.numel(), dtype=base.dtype)
    as_bits = BITS[base.element_size()]
    flat.view(as_bits).numpy()[places] = values.contiguous().view(as_bits).numpy()
    return flat.reshape(base.shape)


BITS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
"""What numpy can move, by the bytes of what it may not know."""


def _all_numbers(values: Tensor) -> bool:
    if values.dtype == torch.bfloat16:
        return bool(values.isfinite().all())
    return bool(np.isfinite(values.numpy()).all())

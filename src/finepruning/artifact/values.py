"""What is stored of a pruned weight: the values as they are, in fewer bits, coded, or none.

``exact``: the base's dtype. ``float16``, ``bfloat16``: that. ``int8``: in steps of each output's
own. ``differences``: to the base's, in steps of each output's own, coded. ``mask``: none; the
base's stay, times a gain of each output and one of each input. All but the first have coded masks.
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
"""A weight may be so far, in the size of the largest, from gains times the base's."""
TURNS = 100
"""In which the gains of outputs and of inputs are found."""


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
        found["gain"], found["inputs"] = _gains(name, weight, base.detach().cpu())
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


def _gains(name: str, weight: Tensor, base: Tensor) -> tuple[Tensor, Tensor]:
    """What the weights that stay are times the base's, float16: a gain of each output ``(O, 1,
    ...)``, and one of each input ``(P, I, ...)``, where the outputs are in ``P`` equal parts, as
    those of an attention's queries, keys and values; outputs may also come second."""
    held = torch.where(weight != 0, base, 0)
    like = max(LIKE, 4 * torch.finfo(weight.dtype).eps) * weight.abs().amax()
    for axis, parts in ((0, 1), (0, 3), (0, 4), (0, 2), (1, 1)):
        if axis >= weight.ndim or len(weight) % parts:
            continue
        pairs = zip(weight.chunk(parts), held.chunk(parts), strict=True)
        found = [_in_turn(one, its, axis, float(like)) for one, its in pairs]
        gain, inputs = (torch.cat(each).half() for each in zip(*found, strict=True))
        if bool((weight - _times(gain, inputs, held)).abs().amax() <= like):
            return gain, inputs
    raise FinepruningError(
        f"values='mask': the weights of {name!r} are not the base's times gains; personalise with"
        " Config(fit={'method': 'gains'})"
    )


def _in_turn(weight: Tensor, held: Tensor, axis: int, like: float) -> tuple[Tensor, Tensor]:
    """Gains of the outputs and of the inputs, by least squares in turn, exact where there are."""
    others = [d for d in range(weight.ndim) if d != axis]
    wanted, held = weight.double(), held.double()
    inputs = torch.ones([1 if d == axis else n for d, n in enumerate(weight.shape)]).double()
    for _ in range(TURNS):
        gain = _factor(wanted, held * inputs, others)
        inputs = _factor(wanted, held * gain, [axis])
        if bool((wanted - held * gain * inputs).abs().amax() <= like / 10):
            break
    size = inputs.abs().sum() / (inputs != 0).sum().clamp_min(1)
    return gain * size, inputs / size.clamp_min(1e-300)


def _factor(wanted: Tensor, held: Tensor, over: list[int]) -> Tensor:
    """Of each entry of the other dimensions: what ``held`` is to be times."""
    squares = (held**2).sum(over, keepdim=True) if over else held**2
    products = (wanted * held).sum(over, keepdim=True) if over else wanted * held
    return products / squares.clamp_min(1e-300)


def _times(gain: Tensor, inputs: Tensor, held: Tensor) -> Tensor:
    """The product, where ``inputs`` may be of several parts of the outputs."""
    inputs = inputs.float()
    if 1 < len(inputs) < len(held):
        inputs = inputs.repeat_interleave(len(held) // len(inputs), 0)
    return (gain.float() * held.float() * inputs).to(held.dtype)


def parts_of(kind: Values) -> tuple[str, ...]:
    """The parts that each weight has."""
    if kind == "exact":
        return ("mask", "values")
    each = {"mask": ("gain", "inputs"), "differences": ("step", "coded", "counts", "first", "far")}
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
        for part in ("gain", "inputs"):
            gain = parts[part]
            fits = [g in (1, n) for g, n in zip(gain.shape, base.shape, strict=True)]
            if part == "inputs" and len(gain):
                fits[0] = len(base) % len(gain) == 0
            if gain.dtype != torch.float16 or not all(fits) or not bool(gain.isfinite().all()):
                raise ValueError(f"the gains of {name!r} do not fit it")
        held = torch.where(torch.from_numpy(mask).reshape(base.shape), base.cpu(), 0)
        return _times(parts["gain"], parts["inputs"], held)
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

"""Shrink: an ordinary dense network without the channels that nobody reads."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from .._errors import FinepruningError
from ..artifact.folder import HEADER, read_json, read_tensors, write_folder
from ..artifact.layout import check_place
from ..network.channels import LAYERS, find_channels, removed
from ..network.copying import copied
from ..network.find import find_layers
from ..network.plain import become
from .example import example_of

FORMAT = 2
SHAPES, WEIGHTS = "shapes.json", "weights"


@dataclass(frozen=True)
class Small:
    """A network with fewer channels, which gives what the one with zeros gives."""

    model: nn.Module
    """In evaluation mode."""
    shapes: Mapping[str, Any]
    """What differs from the given architecture: of modules, numbers such as ``out_channels``; of
    parameters and buffers, sizes."""
    removed: Mapping[str, int]
    """How many channels went, by the layer that wrote them."""
    left: Mapping[str, str]
    """Layers whose outputs stay as many as they are, and why."""
    plain: Mapping[str, dict[str, Any]] = field(default_factory=dict)

    @property
    def params(self) -> int:
        """Number of parameters."""
        return sum(p.numel() for p in self.model.parameters())

    def save(
        self,
        path: str | os.PathLike[str],
        *,
        source: Mapping[str, Any] | None = None,
        key: bytes | None = None,
    ) -> None:
        """Write a new folder: ``shapes.json`` and ``weights.safetensors``, no pickle, all or
        nothing. ``source`` says where the network is from, for the command; ``key`` seals it."""
        folder = Path(path)
        check_place(folder)
        about = {
            "format": FORMAT, "shapes": self.shapes, "removed": dict(self.removed),
            "left": dict(self.left), "plain": dict(self.plain),
            "source": None if source is None else dict(source),
        }  # fmt: skip
        tensors = {n: v.detach().clone().contiguous() for n, v in _tensors(self.model).items()}
        write_folder(folder, SHAPES, about, {WEIGHTS: tensors}, key=key)


def shrink(
    model: nn.Module, example: Any, *, plain: Mapping[str, dict[str, Any]] | None = None
) -> Small:
    """Take out of a copy of ``model`` the channels of which no reader has a weight left.

    >>> import torch
    >>> net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    >>> _ = net[2].weight.data[:, :5].zero_()
    >>> small = shrink(net, torch.randn(2, 4))
    >>> small.model[0].out_features, small.removed
    (3, {'0': 5})

    ``example`` is a batch as the network takes it, a tensor ``(N, ...)`` or a dict of inputs: the
    network is followed by one pass over it, and what comes out is compared. A group of channels
    that cannot go without another output stays, and is named. Needs Torch-Pruning (``pip install
    'finepruning[deploy]'``). Raises :class:`FinepruningError` where the network cannot be followed.
    """
    sample = example_of(model, example)
    whole = copied(model)
    names = {n for n, m in whole.named_modules() if isinstance(m, LAYERS)}
    channels = find_channels(copied(model), sample.call, names)
    kept = {g.name: _read(whole, g.readers) for g in channels.groups}
    kept = {name: stays for name, stays in kept.items() if not bool(stays.all())}
    made, done, left = removed(model, sample.call, kept)
    gone = {name: int((~stays).sum()) for name, stays in done.items()}
    shapes = _differences(whole, made)
    return Small(made.eval(), shapes, gone, {**channels.left, **left}, plain or {})


def load_small(
    path: str | os.PathLike[str], model: nn.Module, *, key: bytes | None = None
) -> nn.Module:
    """The small network saved at ``path``. ``model`` is of the architecture that was shrunk, with
    any weights; it is left untouched; ``key`` is what the folder was sealed with, if it was.

    >>> small = load_small("small/", torchvision.models.resnet50())  # doctest: +SKIP

    Raises :class:`FinepruningError` where the folder is damaged or the architecture another;
    nothing else.
    """
    folder, about = Path(path), source_of(path, key)
    sizes = {n: v.numel() * v.element_size() for n, v in _tensors(model).items()}
    most = HEADER + sum(size + 2 * (HEADER + len(n)) for n, size in sizes.items())
    tensors = read_tensors(folder, about, WEIGHTS, most)
    try:
        made = copied(model)
        for name, how in about["plain"].items():
            become(made.get_submodule(name), how)
        for name, values in about["shapes"].items():
            module = made.get_submodule(name)
            for key_, value in values.items():
                setattr(module, key_, _numbers(value, vars(module)[key_]))
        for name, value in tensors.items():
            _put(made, name, value)
        missing = _tensors(made).keys() - tensors.keys()
        if missing:
            raise ValueError(f"no {min(missing)!r} in it")
    except Exception as error:  # whatever a hostile one comes up with
        raise FinepruningError(
            f"{folder}: not a small network of this architecture ({' '.join(str(error).split())});"
            " give the folder that shrink wrote, and the model it was made of"
        ) from error
    return made.eval()


def _numbers(value: Any, now: Any) -> Any:
    """A number in the place of one, or several of several."""
    if type(now) is type(value) is int:  # and not bool
        return value
    if isinstance(now, tuple) and isinstance(value, list) and len(value) == len(now):
        return tuple(_numbers(a, b) for a, b in zip(value, now, strict=True))
    raise ValueError(f"{value!r} is not what {now!r} can become")


def source_of(path: str | os.PathLike[str], key: bytes | None = None) -> dict[str, Any]:
    """What the JSON of the small network saved at ``path`` says; ``source`` is where it is from."""
    try:
        return read_json(Path(path, SHAPES), (1, FORMAT), key)
    except FinepruningError:
        raise
    except (OSError, ValueError) as error:
        raise FinepruningError(
            f"{Path(path)}: not a small network ({SHAPES} cannot be read); give the folder that"
            " shrink wrote"
        ) from error


def _read(model: nn.Module, readers: Mapping[str, Tensor]) -> Tensor:
    """Of which channels some reader has a weight; one at least."""
    stays: Tensor | None = None
    for name, columns in readers.items():
        weight: Tensor = model.get_submodule(name).weight  # type: ignore[assignment]
        used = (weight != 0).transpose(0, 1).flatten(1).any(1)[columns].any(1)
        stays = used if stays is None else stays | used
    assert stays is not None
    if not bool(stays.any()):
        stays[0] = True
    return stays


def _tensors(model: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers, each once."""
    buffers = [
        (f"{path}.{name}".lstrip("."), b)
        for path, m in model.named_modules()
        for name, b in m._buffers.items()
        if b is not None and name not in m._non_persistent_buffers_set
    ]
    return dict(chain(model.named_parameters(), buffers))


def _differences(before: nn.Module, after: nn.Module) -> dict[str, dict[str, Any]]:
    """Numbers of modules that are others now."""
    found: dict[str, dict[str, Any]] = {}
    given = dict(before.named_modules())
    for name, module in after.named_modules():
        for key, value in vars(module).items():
            numbers = (int,) if not isinstance(value, tuple) else (tuple,)
            if isinstance(value, numbers) and value != vars(given[name]).get(key):
                found.setdefault(name, {})[key] = value
    return found


def _put(model: nn.Module, name: str, value: Tensor) -> None:
    """Store a tensor, whatever the size of the one that is there."""
    owner, _, key = name.rpartition(".")
    module = model.get_submodule(owner)
    if key in module._parameters:
        module._parameters[key] = nn.Parameter(value, requires_grad=False)
    elif key in module._buffers:
        module._buffers[key] = value
    else:
        raise KeyError(name)


def share_for(model: nn.Module, size: float) -> float:
    """Which share of the prunable weights may stay, so that all parameters and buffers take
    ``size`` bytes in 32 bits.

    >>> share_for(nn.Linear(100, 10, bias=False), 1000)
    0.25

    Raises :class:`FinepruningError` where they take no more already, or the rest alone does.
    """
    values = [*model.parameters(), *model.buffers()]
    whole = float(WORD * sum(v.numel() for v in values if v.is_floating_point()))
    weights = float(WORD * sum(layer.size for layer in find_layers(model).layers))
    if size >= whole:
        raise FinepruningError(f"size: the network takes {whole / 1e6:.1f} MB as it is")
    if size <= whole - weights:
        rest = (whole - weights) / 1e6
        raise FinepruningError(f"size: what is not pruned takes {rest:.1f} MB; give more")
    return 1 - (whole - size) / weights


WORD = 4
"""Bytes of a float32."""

"""Plain modules: a weight that is computed from what is stored becomes the one that is stored.

Of a standardised or normalised weight zeros would not stay zeros: what is computed is not sparse
where what is stored is. So the personal network's module holds the computed weight itself, and
computes nothing but the product. What was done is said in words that an artifact can keep.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import prune
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

CONVS: tuple[type[nn.Module], ...] = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
OPTIONS = ("stride", "padding", "dilation", "groups")


class SameConv1d(nn.Conv1d):
    """Pads for its input's size, as TensorFlow does: more behind than before."""

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(padded(self, input))


class SameConv2d(nn.Conv2d):
    """Pads for its input's size, as TensorFlow does: more behind than before."""

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(padded(self, input))


class SameConv3d(nn.Conv3d):
    """Pads for its input's size, as TensorFlow does: more behind than before."""

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(padded(self, input))


_PLAIN: tuple[type[nn.Module], ...] = (nn.Linear, *CONVS, SameConv1d, SameConv2d, SameConv3d)
CLASSES = {c.__name__: c for c in _PLAIN}


def padded(conv: Any, x: Tensor) -> Tensor:
    """``x`` with as many zeros around it as give an output of its size over the stride."""
    sides: list[int] = []
    axes = len(conv.kernel_size)
    for size, k, s, d in zip(reversed(x.shape[-axes:]), *map(reversed, _sizes(conv)), strict=True):
        missing = max((-(-size // s) - 1) * s + (k - 1) * d + 1 - size, 0)
        sides += [missing // 2, missing - missing // 2]
    return F.pad(x, sides)


def _sizes(conv: Any) -> tuple[Any, Any, Any]:
    return tuple(conv.kernel_size), tuple(conv.stride), tuple(conv.dilation)


def make_plain(engine: Any, name: str, uses: Any) -> bool:
    """Make the module of the engine's network plain whose ``uses`` were noted, where a plain one
    computes the same; whether it has."""
    product, (x, y) = uses.computed, uses.call or (None, None)
    module, weight = uses.module, product.weight
    if x is None or uses.others or not isinstance(y, Tensor) or "forward" in vars(module):
        return False
    for kind, options in _candidates(module, product):
        if _alike(_computed(kind, options, x, weight, product.bias), y):
            how = {"class": kind, **options}
            become(module, how, weight)
            engine.made_plain[name] = how
            return True
    return False


def _candidates(module: nn.Module, product: Any) -> list[tuple[str, dict[str, Any]]]:
    if product.geometry is None:
        return [("Linear", {})] if isinstance(module, nn.Linear) else []
    axes = product.weight.ndim - 2
    options = {key: getattr(product.geometry, key) for key in OPTIONS}
    same = {**options, "padding": (0,) * axes}
    if not isinstance(module, CONVS[axes - 1]):
        return []
    return [(f"Conv{axes}d", options), (f"SameConv{axes}d", same)]


def _computed(
    kind: str, options: Mapping[str, Any], x: Tensor, weight: Tensor, bias: Any
) -> Tensor | None:
    if kind == "Linear":
        return F.linear(x, weight, bias)
    axes = weight.ndim - 2
    convolve = (F.conv1d, F.conv2d, F.conv3d)[axes - 1]
    try:
        if kind.startswith("Same"):
            conv = _Sizes(tuple(weight.shape[2:]), options["stride"], options["dilation"])
            x = padded(conv, x)
        return convolve(x, weight, bias, *(options[key] for key in OPTIONS))
    except RuntimeError:
        return None


class _Sizes:
    def __init__(self, kernel_size: Any, stride: Any, dilation: Any) -> None:
        self.kernel_size, self.stride, self.dilation = kernel_size, stride, dilation


def _alike(a: Tensor | None, b: Tensor) -> bool:
    if a is None or a.shape != b.shape:
        return False
    return bool((a - b).abs().max() <= 1e-4 * b.abs().max())


def become(module: Any, how: Mapping[str, Any], weight: Tensor | None = None) -> None:
    """Make ``module`` what ``how`` says; its weight is the one given, or what is to be written
    yet."""
    if how["class"] == "parametrized":
        # PyTorch's own removal edits the class, which the given network's module shares.
        value = module.weight.detach().clone()
        module.__class__ = type(module).__bases__[0]
        del module._modules["parametrizations"]
        module._parameters["weight"] = nn.Parameter(value, requires_grad=False)
        return
    if how["class"] == "hooked":
        _unhook(module)
        return
    module.__class__ = CLASSES[how["class"]]
    for key in OPTIONS:
        if key in how:
            value = how[key]
            setattr(module, key, tuple(value) if isinstance(value, list) else value)
    if "padding" in how:
        module.padding_mode = "zeros"
        module._reversed_padding_repeated_twice = [
            p for p in reversed(module.padding) for _ in "12"
        ]
    for key in [*module._parameters]:
        if key not in ("weight", "bias"):
            del module._parameters[key]
    if weight is not None:
        module.weight.data = weight.detach().clone().contiguous()


def unwrap(model: nn.Module, left: Any) -> dict[str, dict[str, str]]:
    """Make plain what PyTorch's own tools compute weights by: parametrizations, spectral norm,
    weight norm, the masks of ``torch.nn.utils.prune``. By name, what was done.

    ``left(module)`` says which are left as they are.
    """
    done = {}
    with torch.no_grad():
        for name, module in model.named_modules():
            if not isinstance(module, nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d) or left(
                module
            ):
                continue
            if [*getattr(module, "parametrizations", {})] == ["weight"]:
                how = "parametrized"
            elif _hooks(module):
                how = "hooked"
            else:
                continue
            try:
                become(module, {"class": how})
            except (RuntimeError, ValueError, NotImplementedError):
                continue
            done[name] = {"class": how}
    return done


def _hooks(module: nn.Module) -> list[Any]:
    known = (SpectralNorm, WeightNorm, prune.BasePruningMethod)
    hooks = module._forward_pre_hooks.values()
    return [
        hook
        for hook in hooks
        if isinstance(hook, known)
        and (getattr(hook, "name", None) or getattr(hook, "_tensor_name", "")) == "weight"
    ]


def _unhook(module: nn.Module) -> None:
    for hook in _hooks(module):
        if isinstance(hook, SpectralNorm):
            nn.utils.remove_spectral_norm(module)
        elif isinstance(hook, WeightNorm):
            nn.utils.remove_weight_norm(module)
        else:
            prune.remove(module, "weight")  # type: ignore[no-untyped-call]

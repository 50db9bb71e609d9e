"""Networks whose layers compute in ways of their own, beside the same networks of plain layers.

    python benchmarks/zoo_controls.py [NAME ...]

A control is the same network with ``nn.Linear`` and ``nn.Conv2d`` in the place of their subclasses
with a forward of their own, and with queries, keys and values from a layer that is called, not from
its weight alone. Both give the same outputs. Pruned alike, both should miss the same.
"""

from __future__ import annotations

import argparse
import copy
import warnings
from typing import Any
from unittest import mock

import torch
import zoo
from torch import Tensor, nn
from torch.nn import functional as F
from zoo_families import families

PLAIN = (nn.Linear, nn.Conv2d)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("names", nargs="*", help="parts of names of families")
    chosen = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    for family in families():
        if chosen.names and not any(n in family.name for n in chosen.names):
            continue
        torch.manual_seed(0)
        try:
            model, batches, others = family.build().eval(), family.data(1), family.data(2)
            zoo.settle(model, batches)
            twin = control(model, batches)
        except Exception as error:
            print(f"{family.name:45} not built: {type(error).__name__}", flush=True)
            continue
        if twin is not None:
            own, plain = (missed(m, batches, others) for m in (model, twin))
            print(f"{family.name:45} {own:.4f} control {plain:.4f} = {own / plain:.2f}", flush=True)


def missed(model: nn.Module, batches: list[Any], others: list[Any]) -> float:
    """Share of the outputs' variance that the pruned network misses on other samples."""
    result = zoo.personalize(model, batches)
    with torch.no_grad():
        return zoo.missed(zoo.output(model, others), zoo.output(result.model, others))


def control(model: nn.Module, batches: list[Any]) -> nn.Module | None:
    """The same network of plain layers; None where all are plain, or where it is not the same."""
    twin = copy.deepcopy(model)
    seen: dict[nn.Module, Tensor] = {}
    odd = [m for m in twin.modules() if isinstance(m, PLAIN) and type(m).forward not in FORWARDS]

    def see(module: nn.Module, args: tuple[Any, ...]) -> None:
        seen.setdefault(module, args[0])

    hooks = [m.register_forward_pre_hook(see) for m in odd]
    with torch.no_grad():
        wanted = zoo.output(twin, batches)
        for hook in hooks:
            hook.remove()
        plain = {m: _plain(m, x) for m, x in seen.items()}
    changed = False
    for parent in [*twin.modules()]:
        for name, child in [*parent.named_children()]:
            if child in plain:
                setattr(parent, name, plain[child])
                changed = True
        changed |= _called(parent)
    if not changed:
        return None
    with torch.no_grad():
        got = zoo.output(twin, batches)
    return twin if torch.allclose(got, wanted, atol=1e-4 * float(wanted.abs().max())) else None


FORWARDS = {t.forward for t in PLAIN}


def _plain(module: nn.Module, x: Tensor) -> nn.Module:
    """What it computes for ``x``, of ordinary layers: read off the call that it makes."""
    calls: list[tuple[Any, ...]] = []

    def conv2d(x, weight, bias=None, stride=1, padding=0, dilation=1, groups=1):  # type: ignore[no-untyped-def]
        calls.append((x, weight, bias, stride, padding, dilation, groups))
        return real(x, weight, bias, stride, padding, dilation, groups)

    real = F.conv2d
    if isinstance(module, nn.Linear):
        layer: nn.Module = nn.Linear(module.in_features, module.out_features)
        layer.load_state_dict(module.state_dict() | {"bias": torch.zeros(module.out_features)})
        if module.bias is not None:
            layer.load_state_dict(module.state_dict())
        return layer
    with mock.patch.object(F, "conv2d", conv2d):
        module(x)
    given, weight, bias, stride, padding, dilation, groups = calls[-1]
    layer = nn.Conv2d(
        weight.shape[1] * groups, len(weight), weight.shape[2:], stride, padding, dilation, groups,
        bias=bias is not None,
    )  # fmt: skip
    layer.weight.data = weight.detach().clone()
    if bias is not None:
        layer.bias.data = bias.detach().clone()  # type: ignore[union-attr]
    more = [given.shape[i] - x.shape[i] for i in (3, 2)]
    sides = [side for m in more for side in (m // 2, m - m // 2)]
    return nn.Sequential(nn.ZeroPad2d(sides), layer) if any(sides) else layer


def _called(module: Any) -> bool:
    """Give timm's BEiT and EVA the bias in the layer itself: then they call it."""
    q, v = (getattr(module, n, None) for n in ("q_bias", "v_bias"))
    if q is None or v is None or not hasattr(module, "qkv"):
        return False
    module.qkv.bias = nn.Parameter(torch.cat([q, torch.zeros_like(q), v]).detach())
    module.q_bias = None
    return True


if __name__ == "__main__":
    main()

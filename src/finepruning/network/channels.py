"""Channels: which rows, columns and parameters of a network go together when one channel goes.

A layer's output channel is written by one row of its weight, passed on by norms, activations and
depthwise convolutions, and read by columns of the layers behind. Which these are is found by
`Torch-Pruning <https://github.com/VainF/Torch-Pruning>`_ (an optional dependency) from one forward
pass. Source: Fang et al. 2023, *DepGraph*, arXiv 2301.12900. Groups in which channels mix, or that
end in the network's outputs, are left whole, and named.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from .._errors import FinepruningError
from ..data.batches import logits_of
from .copying import copied
from .dependency import graph_of, groups_of, tensors, torch_pruning


@dataclass(frozen=True)
class Group:
    """Channels that some layers write and others read."""

    name: str
    """The layer that writes them, or the first of several."""
    channels: int
    writers: Mapping[str, Tensor]
    """By layer: the row of its weight that writes each channel, ``(C,)``; -1: it does not write
    that one, but another layer that is concatenated with it."""
    readers: Mapping[str, Tensor]
    """By layer: the input channels that read each channel, ``(C, n)``; it may be flattened."""
    between: Mapping[str, Tensor]
    """Norms and depthwise convolutions on the way: by name, where each channel lies ``(C,)``, or
    -1."""


@dataclass(frozen=True)
class Channels:
    """All groups of a network."""

    groups: tuple[Group, ...]
    left: Mapping[str, str]
    """Why the other layers' outputs stay as many as they are."""
    shortcuts: Mapping[str, Shortcut] = field(default_factory=dict)
    """What layers' outputs are added to."""
    rectified: Mapping[str, str | None] = field(default_factory=dict)
    """Layers after which a rectifier alone reads, beyond the batch norm named and the shortcut."""


@dataclass(frozen=True)
class Shortcut:
    """A layer's output, normalised or not, is added to what an earlier layer sees."""

    source: str
    """That layer."""
    norm: str | None
    """The batch norm on the way to the sum."""


def find_channels(model: nn.Module, call: Callable[[nn.Module], Any], usable: set[str]) -> Channels:
    """The groups of ``model``, of which ``call(model)`` is a forward pass.

    ``usable`` names the layers whose columns may go. Raises :class:`FinepruningError` where
    Torch-Pruning is not installed, or cannot follow the network.
    """
    sums = _Sums(model)
    graph = graph_of(model, lambda m: sums.of(call(m)))
    names = {module: name for name, module in model.named_modules()}
    groups: list[Group] = []
    left: dict[str, str] = {}
    for root, found in groups_of(graph, LAYERS):
        name = names.get(root, "?")
        if isinstance(found, str):
            left[name] = found
            continue
        reason = _why_left(found, names, usable)
        if not reason and isinstance(group := _group(name, found, names), Group):
            groups.append(group)
        else:
            left[name] = reason or "its channels cannot be told apart"
    return Channels(tuple(groups), left, sums.shortcuts, sums.rectified)


def remove(model: nn.Module, call: Callable[[nn.Module], Any], kept: Mapping[str, Tensor]) -> None:
    """Take channels out of ``model`` itself. ``kept`` are booleans ``(C,)`` by the group's name."""
    graph = graph_of(model, call)
    for name, stays in kept.items():
        gone = (~stays).nonzero()[:, 0].tolist()
        if not gone:
            continue
        root = model.get_submodule(name)
        way = graph.get_pruner_of_module(root).prune_out_channels
        graph.get_pruning_group(root, way, gone).prune()


def removed(
    model: nn.Module, call: Callable[[nn.Module], Any], kept: Mapping[str, Tensor]
) -> tuple[nn.Module, dict[str, Tensor], dict[str, str]]:
    """A copy of ``model`` without the channels that are not ``kept``, of which nothing may be read.

    All at once; where the copy fails then, or answers otherwise, in halves, down to the groups
    that are to blame. Returns it, the groups that it has been done to, and why not to the others.
    """
    with torch.no_grad():
        wanted = _answers(call(copied(model)))
    made, done, left = copied(model), dict[str, Tensor](), dict[str, str]()
    todo = [sorted(kept)] if kept else []
    while todo:
        names = todo.pop()
        tried = {**done, **{name: kept[name] for name in names}}
        small, why = _without(model, call, tried, wanted)
        if small is not None:
            made, done = small, tried
        elif len(names) > 1:
            half = len(names) // 2
            todo += [names[half:], names[:half]]
        else:
            left[names[0]] = why
    return made, done, left


def proven(
    model: nn.Module, call: Callable[[nn.Module], Any], channels: Channels, seed: int = 0
) -> Channels:
    """The groups of which a half, drawn at random and read no more, can really go."""
    generator = torch.Generator().manual_seed(seed)
    blank, kept = copied(model), {}
    for group in channels.groups:
        stays = torch.rand(group.channels, generator=generator) < 0.5
        stays[0], stays[-1] = True, False
        kept[group.name] = stays
        for name, columns in group.readers.items():
            weight: Any = blank.get_submodule(name).weight
            weight.data[:, columns[~stays].flatten()] = 0
    _, done, left = removed(blank, call, kept)
    groups = tuple(g for g in channels.groups if g.name in done)
    return replace(channels, groups=groups, left={**channels.left, **left})


def _without(
    model: nn.Module,
    call: Callable[[nn.Module], Any],
    kept: Mapping[str, Tensor],
    wanted: Sequence[Tensor],
) -> tuple[nn.Module | None, str]:
    small = copied(model)
    try:
        remove(small, call, kept)
        with torch.no_grad():
            found = _answers(call(small))
    except Exception as error:  # code that has sizes written into it fails in its own way
        return None, f"without its channels the network fails ({str(error)[:100]})"
    if len(found) != len(wanted):
        return None, "without its channels the network gives something else"
    for a, b in zip(found, wanted, strict=True):
        if a.shape != b.shape or not torch.allclose(a, b, atol=NEAR * float(b.abs().max())):
            return None, "without its channels the network gives something else"
    return small, ""


def _answers(output: Any) -> list[Tensor]:
    """All tensors of what stands for the logits: detectors give a dict of boxes and scores."""
    found = logits_of(output)
    if isinstance(found, Mapping):
        found = [*found.values()]
    many = found if isinstance(found, (list, tuple)) else [found]
    return [t.float() for t in many if isinstance(t, Tensor)]


NEAR = 1e-3
"""Of the largest output, how far two networks that are the same may differ by rounding."""


class _Sums:
    """Finds shortcuts and rectifiers in the graph that a pass leaves for its gradients."""

    def __init__(self, model: nn.Module) -> None:
        self._given: dict[Any, str] = {}  # what made a layer's input: the layer
        self._gives: dict[Any, str] = {}  # what made a layer's or norm's output: its name
        self._order: list[str] = []
        self.shortcuts: dict[str, Shortcut] = {}
        self.rectified: dict[str, str | None] = {}
        self._sums: dict[Any, Any] = {}  # what has added a shortcut to a layer: what gave that
        self._norms = {n for n, m in model.named_modules() if isinstance(m, _BatchNorm)}
        layers = [(n, m) for n, m in model.named_modules() if isinstance(m, LAYERS)]
        norms = [(n, model.get_submodule(n)) for n in self._norms]
        self._hooks = [
            m.register_forward_hook(partial(self._ran, name)) for name, m in layers + norms
        ]

    def _ran(self, name: str, module: nn.Module, args: Any, output: Any) -> None:
        if not (args and isinstance(args[0], Tensor) and isinstance(output, Tensor)):
            return
        self._gives.setdefault(output.grad_fn, name)
        if name not in self._norms:
            self._given.setdefault(args[0].grad_fn, name)
            self._order.append(name)

    def of(self, output: Any) -> Any:
        """Look at the pass that gave ``output``."""
        for hook in self._hooks:
            hook.remove()
        self._given.pop(None, None)  # of the network's own input
        todo, seen = [t.grad_fn for t in tensors(output)], set()
        if not todo:
            raise FinepruningError(
                "channels: the network cannot be followed (its outputs do not lead back to its"
                " weights: is there a torch.no_grad() in its forward?)"
            )
        readers, rectifiers = Counter[Any](todo), []
        while todo:
            node = todo.pop()
            if node is None or node in seen:
                continue
            seen.add(node)
            behind = [f for f, _ in node.next_functions]
            readers.update(behind)
            todo += behind
            if type(node).__name__ == "AddBackward0" and len(behind) == 2:
                for added, other in (behind, behind[::-1]):
                    self._note(node, added, other)
            if type(node).__name__ in RECTIFIERS and not getattr(node, "_saved_min_val", 0):
                rectifiers += behind
        for node in rectifiers:
            self._note_rectified(node, readers)
        return output

    def _layer_at(self, node: Any) -> tuple[str | None, str | None, Any]:
        """The layer whose output a node has given, normalised or not, that norm, and the node of
        the layer."""
        name = self._gives.get(node)
        if name not in self._norms:
            return name, None, node
        behind = next((f for f, _ in node.next_functions if f in self._gives), None)
        return self._gives.get(behind), name, behind

    def _note(self, node: Any, added: Any, other: Any) -> None:
        """A sum of what two nodes gave."""
        (layer, norm, _), source = self._layer_at(added), self._given.get(other)
        order = self._order
        if layer in order and source in order and order.index(source) < order.index(layer):
            self.shortcuts[layer] = Shortcut(source, norm)
            self._sums[node] = added

    def _note_rectified(self, node: Any, readers: Mapping[Any, int]) -> None:
        """What a node has given goes through a rectifier, and to ``readers``."""
        added = self._sums.get(node, node)
        layer, norm, behind = self._layer_at(added)
        alone = all(readers[each] == 1 for each in {node, added, behind})
        if layer is not None and alone and self._order.count(layer) == 1:
            self.rectified[layer] = norm


LAYERS = (nn.Conv1d, nn.Conv2d, nn.Linear)
RECTIFIERS = ("ReluBackward0", "HardtanhBackward0")
"""The latter where it begins at zero, as ReLU6 does."""


def _why_left(found: Any, names: Mapping[nn.Module, str], usable: set[str]) -> str:
    """Why a group is left as it is; empty: it is not."""
    kinds = torch_pruning().ops.OPTYPE
    passed = (
        *(kinds.BN, kinds.PRELU, kinds.DEPTHWISE_CONV, kinds.IN),
        *(kinds.CONCAT, kinds.SPLIT, kinds.ELEMENTWISE, kinds.RESHAPE),
    )
    readers = 0
    for item in found:
        target, reads = item.dep.target, item.dep.handler.__name__ == "prune_in_channels"
        if target.type in (kinds.CONV, kinds.LINEAR):
            name = names.get(target.module, "?")
            readers += reads
            if name not in usable:
                return f"{name} cannot be pruned"
            if getattr(target.module, "groups", 1) > 1:
                return f"{name} is a grouped convolution"
        elif target.type == kinds.OUTPUT:
            return "it gives the outputs"
        elif target.type not in passed:
            name = names.get(target.module, "a parameter")
            return f"{name} ({type(target.module).__name__}) mixes its channels"
    if not readers:
        return "it gives the outputs"
    return "" if len(found[0].idxs) > 1 else "it has one channel"


def _group(name: str, found: Any, names: Mapping[nn.Module, str]) -> Group | None:
    kinds = torch_pruning().ops.OPTYPE
    channels = len(found[0].idxs)
    writers: dict[str, Tensor] = {}
    readers: dict[str, list[tuple[int, int]]] = {}
    between: dict[str, Tensor] = {}
    for item in found:
        target, reads = item.dep.target, item.dep.handler.__name__ == "prune_in_channels"
        roots = item.root_idxs or item.idxs
        pairs = [*zip(roots, item.idxs, strict=True)]
        if target.module not in names:
            continue
        layer = names[target.module]
        if reads and target.type in (kinds.CONV, kinds.LINEAR):
            readers.setdefault(layer, []).extend(pairs)
            continue
        rows = torch.full((channels,), -1)
        for root, index in pairs:
            rows[root] = index
        held = writers if target.type in (kinds.CONV, kinds.LINEAR) else between
        if len(dict(pairs)) != len(pairs) or layer in held:
            return None
        held[layer] = rows
    columns = {layer: _each(pairs, channels) for layer, pairs in readers.items()}
    modules = {name: module for module, name in names.items()}
    for held, axis in ((writers, 0), (between, 0)):
        for layer, rows in held.items():
            if int(rows.max()) >= _size(modules[layer], axis):
                return None  # where the network's own input is among what is concatenated
    for layer, pairs in readers.items():
        if max(index for _, index in pairs) >= _size(modules[layer], 1):
            return None
    written = sum((rows >= 0) for rows in writers.values())
    if any(c is None for c in columns.values()) or not bool(torch.as_tensor(written).all()):
        return None
    whole = {layer: c for layer, c in columns.items() if c is not None}
    return Group(name, channels, writers, whole, between)


def _size(module: nn.Module, axis: int) -> int:
    weight = getattr(module, "weight", None)
    if isinstance(weight, Tensor):
        return weight.shape[axis]
    return int(getattr(module, "num_features", 0))  # a norm without parameters


def _each(pairs: list[tuple[int, int]], channels: int) -> Tensor | None:
    """Of each channel the same number of inputs ``(C, n)``; None where they differ."""
    each: list[list[int]] = [[] for _ in range(channels)]
    for root, index in dict.fromkeys(pairs):
        each[root].append(index)
    if len({len(e) for e in each}) != 1 or not each[0]:
        return None
    return torch.tensor(each)

"""What depends on what in a network, as Torch-Pruning (an optional dependency) finds it.

What the library fails at, or would never end with, is one layer's affair: that layer is left whole.
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from .._errors import FinepruningError

INDICES = 1 << 18
"""Numbers of channels that one group may come to while it is looked for. Where a network reshapes
back and forth, as windows of pixels do, they multiply each time, without an end."""
STEPS = 5000
"""Steps from layer to layer that one group may take; networks that slice what they concatenate
take more each time. The largest seen, of a Res2Net-50, takes 511."""


def torch_pruning() -> Any:
    try:
        import torch_pruning
    except ImportError:
        raise FinepruningError(
            "channels: Torch-Pruning is not installed; pip install 'finepruning[deploy]'"
        ) from None
    return torch_pruning


def graph_of(model: nn.Module, call: Callable[[nn.Module], Any]) -> Any:
    """What depends on what. The pass needs gradients to be followed, and none is computed."""
    tp = torch_pruning()
    asked = [p.requires_grad for p in model.parameters()]
    with torch.inference_mode(False), torch.enable_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # on parameters that stand alone: they are left
        for p in model.parameters():
            p.requires_grad_(p.is_floating_point())
        try:
            return tp.DependencyGraph().build_dependency(
                model,
                example_inputs=torch.empty(0),
                forward_fn=lambda m, _: [*tensors(call(m))],
                verbose=False,
            )
        except FinepruningError:
            raise
        except Exception as error:
            raise FinepruningError(
                f"channels: the network cannot be followed ({type(error).__name__}: {error})"
            ) from error
        finally:
            for p, before in zip(model.parameters(), asked, strict=True):
                p.requires_grad_(before)


def groups_of(graph: Any, kinds: tuple[type[nn.Module], ...]) -> Iterator[tuple[nn.Module, Any]]:
    """For each layer of these kinds that begins one, its group, or why there is none (a str)."""
    seen: set[nn.Module] = set()
    for root in [*graph.module2node]:
        pruner: Any = graph.get_pruner_of_module(root) if isinstance(root, kinds) else None
        channels = None if pruner is None or root in seen else pruner.get_out_channels(root)
        if channels is None:
            continue
        try:
            with _bounded():
                found = graph.get_pruning_group(root, pruner.prune_out_channels, [*range(channels)])
        except _TooManyError:
            yield root, "its channels are mixed up with too many others"
            continue
        except Exception as error:
            yield root, f"the network cannot be followed from here ({type(error).__name__})"
            continue
        for item in found:
            if graph.is_out_channel_pruning_fn(item.dep.handler):
                seen.add(item.dep.target.module)
        yield root, found


class _TooManyError(Exception):
    """A group comes to more than :data:`INDICES` or :data:`STEPS`."""


@contextmanager
def _bounded() -> Iterator[None]:
    """Within, a group is looked for in so many :data:`STEPS` and :data:`INDICES` at most. One
    thread at a time: it is the library's own methods that count meanwhile."""
    found = torch_pruning().dependency
    mapping, group = found.index_mapping._FlattenIndexMapping, found.group.Group
    made = {"indices": 0, "steps": 0}

    def flattened(self: Any, indices: list[Any]) -> Any:
        made["indices"] += len(indices) * (1 if self.reverse else self._stride)
        if made["indices"] > INDICES:
            raise _TooManyError
        return mapped(self, indices)

    def stepped(self: Any, *args: Any, **kwargs: Any) -> Any:
        made["steps"] += 1
        if made["steps"] > STEPS:
            raise _TooManyError
        return added(self, *args, **kwargs)

    with _COUNTING:
        mapped, added = mapping.__call__, group.add_dep
        mapping.__call__, group.add_dep = flattened, stepped
        try:
            yield
        finally:
            mapping.__call__, group.add_dep = mapped, added


_COUNTING = threading.Lock()


def tensors(output: Any) -> Iterable[Tensor]:
    """All tensors of an output that lead back to the weights."""
    if isinstance(output, Tensor):
        if output.grad_fn is not None:
            yield output
    elif isinstance(output, dict):
        for value in output.values():
            yield from tensors(value)
    elif isinstance(output, (list, tuple)):
        for value in output:
            yield from tensors(value)

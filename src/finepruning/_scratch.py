"""What a model's forward keeps on its modules: one set for each batch that is under way."""

from __future__ import annotations

from typing import Any

from torch import nn

Attributes = dict[tuple[nn.Module, str], Any]

# "forward" and WavLM's attention are what interception replaces.
_STRUCTURE = {
    *("forward", "torch_multi_head_self_attention"),
    *("training", "_parameters", "_buffers", "_modules"),
}


class Scratch:
    """Attributes that ``forward`` sets on the modules of a model, such as ``self.hidden = x``.

    The lock-step pass interrupts one batch to run another: ``take`` lifts what the first has set
    and leaves the modules as they were at the start, ``put`` lays it back. What is appended to a
    list that hangs on a module cannot be told apart and stays.
    """

    def __init__(self, model: nn.Module) -> None:
        self._modules = list(model.modules())
        self._clean = self._now()

    def take(self) -> Attributes:
        """Remove and return what differs from the start."""
        now = self._now()
        changed = {
            key: value
            for key, value in now.items()
            if key not in self._clean or self._clean[key] is not value
        }
        for module, name in changed.keys() - self._clean.keys():
            del vars(module)[name]
        self.put({k: v for k, v in self._clean.items() if now.get(k, self) is not v})
        return changed

    @staticmethod
    def put(attributes: Attributes) -> None:
        """Set attributes as they were when taken."""
        for (module, name), value in attributes.items():
            vars(module)[name] = value

    def _now(self) -> Attributes:
        return {
            (module, name): value
            for module in self._modules
            for name, value in vars(module).items()
            if name not in _STRUCTURE
        }

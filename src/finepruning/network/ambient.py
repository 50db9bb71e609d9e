"""What PyTorch keeps for each thread, and a forward pass may change while it is under way."""

from __future__ import annotations

from typing import Any

import torch


class Ambient:
    """Gradient mode, inference mode and autocast, of the moment at which it is made."""

    def __init__(self, devices: tuple[str, ...]) -> None:
        self.devices = devices
        self.inference = torch.is_inference_mode_enabled()
        self.grad = torch.is_grad_enabled()
        self.cache = torch.is_autocast_cache_enabled()
        self.autocast = [
            (d, torch.is_autocast_enabled(d), torch.get_autocast_dtype(d)) for d in devices
        ]

    def same(self, other: Ambient) -> bool:
        """Whether nothing differs."""
        return (self.inference, self.grad, self.cache, self.autocast) == (
            other.inference,
            other.grad,
            other.cache,
            other.autocast,
        )

    def restore(self) -> None:
        """Set all but the inference mode, which only a context can set."""
        torch.set_grad_enabled(self.grad)
        torch.set_autocast_cache_enabled(self.cache)
        for device, enabled, dtype in self.autocast:
            torch.set_autocast_enabled(device, enabled)
            torch.set_autocast_dtype(device, dtype)


class Aside:
    """Lays what a stopped pass has changed aside: ``outer`` holds until :meth:`back`."""

    def __init__(self, outer: Ambient) -> None:
        self._own = Ambient(outer.devices)
        self._guard: Any = None
        if not self._own.same(outer):
            self._guard = torch.inference_mode(outer.inference)
            self._guard.__enter__()
            outer.restore()

    def back(self) -> None:
        """As it was when the pass stopped."""
        if self._guard is not None:
            self._guard.__exit__(None, None, None)
            self._own.restore()

"""What PyTorch keeps around a forward pass, and the pass may change while it is under way.

Some of it belongs to the thread, some to the process. A batch that stops inside ``with
torch.autocast(...)`` must not hand it to the next batch, nor to what is done at the stop, nor leave
it behind: two that enter and leave a context in turns would each put back what the other has set.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch.backends import cuda, mha
from torch.utils import _device, _python_dispatch

_functions: Any = torch.overrides  # whose stack of modes has no types
Switch = tuple[Callable[[], Any], Callable[[Any], object]]
"""How something is asked for, and how it is set."""


def _set_function_modes(modes: Iterable[Any]) -> None:
    for _ in _functions._get_current_function_mode_stack():
        _functions._pop_mode()
    for mode in modes:
        _functions._push_mode(mode)


def _set_dispatch_modes(modes: Iterable[Any]) -> None:
    for _ in _python_dispatch._get_current_dispatch_mode_stack():
        _python_dispatch._pop_mode()
    for mode in modes:
        _python_dispatch._push_mode(mode)


_SWITCHES: tuple[Switch, ...] = (
    (torch.is_grad_enabled, torch.set_grad_enabled),
    (torch.is_autocast_cache_enabled, torch.set_autocast_cache_enabled),
    (torch.get_default_dtype, torch.set_default_dtype),
    (torch.get_float32_matmul_precision, torch.set_float32_matmul_precision),
    (torch.get_deterministic_debug_mode, torch.set_deterministic_debug_mode),
    (mha.get_fastpath_enabled, mha.set_fastpath_enabled),
    (cuda.flash_sdp_enabled, cuda.enable_flash_sdp),
    (cuda.mem_efficient_sdp_enabled, cuda.enable_mem_efficient_sdp),
    (cuda.math_sdp_enabled, cuda.enable_math_sdp),
    (cuda.cudnn_sdp_enabled, cuda.enable_cudnn_sdp),
    # ``with torch.device(...)`` is a mode, and a note of it.
    (lambda: _device.CURRENT_DEVICE, partial(setattr, _device, "CURRENT_DEVICE")),
    (_functions._get_current_function_mode_stack, _set_function_modes),
    (_python_dispatch._get_current_dispatch_mode_stack, _set_dispatch_modes),
)


def switches(devices: Iterable[str]) -> tuple[Switch, ...]:
    """All that is looked after, autocast on ``devices`` too; all but inference mode, which only a
    context can set."""
    autocast = (
        switch
        for d in devices
        for switch in (
            (partial(torch.is_autocast_enabled, d), partial(torch.set_autocast_enabled, d)),
            (partial(torch.get_autocast_dtype, d), partial(torch.set_autocast_dtype, d)),
        )
    )
    return (*_SWITCHES, *autocast)


class Ambient:
    """How all of it stands at the moment at which this is made."""

    def __init__(self, switches: Sequence[Switch]) -> None:
        self.switches = switches
        self.inference = torch.is_inference_mode_enabled()
        self.values = [get() for get, _ in switches]

    def same(self, other: Ambient) -> bool:
        """Whether nothing differs."""
        return self.inference == other.inference and self.values == other.values

    def restore(self) -> None:
        """Set what differs now."""
        for (get, put), value in zip(self.switches, self.values, strict=True):
            if get() != value:
                put(value)


@contextmanager
def contained(switches: Sequence[Switch]) -> Iterator[Ambient]:
    """What is changed within, and not put back, ends with it."""
    ambient = Ambient(switches)
    try:
        yield ambient
    finally:
        ambient.restore()


class Aside:
    """Lays what a stopped pass has changed aside: ``outer`` holds until :meth:`back`, or the end of
    a block."""

    def __init__(self, outer: Ambient) -> None:
        self._own = Ambient(outer.switches)
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

    def __enter__(self) -> None: ...

    def __exit__(self, *_: object) -> None:
        self.back()

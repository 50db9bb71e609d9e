"""Let many batches flow through one model in lock-step, layer by layer.

Each batch runs the ordinary forward pass in a thread of its own, one thread at a time, and stops
where it meets a layer that has not been visited. When every batch that will come has come, the
layer is visited once with all their inputs, and the batches go on. So each layer is seen with
inputs that carry everything done upstream, in one forward pass, and only the activations at the
stops are alive.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ._find import Found, intercepted
from ._layers import Layer
from ._scratch import Scratch

Visit = Callable[[Layer, dict[int, Tensor]], None]


class _Abandoned(BaseException):
    """Unwinds the thread of a batch that is no longer wanted."""


class _Runner(threading.Thread):
    """One batch on its way. ``advance`` lets it run to its next stop or its end."""

    def __init__(self, forward: Callable[[], Any]) -> None:
        super().__init__(daemon=True)
        self._forward = forward
        self._go, self._stopped = threading.Semaphore(0), threading.Semaphore(0)
        self._abandon = False
        self.at: tuple[Layer, Tensor] | None = None
        self.output: Any = None
        self.error: BaseException | None = None
        self.start()

    def run(self) -> None:
        self._go.acquire()
        try:
            if not self._abandon:
                with torch.inference_mode():
                    self.output = self._forward()
        except _Abandoned:
            pass
        except BaseException as error:  # handed to the caller of advance()
            self.error = error
        self._stopped.release()

    def stop_at(self, layer: Layer, x: Tensor) -> None:
        self.at = (layer, x)
        self._stopped.release()
        self._go.acquire()
        if self._abandon:
            raise _Abandoned

    def advance(self) -> None:
        self.at = None
        self._go.release()
        self._stopped.acquire()
        if self.error is not None:
            raise self.error

    def abandon(self) -> None:
        self._abandon = True
        self._go.release()
        self.join()


def flow(
    found: Found,
    forwards: Sequence[Callable[[], Any]],
    visit: Visit,
    expected: dict[str, set[int]],
    scratch: Scratch,
) -> list[Any]:
    """Run ``forwards`` in lock-step; call ``visit(layer, {batch: input})`` once for each layer.

    ``expected`` names the batches that will call each layer (known from an earlier pass). A layer
    is visited when all of them wait for it; should batches take different routes and wait for each
    other, the layer with most batches waiting goes first. Returns the outputs of the forwards, in
    order.
    """
    visited: set[str] = set()

    def handle(layer: Layer, x: Tensor) -> Tensor:
        if layer.name not in visited:
            runner = threading.current_thread()
            assert isinstance(runner, _Runner)
            own = scratch.take()
            runner.stop_at(layer, x)
            scratch.put(own)
        return layer.run(x)

    runners: list[_Runner] = []
    try:
        runners.extend(_Runner(forward) for forward in forwards)
        with intercepted(found, handle):
            for runner in runners:
                runner.advance()
                scratch.take()
            while True:
                waiting: dict[str, dict[int, Tensor]] = {}
                layers: dict[str, Layer] = {}
                for i, runner in enumerate(runners):
                    if runner.at is not None:
                        layer, x = runner.at
                        layers[layer.name] = layer
                        waiting.setdefault(layer.name, {})[i] = x
                if not waiting:
                    break
                full = [n for n, xs in waiting.items() if expected.get(n, set()) <= set(xs)]
                name = full[0] if full else max(waiting, key=lambda n: len(waiting[n]))
                inputs = waiting.pop(name)
                visit(layers[name], inputs)
                visited.add(name)
                del waiting
                for i in list(inputs):
                    del inputs[i]
                    runners[i].advance()
                    scratch.take()  # of one that has come to its end
        return [runner.output for runner in runners]
    finally:
        for runner in runners:
            if runner.is_alive():
                runner.abandon()
        scratch.take()

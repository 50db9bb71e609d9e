"""The engine: the one place where data runs through a network.

It owns the personal copy of the network and offers two verbs. :meth:`Engine.stream` lets batches
through one by one, and what wants to know is shown each call of each tap. :meth:`Engine.lock_step`
lets many batches flow layer by layer: each runs the ordinary forward pass and stops where it meets
a tap that has not been visited; when every batch that will come has come, the tap is visited once
with all their inputs, and the batches go on. So each layer is seen with inputs that carry
everything done upstream, in one forward pass, and only the activations at the stops are alive.

Batches under way are greenlets of the calling thread, and switch only where they stop.
"""

from __future__ import annotations

import contextvars
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from greenlet import getcurrent, greenlet
from torch import Tensor, nn

from .._errors import FinepruningError
from ..data.batches import Batch, logits_of
from .ambient import Ambient, Aside, contained, switches
from .convolutions import is_normed
from .copying import copied
from .memory import release_free_memory
from .plain import unwrap
from .replica import Replicas
from .taps import Place, Run
from .values import is_plain

TRIM_FROM = 1 << 23
"""Bytes of waiting inputs from which freed memory is given back after a visit. Of less there is
little to give, and it takes a millisecond."""

Watch = Callable[[Any, Tensor, Tensor], None]
"""``watch(tap, x, y)``: a tap was called with ``x`` and gave ``y``."""
Twins = dict[nn.Module, nn.Module]
"""For each module of the network the replica's."""
Visit = Callable[[Any, dict[int, Tensor]], None]
"""``visit(tap, inputs)``: the batches, by number, that wait at a tap, with their inputs."""


@dataclass(frozen=True)
class Passed:
    """A batch that has passed through."""

    batch: Batch
    output: Any
    seconds: float
    """What the network took, without what was watched."""


class Engine:
    """A personal copy of ``model``, in evaluation mode on ``device``, and passes through it.

    ``model`` itself is never run and never written to. Raises :class:`FinepruningError` where it
    cannot be copied.
    """

    def __init__(self, model: nn.Module, device: torch.device) -> None:
        try:
            self.model = copied(model).to(device)
        except (RuntimeError, TypeError, NotImplementedError) as error:
            raise FinepruningError(
                f"model: cannot be copied ({error}); give a plain module"
            ) from error
        self.made_plain: dict[str, dict[str, Any]] = {}
        """Modules that compute their weight no longer, and how they are made so."""
        self.made_plain.update(unwrap(self.model, is_normed))
        self.model.requires_grad_(False)
        self._source = model
        self.device = device
        self._replicas = Replicas(self.model)
        self._switches = switches(dict.fromkeys(("cpu", device.type)))
        self.moving: set[str] = set()
        """Buffers that a forward pass writes to."""
        self._ran = False
        self._turned: list[nn.Parameter] = []
        """Parameters whose channels lie last in memory while the engine is at work."""

    def replica(self, places: Sequence[Place] = (), call: Any = None) -> nn.Module:
        """A twin of the network with a state of its own, wired at ``places`` to ``call``."""
        return self._wired(places, call)[0]

    def _wired(self, places: Sequence[Place], call: Any) -> tuple[nn.Module, Twins]:
        twin, twins = self._replicas.make()
        for place in places:
            place.wire(twins[place.module], place.taps, call)
        return twin, twins

    def stream(
        self, batches: Iterable[Batch], places: Sequence[Place] = (), watch: Watch | None = None
    ) -> Iterator[Passed]:
        """Let ``batches`` through one by one; each finds the network in the state it was given in.

        What ``watch`` raises comes out as it is.
        """
        overhead = 0.0
        ours: list[BaseException] = []

        def call(tap: Any, run: Run, x: Tensor) -> Tensor:
            nonlocal overhead
            if ours:
                raise _Unwound
            y = run(x)
            if watch is not None:
                self.synchronize()
                started = time.perf_counter()
                try:
                    with Aside(ambient):
                        watch(tap, x, y)
                except BaseException as error:
                    ours.append(error)
                    raise _Unwound from None
                self.synchronize()
                overhead += time.perf_counter() - started
            return y

        for batch in batches:
            given, (twin, twins) = self._given(batch), self._wired(places, call)
            overhead, started = 0.0, time.perf_counter()
            with torch.no_grad(), contained(self._switches) as ambient, _come_out(ours):
                output = given.call(twin)
            self.synchronize()
            if not self._ran:
                self._ran, self.moving = True, _changed_buffers(self.model, twins)
            yield Passed(batch, output, time.perf_counter() - started - overhead)

    def probe(
        self,
        batch: Batch,
        places: Sequence[Place] = (),
        call: Any = None,
        lent: Sequence[tuple[Any, Tensor]] = (),
    ) -> Any:
        """What comes out where ``call`` stands at ``places``, and does what it will; and where
        layers are ``lent`` a bias each."""
        given, (twin, twins) = self._given(batch), self._wired(places, call)
        for tap, bias in lent:
            for module in _modules(tap):
                value = nn.Parameter(bias.to(tap.weight), requires_grad=False)
                twins[module]._parameters[tap.bias_name] = value
        with torch.no_grad(), contained(self._switches):
            return given.call(twin)

    def lock_step(
        self,
        batches: Sequence[Batch],
        places: Sequence[Place],
        visit: Visit,
        expected: Mapping[str, set[int]] | None = None,
    ) -> None:
        """Let all ``batches`` flow at once; call ``visit`` once for each tap that is met.

        ``expected`` names the batches that will call each tap (known from an earlier pass; default:
        all). A tap is visited when all of them wait for it; should batches take different routes
        and wait for each other, the one with most batches waiting goes first.
        """
        everyone = set(range(len(batches)))
        visited: set[str] = set()

        def call(tap: Any, run: Run, x: Tensor) -> Tensor:
            runner = getcurrent()
            # A thread or greenlet that the model has started cannot stop here, and passes.
            if tap.name not in visited and isinstance(runner, _Runner):
                runner.stop_at(tap, x)
            return run(x)

        with torch.no_grad():
            ambient = Ambient(self._switches)
            runners = [
                _Runner(partial(self._given, batch), partial(self._wired, places, call), ambient)
                for batch in batches
            ]
            try:
                for runner in runners:
                    runner.advance()
                while waiting := _waiting(runners):
                    full = [
                        name
                        for name, (_, at) in waiting.items()
                        if (expected or {}).get(name, everyone) <= at.keys()
                    ]
                    name = full[0] if full else max(waiting, key=lambda n: len(waiting[n][1]))
                    tap, inputs = waiting.pop(name)
                    del waiting
                    large = sum(x.nbytes for x in inputs.values()) >= TRIM_FROM
                    visit(tap, inputs)
                    visited.add(name)
                    for runner in runners:
                        runner.learn(tap)
                    if large:
                        release_free_memory()
                    for i in [*inputs]:
                        del inputs[i]
                        runners[i].advance()
            finally:
                for runner in runners:
                    runner.abandon()

    def settle(self, sample: Batch) -> None:
        """Lay pictures out in memory with their channels last, where the network stands it.

        On a CPU convolutions are a third faster so, and their patches several times faster to
        gather. One ``sample`` tries: a network that fails then, or answers otherwise, such as one
        that takes ``view`` of its activations, keeps the usual layout.
        """
        if self.device.type != "cpu" or self._turned or not sample.has_pictures:
            return
        turned = [p for p in self.model.parameters() if p.ndim == 4 and p.is_contiguous()]
        if not turned:
            return
        (usual,) = self.stream([sample])
        self._lay_out(turned, torch.channels_last)
        self._turned = turned
        try:
            (other,) = self.stream([sample])
            same = alike(usual.output, other.output)
        except FinepruningError:
            same = False
        if not same:
            self._lay_back()

    def finish(self, taps: Iterable[Any] | None = None) -> None:
        """End the passes. All of the network but what ``taps`` hold is as it was given, whatever
        the passes have written to; None: nothing is put back."""
        self._lay_back()
        self.model.requires_grad_(False)
        if taps is not None:
            modules = [module for tap in taps for module in _modules(tap)]
            modules += [self.model.get_submodule(name) for name in self.made_plain]
            self._replicas.put_back(self._source, [p for m in modules for p in m.parameters()])

    def _lay_back(self) -> None:
        self._lay_out(self._turned, torch.contiguous_format)
        self._turned = []

    def _lay_out(self, parameters: Sequence[nn.Parameter], form: torch.memory_format) -> None:
        for parameter in parameters:
            parameter.data = parameter.data.contiguous(memory_format=form)

    def synchronize(self) -> None:
        """Wait for the device, so that times mean something."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def _given(self, batch: Batch) -> Batch:
        """The batch as the network takes it now."""
        return batch.to(self.device)


def _changed_buffers(model: nn.Module, twins: Twins) -> set[str]:
    changed = set()
    for path, module in model.named_modules():
        if twins[module] is module:  # scripted
            continue
        for name, value in module._buffers.items():
            now = twins[module]._buffers.get(name)
            if value is not None and is_plain(value) and not _same(value, now):
                changed.add(f"{path}.{name}".lstrip("."))
    return changed


def _same(one: Tensor, two: Tensor | None) -> bool:
    return one is two or (two is not None and one.shape == two.shape and torch.equal(one, two))


def alike(a: Any, b: Any) -> bool:
    """Whether two outputs are the same but for rounding."""
    a, b = logits_of(a), logits_of(b)
    if not (isinstance(a, Tensor) and isinstance(b, Tensor) and a.shape == b.shape):
        return False
    scale = float(a.abs().max()) if a.numel() else 0.0
    return bool(((a - b).abs() <= 1e-3 * scale).all())


def _modules(tap: Any) -> list[nn.Module]:
    """The modules that hold what a tap writes to."""
    return [tap.module, *getattr(tap, "tied", ())]


def _waiting(runners: Sequence[_Runner]) -> dict[str, tuple[Any, dict[int, Tensor]]]:
    """The taps at which batches wait, by name, in the order of the first batch there."""
    waiting: dict[str, tuple[Any, dict[int, Tensor]]] = {}
    for i, runner in enumerate(runners):
        if runner.at is not None:
            tap, x = runner.at
            waiting.setdefault(tap.name, (tap, {}))[1][i] = x
    return waiting


class _Unwound(BaseException):
    """Leads out of the user's code, for our own reasons. That may catch it, and is asked again."""


@contextmanager
def _come_out(ours: list[BaseException]) -> Iterator[None]:
    """Raise an error of our own as it is, whatever the user's code has made of it."""
    try:
        yield
    except BaseException:
        if not ours:
            raise
    if ours:
        raise ours[0]


class _Runner(greenlet):
    """One batch on its way. ``advance`` lets it run to its next stop or its end."""

    def __init__(
        self,
        given: Callable[[], Batch],
        replica: Callable[[], tuple[nn.Module, Twins]],
        ambient: Ambient,
    ) -> None:
        super().__init__(self._go)
        self.gr_context = contextvars.copy_context()
        self._given, self._replica, self._ambient = given, replica, ambient
        self._twins: Twins = {}
        self._aside: Aside | None = None
        self._abandoned = False
        self.at: tuple[Any, Tensor] | None = None

    def _go(self) -> None:
        twin, self._twins = self._replica()
        try:
            with suppress(_Unwound), contained(self._ambient.switches):
                self._given().call(twin)  # what comes out is not needed: all has been visited
        finally:
            self._twins = {}  # and with it the state that the batch has left there

    def learn(self, tap: Any) -> None:
        """Parameters that a visit has given the network, such as a first bias, are its twin's."""
        if not self._twins:
            return
        for module in _modules(tap):
            twin = self._twins[module]
            for name, parameter in module._parameters.items():
                if parameter is not None and twin._parameters.get(name) is None:
                    setattr(twin, name, parameter)  # also over an attribute that was None

    def stop_at(self, tap: Any, x: Tensor) -> None:
        """Called by the batch itself: wait until the tap has been visited."""
        if self._abandoned:
            raise _Unwound
        self.at = (tap, x)
        self._aside = Aside(self._ambient)
        assert self.parent is not None
        self.parent.switch()
        if self._abandoned:
            raise _Unwound

    def advance(self) -> None:
        """Run on; an error of the batch comes out here."""
        self.at = None
        if self._aside is not None:
            self._aside.back()
            self._aside = None
        self.switch()

    def abandon(self) -> None:
        """Unwind it, wherever it is."""
        self._abandoned = True
        while self and not self.dead:
            with suppress(Exception):  # of the user's own clean-up
                self.advance()

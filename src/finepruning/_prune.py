"""Prune the network to one sparsity, or find out which."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ._config import Config
from ._errors import FinepruningError
from .core.channels import Path
from .core.fit import Solution
from .core.plan import budget, plan
from .core.readout import Readout
from .network.channels import Channels, find_channels, proven, remove
from .network.copying import copied
from .network.engine import Engine
from .network.find import Found
from .network.layers import precise
from .network.timing import time_share
from .steps.check import Check, check
from .steps.choose import Choice, choose
from .steps.observation import Observation
from .steps.paper import prune_by_activity
from .steps.prune import Pruning, Teaching, prune, prune_path
from .steps.structure import Shortcuts, Structure, cut, paths, refit, structure


@dataclass
class Pruner:
    """Prunes the engine's network by what was observed."""

    engine: Engine
    found: Found
    seen: Observation
    answer: Readout | None
    config: Config
    bar: Callable[[str, int | None], Any]
    """``bar(name, total)``: a progress bar."""

    def prune(self, sparsity: float) -> Pruning:
        """Prune to one sparsity, and add the read-out."""
        config, seen, keep = self.config, self.seen, self._budget(sparsity)
        if config.effort == "paper":
            passes = config.paper.steps * len(seen.calibration)
            with self.bar("prune", passes) as bar:
                prune_by_activity(
                    self.engine, self.found, seen.calibration, keep, config.paper, bar.update
                )
            done = Pruning({}, None, 0.0)
        else:
            keeps = self._plan(keep)
            with self.bar("prune", len(keeps)) as bar:
                done = prune(
                    self.engine, self.found, seen, keeps, self._silent, config.fit,
                    step=bar.update, teaching=self._teaching, observed=config.observe,
                )  # fmt: skip
        add_shift(self.found, seen, self.answer)
        return done

    def restructure(self) -> tuple[Pruning, float, tuple[str, ...]]:
        """Take out whole channels, and refit all that stays; the multiply-accumulates that choosing
        them took; and what was timed."""
        options, sample = self.config.structure, self.seen.calibration[0].take(0)
        usable = {layer.name for layer in self.found.layers if layer.groups == 1}

        def call(model: nn.Module) -> Any:
            return sample.to(self.engine.device).call(model)

        channels = find_channels(self.engine.replica(), call, usable)
        channels = proven(self.engine.replica(), call, channels)
        if not channels.groups:
            why = "; ".join(f"{name}: {reason}" for name, reason in [*channels.left.items()][:2])
            raise FinepruningError(f"channels: none can go ({why}); prune weights instead")
        shortcuts = Shortcuts(self.engine.model, channels, options.shut)
        layers = len(self.found.layers)
        with self.bar("channels", layers) as bar:
            made, seen = paths(
                self.engine, self.found, self.seen, channels, shortcuts, options.channels,
                bar.update,
            )  # fmt: skip
        timed: tuple[str, ...] = ()
        if options.latency is not None:
            shape, timed = self._fast_enough(call, seen, channels, made)
        else:
            part = float(options.macs or options.params or 1.0)
            by_macs = options.macs is not None
            shape = structure(self.found, seen, channels, made, part, by_macs, options.channels)
        live = {}
        for layer in self.found.layers:
            name, (groups, outputs, inputs) = layer.name, layer.matrix().shape
            rows = shape.rows.get(name, np.ones(groups * outputs, dtype=bool))
            if name in self._silent:
                rows = rows & ~self._silent[name].cpu().numpy()
            live[name] = shape.columns.get(name, np.ones(inputs, dtype=bool)), rows
        with self.bar("prune", layers) as bar:
            done = prune(
                self.engine, self.found, seen, live, {}, self.config.fit,
                step=bar.update, teaching=self._teaching, fit=refit(options), uncalled=cut,
                observed=self.config.observe, beside=shortcuts,
            )  # fmt: skip
        add_shift(self.found, self.seen, self.answer)
        return done, sum(path.macs for path in made.values()), timed

    def _fast_enough(
        self,
        call: Callable[[nn.Module], Any],
        seen: Observation,
        channels: Channels,
        made: Mapping[str, Path],
    ) -> tuple[Structure, tuple[str, ...]]:
        """The most that stays within the time asked for, by halves; and what it takes."""
        options, whole = self.config.structure, self.engine.replica()
        wanted = float(options.latency or 1.0)

        def tried(part: float) -> tuple[Structure, float]:
            shape = structure(self.found, seen, channels, made, part, True, options.channels)
            small = copied(whole)
            remove(small, call, {n: torch.from_numpy(kept) for n, kept in shape.kept.items()})
            return shape, time_share(small, whole, call)

        low, high = LEAST, 1.0
        best, took = tried(low)
        if took <= wanted:
            with self.bar("time", TRIES) as bar:
                for _ in range(TRIES):
                    middle = (low * high) ** 0.5
                    shape, needed = tried(middle)
                    if needed <= wanted:
                        low, best, took = middle, shape, needed
                    else:
                        high = middle
                    bar.update()
        line = f"one sample takes {took:.0%} of the dense network's time, in PyTorch, timed here"
        missed = f"; {wanted:.0%} was asked for: no more channels can go" if took > wanted else ""
        return best, (line + missed,)

    def choose(self, task: str) -> Choice:
        """Try sparsities, and choose. The network stays as it is."""
        config, answer = self.config, self.answer
        thin = self.seen.thinned(config.choice.thin)

        def along(
            sparsities: Sequence[float], level: int
        ) -> tuple[Pruning, Mapping[str, Sequence[Solution]]]:
            keeps = [self._plan(self._kept(s)) for s in sparsities]
            with self.bar("choose", len(keeps[0])) as bar:
                return prune_path(
                    self.engine, self.found, thin, keeps, level, self._silent, config.fit,
                    step=bar.update, teaching=self._teaching,
                )  # fmt: skip

        return choose(
            self.engine, self.found, along,
            finish=lambda: add_shift(self.found, self.seen, answer),
            judge=lambda: check(
                self.engine, self.seen, task, answer, config.check, config.choice, chosen=True
            ),
            possible=lambda s: self._kept(s) >= len(self.found.layers),
            options=config.choice,
        )  # fmt: skip

    @cached_property
    def _silent(self) -> dict[str, Tensor]:
        """Outputs that never come up, as the user says."""
        head, answer = self.seen.trace.head, self.answer
        if answer is None or head is None or not self.seen.trace.direct or answer.prior.all():
            return {}
        return {head.name: torch.from_numpy(answer.prior == 0).to(head.weight.device)}

    @property
    def _teaching(self) -> Teaching | None:
        """What neighbours say, to the last layer; what they change is nothing to be faithful to, so
        not where the network is only to stay as good as it is."""
        head, options, answer = self.seen.trace.head, self.config.neighbours, self.answer
        if not options.weight or answer is None or head is None or not self.seen.trace.direct:
            return None
        if not answer.trust and self.config.check.enabled:
            return None
        return Teaching(head, torch.from_numpy(answer.shift), options)

    def _plan(self, keep: int) -> dict[str, int]:
        """How many weights each layer keeps, of ``keep`` in all."""
        weights = {layer.name: precise(layer.matrix()) for layer in self.found.layers}
        return plan(weights, self.seen.evidence, self._silent, keep, self.config.plan)

    def _kept(self, sparsity: float) -> int:
        """How many weights of the layers found are kept."""
        return budget(self.found.weights, sparsity)

    def _budget(self, sparsity: float) -> int:
        """The same, where so many can go."""
        need_room(self.found, sparsity)
        return self._kept(sparsity)


def need_room(found: Found, sparsity: float) -> None:
    """Raise :class:`FinepruningError` where a sparsity would leave a layer nothing at all."""
    layers, weights = len(found.layers), found.weights
    if budget(weights, sparsity) < layers:
        most = math.floor(1000 * (1 - layers / weights)) / 1000
        raise FinepruningError(
            f"sparsity={sparsity}: would leave {budget(weights, sparsity)} of {weights} weights for"
            f" {layers} layers, and each needs one; give {most} at most"
        )


def add_shift(found: Found, seen: Observation, answer: Readout | None) -> None:
    """Fold the read-out into the bias of the last layer, one of ``found``."""
    if answer is None or seen.trace.head is None or not answer.shift.any():
        return
    head = next(layer for layer in found.layers if layer.name == seen.trace.head.name)
    shift = torch.from_numpy(answer.shift) / seen.trace.gain
    bias = head.bias if head.bias is not None else head.weight.new_zeros(len(shift))
    head.write_bias(bias + shift.to(bias))


def notes_on(config: Config, found: Found, seen: Observation, checked: Check) -> tuple[str, ...]:
    """What a network that was to cost less costs its user, and where it costs more than asked."""
    notes = []
    times = seen.trace.positions if config.structure.macs is not None else {}
    cost = {layer.name: times.get(layer.name, 1) for layer in found.layers}
    whole = sum(layer.size * cost[layer.name] for layer in found.layers)
    stays = sum(int((layer.weight != 0).sum()) * cost[layer.name] for layer in found.layers)
    wanted = config.structure.macs or config.structure.params or 1.0
    if config.structure.latency is None and stays > (wanted + SHORT) * whole:
        what = "weights" if config.structure.macs is None else "multiply-accumulates"
        notes.append(
            f"{wanted:.0%} of the {what} were to stay, and {stays / whole:.0%} do: no other"
            " channels can go (finepruning shrink names why)"
        )
    if not checked.passed:
        notes.append(f"the smaller network is not sure to answer as well ({checked.reason})")
    return tuple(notes)


LEAST = 0.02
"""Share of the multiply-accumulates below which nothing is timed."""
TRIES = 6
"""Halvings between that and all of them: to 1 in 16."""
SHORT = 0.02
"""Of the whole cost, from which it is told that more stays than was asked for."""

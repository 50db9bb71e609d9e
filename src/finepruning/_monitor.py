"""Watching a personal network in use: whether what it is given has changed."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from ._config import Config
from ._errors import FinepruningError
from ._personalize import place
from ._result import Result
from ._run import real_batches
from .artifact.kept import kept
from .artifact.layout import read_report
from .artifact.statistics import read_statistics
from .core.drift import CLASSES, DEVICE, OTHER, Judged, Movement, familiar, judge
from .network.engine import Engine
from .network.find import find_layers
from .steps.statistics import Statistics
from .steps.watch import look


@dataclass(frozen=True)
class Drift:
    """Whether new samples are like those that the network was personalised with.

    ``str()`` of it is for reading.
    """

    changed: bool
    cause: str
    """``classes`` that were not seen before, another ``device``, or ``other``; empty: no change."""
    samples: int
    """New samples that were looked at."""
    false_alarms: float
    """How often ordinary samples would be taken for a change."""
    unseen_before: float | None
    """Of a classifier, share of the earlier samples whose class no other one shows,"""
    unseen: float | None
    """of the new ones,"""
    unseen_p: float | None
    """and the probability that so many come up by chance."""
    new_classes: tuple[tuple[int | str, float], ...]
    """Classes, by name where these are known, that were not seen before; and how many of the new
    samples are believed to be theirs."""
    moved: float
    """How far the layers' mean outputs have moved: mean squared shift, in variances."""
    moved_p: float
    """Probability that they move so far by chance."""
    moved_middle: float
    moved_late: float
    """The same of the middle and of the last third of the layers: of another device the former is
    the larger one, of new classes the latter."""

    def to_dict(self) -> dict[str, Any]:
        """All of it, ready for ``json.dumps``."""
        return asdict(self)

    def __str__(self) -> str:
        if not self.samples:
            return "nothing has been seen yet"
        if not self.changed:
            return f"{self.samples} samples: nothing has changed"
        said = {
            CLASSES: "classes that were not there before",
            DEVICE: "they seem to come from another device",
            OTHER: "they differ from the earlier ones",
        }[self.cause]
        lines = [f"{self.samples} samples: {said}"]
        if self.cause == CLASSES:
            named = ", ".join(f"{name} ({count:.0f})" for name, count in self.new_classes[:SHOWN])
            lines.append(
                f"of 100, {100 * (self.unseen or 0):.0f} are of no class seen before (earlier"
                f" {100 * (self.unseen_before or 0):.0f})" + (f": {named}" if named else "")
            )
        else:
            lines.append(f"the layers' mean outputs have moved by {self.moved:.2f} variances")
        return "\n".join([*lines, "take them in: finepruning update DIR --data NEW"])


SHOWN = 5
"""New classes that are named in the text."""


def monitor(
    model: nn.Module,
    personal: str | os.PathLike[str] | Result | None = None,
    *,
    false_alarms: float | None = None,
    class_names: Sequence[str] | None = None,
    device: str | torch.device | None = None,
) -> Monitor:
    """Watch a personal network: tell when what it is given is no longer what it was made for.

    >>> import torch
    >>> from finepruning import monitor, personalize
    >>> _ = torch.manual_seed(1)
    >>> net = torch.nn.Sequential(torch.nn.Linear(8, 32), torch.nn.ReLU(), torch.nn.Linear(32, 4))
    >>> result = personalize(net, torch.randn(64, 8), sparsity=0.5)
    >>> watch = monitor(result.model)
    >>> watch.see(torch.randn(32, 8)).changed, watch.see(torch.randn(32, 8) + 3).changed
    (False, True)

    ``model`` is what :func:`finepruning.personalize`, :func:`finepruning.update` or
    :func:`finepruning.load` gave, which know what was kept of the person's samples; for a copy of
    it give the folder, or the result, as ``personal``. ``false_alarms``: of 100 windows of ordinary
    samples, so many hundredths may be taken for a change (default 0.05). A window is what has been
    seen since the start, or since :meth:`Monitor.forget`.

    Raises :class:`FinepruningError` where nothing was kept.
    """
    statistics: Statistics | None
    config = Config()
    if isinstance(personal, Result):
        statistics = personal.statistics
        config = Config.from_dict(personal.report.config)
    elif personal is not None:
        statistics = read_statistics(personal)
        config = Config.from_dict(read_report(personal)["config"])
    else:
        statistics = kept(model)
    if statistics is None:
        raise FinepruningError(
            "model: nothing was kept of the samples it was made from; give the folder as well:"
            ' monitor(model, "me/")'
        )
    if false_alarms is not None:
        drift = replace(config.drift, false_alarms=false_alarms)
        config = replace(config, drift=drift)
    names = class_names or config.task.names
    return Monitor(model, statistics, config, names, place(model, device))


class Monitor:
    """What :func:`monitor` gives. Nothing of the samples is kept but some numbers of each."""

    def __init__(
        self,
        model: nn.Module,
        statistics: Statistics,
        config: Config,
        names: Sequence[str] | None,
        device: torch.device,
    ) -> None:
        with torch.inference_mode(False), torch.no_grad():
            self._engine = Engine(model, device)
        self._found = find_layers(self._engine.model)
        self._statistics, self._config, self._names = statistics, config, names
        self._seen = None if statistics.logits is None else _familiar(statistics.logits)
        self.forget()

    def forget(self) -> None:
        """Begin a new window."""
        self.samples = 0
        self._means: dict[str, Tensor] = {}
        self._logits: Tensor | None = None

    def see(self, batches: Any) -> Drift:
        """Look at new samples, and say what has changed by now; ``batches`` as for
        :func:`finepruning.personalize`."""
        observe, most = self._config.observe, self._config.drift.most
        with torch.inference_mode(False), torch.no_grad():
            real = real_batches(self._engine, batches, observe.transcript)
            seen = look(self._engine, self._found, real, observe, self._config.seed)
        self.samples += seen.samples
        for name, means in seen.means.items():
            offset = self._statistics.offsets.get(name)
            means = means if offset is None else means + offset.to(means)
            self._means[name] = _last(self._means.get(name), means, most)
        if seen.logits is not None:
            self._logits = _last(self._logits, seen.logits, most)
        return self.drift()

    def drift(self) -> Drift:
        """What has changed in this window."""
        options = self._config.drift
        if self.samples < options.fewest:
            return self._told(Judged(False, "", None, Movement(1.0, {})))
        new = {name: means.double().numpy() for name, means in self._means.items()}
        logits = None
        if self._logits is not None:
            shift = self._statistics.shift
            logits = (self._logits.double() - (0 if shift is None else shift)).numpy()
        return self._told(judge(self._statistics.usual, self._seen, new, logits, options))

    def _told(self, found: Judged) -> Drift:
        moved, classes = found.movement, found.novelty
        layers = [*moved.layers.values()]
        told = Drift(
            found.changed, found.cause, self.samples, self._config.drift.false_alarms,
            None, None, None, (), sum(layers) / max(1, len(layers)), moved.p, moved.middle,
            moved.late,
        )  # fmt: skip
        if classes is None:
            return told
        named = tuple((self._name(k), count) for k, count in classes.classes)
        return replace(
            told, unseen_before=classes.before, unseen=classes.now, unseen_p=classes.p,
            new_classes=named,
        )  # fmt: skip

    def _name(self, k: int) -> int | str:
        return k if self._names is None or k >= len(self._names) else self._names[k]


def _familiar(logits: Tensor) -> Any:
    return familiar(logits.double().numpy())


def _last(held: Tensor | None, more: Tensor, most: int) -> Tensor:
    return (more if held is None else torch.cat([held, more]))[-most:]

"""What a personalisation gives."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from .artifact.layout import Values
from .artifact.save import save
from .report.account import Report
from .steps.statistics import Statistics


@dataclass(frozen=True)
class Result:
    """A personalised network, and what was done to get it."""

    model: nn.Module
    """The new module, in evaluation mode: same inputs and outputs as the one given."""
    report: Report
    base: str
    """Fingerprint of the module that was given (SHA-256)."""
    pruned: tuple[str, ...]
    changed: tuple[str, ...]
    statistics: Statistics | None = None
    """What is kept of the samples, for :func:`finepruning.update` and :func:`finepruning.monitor`;
    None: nothing."""
    plain: Mapping[str, dict[str, Any]] = field(default_factory=dict)
    """Modules that hold a weight which the given ones compute, and how they are made so."""
    moving: tuple[str, ...] = ()
    """Buffers that the network writes to as it runs: the base may have been used meanwhile."""

    def save(
        self,
        path: str | os.PathLike[str],
        *,
        replace: bool = False,
        source: dict[str, Any] | None = None,
        key: bytes | None = None,
        values: Values = "exact",
        base: nn.Module | None = None,
    ) -> None:
        """Write the artifact, a folder of its own, at ``path``: all or nothing. What is there is
        kept, unless ``replace``. ``source`` says where the network is from, for the command;
        ``key`` seals the artifact: without it nobody can change it unseen.

        ``values`` says what is stored of the weights that stay: ``exact``, bit for bit;
        ``float16``, ``bfloat16``, ``int8``; ``differences`` to the ``base`` network's, which is to
        be given, coded; ``mask``: none, where weights are the base's times gains of outputs and of
        inputs (``Config(fit={"method": "gains"})``). All but ``exact`` need constriction (``pip
        install 'finepruning[small]'``)."""
        report = self.report.to_dict()
        save(
            path, self.model, [*self.pruned], [*self.changed], self.base, report,
            statistics=self.statistics, replace=replace, source=source, plain=self.plain,
            moving=self.moving, key=key, values=values, given=base,
        )  # fmt: skip

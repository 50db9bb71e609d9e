"""Taking new samples in: a personal network goes on from what was kept of the earlier ones."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ._config import AUTO, Config
from ._errors import FinepruningError
from ._personalize import place
from ._result import Result
from ._run import run
from .artifact.fingerprint import is_of
from .artifact.kept import Past
from .artifact.layout import read_about
from .artifact.load import load
from .artifact.statistics import read_statistics


def update(
    personal: str | os.PathLike[str] | Result,
    base: nn.Module,
    batches: Any,
    *,
    sparsity: float | str | None = None,
    tolerance: float | None = None,
    device: str | torch.device | None = None,
    progress: bool = True,
    config: Config | None = None,
) -> Result:
    """Take new unlabelled samples into a personal network, without the earlier ones.

    >>> import torch
    >>> from finepruning import personalize, update
    >>> net = torch.nn.Sequential(torch.nn.Linear(8, 32), torch.nn.ReLU(), torch.nn.Linear(32, 4))
    >>> me = personalize(net, torch.randn(64, 8), sparsity=0.5)
    >>> me = update(me, net, torch.randn(16, 8))
    >>> me.report.update["remembered"], round(me.report.sparsity, 2)
    (64, 0.5)

    ``personal`` is the folder that :meth:`Result.save` wrote, or the result itself; ``base`` the
    same pretrained network; ``batches`` as for :func:`finepruning.personalize`. What was kept of
    the earlier samples counts beside the new ones, as far as ``config.update.remember`` of them go;
    so weights and classes that the new samples need come back, and those that neither needs go.
    Where the new samples have come from another device, batch norms are aligned with it.

    The network stays as sparse as it was, or dense; ``sparsity="auto"`` chooses anew, by what the
    new samples tell, so give it where these are like all that the person has. All other choices are
    those of the first time; ``config`` replaces them all.

    Raises :class:`FinepruningError` where nothing was kept, or where ``base`` is another network.
    """
    earlier, report, made_from, moving = _earlier(personal, base)
    if not is_of(base, made_from, moving):
        raise FinepruningError(
            "base: not the network that was personalised; load the weights it was made from"
        )
    given = {"sparsity": sparsity, "tolerance": tolerance}
    if config is not None:
        if named := [name for name, value in given.items() if value is not None]:
            raise FinepruningError(f"{named[0]}={given[named[0]]!r} and a config: give one of them")
    else:
        config = Config.from_dict(report["config"])
        if sparsity is not None:
            config = replace(config, sparsity=sparsity)
        else:
            earlier = replace(earlier, dense=not report["check"]["passed"])
            if (choice := report["choice"]) is not None and not earlier.dense:
                config = replace(config, sparsity=choice["sparsity"])
        if tolerance is not None:
            config = replace(config, choice=replace(config.choice, tolerance=tolerance))
            if config.sparsity != AUTO:
                raise FinepruningError(
                    f"tolerance={tolerance!r}: says how a sparsity is chosen, and the network has"
                    f" one of {config.sparsity!r}; give sparsity='auto' as well"
                )
    return run(base, batches, config, place(base, device), progress, earlier)


def _earlier(
    personal: str | os.PathLike[str] | Result, base: nn.Module
) -> tuple[Past, dict[str, Any], str, Sequence[str]]:
    """What there was before, its report, the base's fingerprint, and what that leaves out."""
    if isinstance(personal, Result):
        if personal.statistics is None:
            raise FinepruningError("personal: nothing was kept for updates; personalise anew")
        report = personal.report.to_dict()
        past = Past(personal.model, personal.statistics)
        return past, report, personal.base, personal.moving
    about = read_about(Path(personal))
    statistics = read_statistics(personal)
    past = Past(load(personal, base), statistics)
    return past, about["report"], about["base"], about.get("moving", ())

"""All of personalize but the check at its end: what the steps do, whether it helps or not."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from torch import nn

import finepruning
from finepruning import Config, Result

SPARSITY = 0.7
"""Where none is given: how one is chosen is looked at in tests/steps/test_choose.py."""


def personalize(
    model: nn.Module, batches: Any, *, config: Config | None = None, **options: Any
) -> Result:
    """As :func:`finepruning.personalize`; nothing is held back, and what comes out comes back."""
    run = {name: options.pop(name) for name in ("device", "progress") if name in options}
    given = {k: v for k, v in options.items() if v is not None}
    config = config or Config(**{"sparsity": SPARSITY, **given})
    config = replace(config, check=replace(config.check, enabled=False))
    return finepruning.personalize(model, batches, config=config, **run)

"""One thread for each operation: the networks here are far too small to share out."""

from __future__ import annotations

import signal

import pytest
import torch
from hypothesis import settings

from finepruning.data import batches

torch.set_num_threads(1)
# How long an example takes is the machine's affair.
settings.register_profile("unhurried", deadline=None)
settings.load_profile("unhurried")
# A shell that starts the tests in the background has Ctrl-C ignored, also in their children.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def _small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """Data of a test is small: let it come in several batches all the same."""
    monkeypatch.setattr(batches, "BATCH_SIZE", 8)

"""Which network an artifact belongs to: a hash of all its weights."""

from __future__ import annotations

import hashlib
from collections.abc import Collection

import torch
from torch import Tensor, nn

from ..network.values import parts_of

UNREAD = ("num_batches_tracked", "masked_spec_embed")
"""The last part of names that inference does not read: counters of batch norms, and what speech
encoders put in the place of inputs that training masks."""


def fingerprint(
    model: nn.Module, without: Collection[str] = (), *, unread: Collection[str] = UNREAD
) -> str:
    """SHA-256 over names, dtypes, shapes and bytes of all parameters and buffers, but for the
    buffers ``without``, which the network itself writes to as it runs, and those ``unread``."""
    digest = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        left_out = name in without or name.rpartition(".")[2] in unread
        if left_out or not isinstance(value, Tensor):
            continue
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        for part in parts_of(value):
            flat = part.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
            digest.update(flat.numpy().tobytes())
    return digest.hexdigest()


def is_of(model: nn.Module, base: str, without: Collection[str] = ()) -> bool:
    """Whether ``base`` is the fingerprint of ``model``, by this version or by the first, which
    left nothing ``unread`` out."""
    return base in (fingerprint(model, without), fingerprint(model, without, unread=()))

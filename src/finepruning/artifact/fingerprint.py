"""Which network an artifact belongs to: a hash of all its weights."""

from __future__ import annotations

import hashlib
from collections.abc import Collection

import torch
from torch import Tensor, nn

from ..network.values import parts_of


def fingerprint(model: nn.Module, without: Collection[str] = ()) -> str:
    """SHA-256 over names, dtypes, shapes and bytes of all parameters and buffers, but for the
    buffers ``without``, which the network itself writes to as it runs."""
    digest = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        if not isinstance(value, Tensor) or name in without:
            continue
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        for part in parts_of(value):
            flat = part.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
            digest.update(flat.numpy().tobytes())
    return digest.hexdigest()

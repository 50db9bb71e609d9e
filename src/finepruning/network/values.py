"""The numbers of a tensor, whatever its layout."""

from __future__ import annotations

import torch
from torch import Tensor

PLAIN = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
"""Types of weights that can be computed with here."""

_COMPRESSED = {
    torch.sparse_csr: ("crow_indices", "col_indices"),
    torch.sparse_bsr: ("crow_indices", "col_indices"),
    torch.sparse_csc: ("ccol_indices", "row_indices"),
    torch.sparse_bsc: ("ccol_indices", "row_indices"),
}


def parts_of(value: Tensor) -> tuple[Tensor, ...]:
    """The tensors of plain layout that ``value`` consists of.

    >>> [part.tolist() for part in parts_of(torch.eye(2).to_sparse())]
    [[[0, 1], [0, 1]], [1.0, 1.0]]
    """
    if value.layout == torch.sparse_coo:
        value = value.detach().coalesce()
        return value.indices(), value.values()
    if value.layout in _COMPRESSED:
        value = value.detach()
        return *(getattr(value, name)() for name in _COMPRESSED[value.layout]), value.values()
    if value.layout != torch.strided:  # such as that of MKLDNN
        return (value.detach().to_dense(),)
    return (value.detach().resolve_conj().resolve_neg(),)


def is_plain(value: Tensor) -> bool:
    """Whether it is a matrix of numbers to be computed with: dense, and of an ordinary type."""
    return value.layout == torch.strided and value.dtype in PLAIN and value.device.type != "meta"

"""What the tests of artifacts share: a network, its data, and whether two have the same bits."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from finepruning.artifact.layout import JSON
from finepruning.artifact.seal import ZEROS, digest_of, sealed

X = torch.randn(32, 2, 6, generator=torch.Generator().manual_seed(0))


class Net(nn.Module):
    """With a tied pair, an attention, and layers without bias."""

    def __init__(self, bias: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b = nn.Linear(6, 6, bias), nn.Linear(6, 6, bias)
        self.b.weight, self.b.bias = self.a.weight, self.a.bias
        self.attend = nn.MultiheadAttention(6, 2, bias=bias, batch_first=True)
        self.norm = nn.LayerNorm(6)
        self.head = nn.Linear(6, 3, bias)

    def forward(self, x: Tensor) -> Tensor:
        x = self.b(self.a(x).relu())
        return self.head(self.norm(x + self.attend(x, x, x)[0]).mean(1))


def same_bits(a: nn.Module, b: nn.Module) -> bool:
    one, two = a.state_dict(), b.state_dict()
    return list(one) == list(two) and all(
        one[k].dtype == two[k].dtype
        and torch.equal(one[k].view(-1).view(torch.uint8), two[k].view(-1).view(torch.uint8))
        for k in one
    )


def reseal(me: Path, name: str = JSON, **changes: Any) -> None:
    """Change the JSON of an artifact, ``...`` leaves out, and make all digests right again: as
    somebody does who means harm."""
    about = json.loads((me / name).read_text()) | changes
    about = {"digest": ZEROS.decode()} | {k: v for k, v in about.items() if v is not ...}
    about["digest"] = ZEROS.decode()
    for of in about.get("files", {}).values():
        file = me / of["name"]
        if file.is_file():
            of |= {"bytes": file.stat().st_size, "sha256": digest_of(file)}
    (me / name).write_bytes(sealed(json.dumps(about, indent=1).encode()))

"""A small network, and a person whose classes or device change, for the tests of what follows."""

from __future__ import annotations

import torch
from torch import Tensor, nn

K = 6
CENTRES = 3 * torch.randn(K, 8, generator=torch.Generator().manual_seed(1))


def drawn(classes: list[int], n: int, seed: int = 0, noise: float = 1.5) -> tuple[Tensor, Tensor]:
    """Samples ``(n, 1, 8)`` of some classes, and which each is of."""
    generator = torch.Generator().manual_seed(seed)
    which = torch.tensor(classes)[torch.randint(0, len(classes), (n,), generator=generator)]
    x = CENTRES[which] + noise * torch.randn(n, 8, generator=generator)
    return x[:, None], which


def device(x: Tensor) -> Tensor:
    """The same by another sensor."""
    return x + 4


class Small(nn.Sequential):
    """Tells six classes, with batch norms, and many more weights than that takes."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        super().__init__(
            nn.Conv1d(1, 16, 3, padding=1), nn.BatchNorm1d(16), nn.ReLU(),
            nn.Conv1d(16, 24, 3, padding=1), nn.BatchNorm1d(24), nn.ReLU(),
            nn.Conv1d(24, 32, 3, padding=1), nn.BatchNorm1d(32), nn.ReLU(),
            nn.Flatten(), nn.Linear(32 * 8, K),
        )  # fmt: skip
        x, y = drawn([*range(K)], 600, seed=9)
        optimiser = torch.optim.Adam(self.parameters(), 0.01)
        for _ in range(40):
            optimiser.zero_grad()
            nn.functional.cross_entropy(self(x), y).backward()
            optimiser.step()
        self.requires_grad_(False)
        self.eval()


def right(model: nn.Module, x: Tensor, y: Tensor) -> float:
    """Share of right answers."""
    return float((model(x).argmax(1) == y).float().mean())

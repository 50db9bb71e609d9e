"""Train the demo's generic network on the generic part of the digits: python demo/train.py

Half a minute on one core. The same machine and PyTorch give the same file, bit for bit.
"""

from __future__ import annotations

import torch
from digits import WEIGHTS, DigitNet, preprocess
from people import scan, split
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as F

EPOCHS = 30
BATCH = 64


def shifted(x: Tensor) -> Tensor:
    """Move each image by up to a pixel each way: the only help that training gets."""
    padded = F.pad(x, (1, 1, 1, 1), value=float(x.min()))
    side = x.shape[-1]
    moves = torch.randint(3, (len(x), 2)).tolist()
    pairs = zip(padded, moves, strict=True)
    return torch.stack([p[:, i : i + side, j : j + side] for p, (i, j) in pairs])


def main() -> None:
    """Train, save, and print the accuracy on the images held out."""
    torch.manual_seed(0)
    torch.set_num_threads(1)  # sums in one order only
    torch.use_deterministic_algorithms(True)
    images, labels, held_out_images, held_out_labels = split()
    x = torch.stack([preprocess(scan(image)) for image in images])
    y = torch.from_numpy(labels)
    model = DigitNet()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.01)
    steps = EPOCHS * (len(x) // BATCH)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(EPOCHS):
        for batch in torch.randperm(len(x))[: len(x) // BATCH * BATCH].split(BATCH):
            loss = F.cross_entropy(model(shifted(x[batch])), y[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    save_file(model.eval().state_dict(), WEIGHTS)

    x = torch.stack([preprocess(scan(image)) for image in held_out_images])
    with torch.inference_mode():
        hits = int((model(x).argmax(1) == torch.from_numpy(held_out_labels)).sum())
    print(f"{WEIGHTS.name}: {hits}/{len(x)} of the held-out digits right ({hits / len(x):.1%})")


if __name__ == "__main__":
    main()

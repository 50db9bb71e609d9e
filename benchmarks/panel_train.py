"""Train the panel's networks for simulated signals, from scratch, where they are missing.

python benchmarks/panel_train.py [wearable beats]
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from panel_signals import KINDS, SEEDS
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn import functional as F

CHECKPOINTS = Path(__file__).parent.parent / "build" / "panel"
"""Where the trained networks go."""
TRAINING = {"wearable": (40, 30), "beats": (30, 300)}
"""People trained on, and samples of each: of an activity, or in all."""


def train(name: str, epochs: int = 15, batch: int = 128) -> nn.Module:
    """Train from scratch: the same machine and PyTorch give the same weights."""
    torch.manual_seed(0)
    torch.set_num_threads(1)  # sums in one order only
    simulate, build = KINDS[name]
    people, each = TRAINING[name]
    data, model = simulate(people, SEEDS["train"], each), build()
    steps = epochs * (len(data.x) // batch)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(epochs):
        for some in torch.randperm(len(data.x))[: len(data.x) // batch * batch].split(batch):
            loss = F.cross_entropy(model(data.x[some]), data.labels[some])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return model.eval()


def signal_network(name: str) -> nn.Module:
    """The trained network; it is trained where there is none yet, in a minute."""
    path = CHECKPOINTS / f"{name}.safetensors"
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file(train(name).state_dict(), path)
    model = KINDS[name][1]()
    model.load_state_dict(load_file(path))
    return model.eval()


def training_prior(name: str) -> list[float]:
    """How often each class came up in training."""
    simulate, _ = KINDS[name]
    people, each = TRAINING[name]
    labels = simulate(people, SEEDS["train"], each).labels
    return (labels.bincount() / len(labels)).tolist()


@torch.inference_mode()
def main() -> None:
    """Train what is missing, and print how well new people's samples are named."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", default=[*KINDS])
    for name in parser.parse_args().names:
        with torch.inference_mode(False):
            model = signal_network(name)
        data = KINDS[name][0](12, SEEDS["people"])
        answer = torch.cat([model(x) for x in data.x.split(500)]).argmax(1)
        right = answer == data.labels
        print(name, f"{right.float().mean():.1%}")
        for k in range(int(data.labels.max()) + 1):
            of = data.labels == k
            share, recall = of.float().mean(), right[of].float().mean()
            print(f"  {k} {share:7.1%} recall {recall:7.1%}")


if __name__ == "__main__":
    main()

"""Train the speech networks on the 18 training speakers; the six users are never looked at.

    python benchmarks/train_speech.py [dscnn dscnn-small transformer speller]
        [--missing] [--dev] [--smoke]

Each takes some minutes on two cores and goes to ``build/speech/NAME.safetensors``; with
``--missing`` those that are there are not trained again. With ``--dev``
four of the speakers are held out and tested on, and the name ends in ``-dev``: what follows was
chosen so, and so is whatever is to be chosen about pruning these networks. ``--smoke``: two
speakers and a few steps, only to see that it runs; the name ends in ``-smoke``.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from networks import CHECKPOINTS
from safetensors.torch import save_file
from speech_data import Recordings, held_out, recordings
from speech_networks import FLOOR, NETWORKS, LogMel, Reader, build, spell
from torch import Tensor, nn
from torch.nn import functional as F

EPOCHS = {"dscnn": 30, "dscnn-small": 60, "transformer": 40, "speller": 40}
BATCH, RATE, DECAY, SMOOTHING = 64, 3e-3, 0.05, 0.1
SEED = 0


# --- What a recording could have sounded like


@dataclass(frozen=True)
class Change:
    """Another speaker, room and microphone, at random for each clip.

    All of it happens to the power in mel bands ``(n, bands, frames)``, where it costs little: tempo
    and start, the length of the vocal tract (Jaitly and Hinton 2013), the colour of the microphone,
    noise of any colour, and masks (Park et al. 2019, arXiv 1904.08779).
    """

    mel: LogMel
    tempo: float = 0.1
    """Of a factor ``exp(u)``, the largest ``|u|``."""
    tract: float = 0.1
    """Likewise, of the scale of the bands."""
    start: float = 0.12
    """The largest shift, as a share of the clip."""
    colour: float = 3.0
    """Standard deviation in dB of each of four cosines over the bands."""
    noisy: float = 0.7
    """How often there is noise, at 0 to ``quietest`` dB below the speech."""
    quietest: float = 40.0
    masked: tuple[int, int] = (8, 6)
    """The most bands masked, and the part of the frames that is the most."""

    def __call__(self, power: Tensor) -> Tensor:
        """Spectrograms ``(n, 1, bands, frames)`` as the network sees them."""
        power = self._coloured(self._stretched(power))
        x = self.mel.log(power + self._noise(power))
        for dim, most in ((2, self.masked[0]), (3, x.shape[3] // self.masked[1])):
            x = self._mask(x, dim, most)
        return x

    def _stretched(self, power: Tensor) -> Tensor:
        n, bands, frames = power.shape
        tempo, tract = _uniform(n, self.tempo).exp(), _uniform(n, self.tract).exp()
        t = torch.linspace(-1, 1, frames) * tempo + 2 * _uniform(n, self.start)
        f = (torch.linspace(-1, 1, bands) + 1) * tract - 1
        grid = torch.stack(torch.broadcast_tensors(t[:, None, :], f[:, :, None]), -1)
        return F.grid_sample(power[:, None], grid, align_corners=True)[:, 0]

    def _coloured(self, power: Tensor) -> Tensor:
        n, bands, _ = power.shape
        waves = [torch.cos(math.pi * k * torch.linspace(0, 1, bands)) for k in range(1, 5)]
        decibel = self.colour * torch.randn(n, 4) @ torch.stack(waves)
        return power * 10 ** (decibel / 10)[:, :, None]

    def _noise(self, power: Tensor) -> Tensor:
        n, bands, _ = power.shape
        white = self.mel.mel.sum(1)
        colour = white * torch.linspace(0.1, 1, bands) ** (-2 * torch.rand(n, 1))
        colour = colour / colour.mean(1, keepdim=True)
        level = 10 ** (-self.quietest * torch.rand(n) / 10) * (torch.rand(n) < self.noisy)
        level = level[:, None, None] * power.mean((1, 2), keepdim=True)
        return level * colour[:, :, None] * torch.empty_like(power).exponential_()

    @staticmethod
    def _mask(x: Tensor, dim: int, most: int) -> Tensor:
        n, size = len(x), x.shape[dim]
        width = torch.randint(most + 1, (n, 1))
        start = (torch.rand(n, 1) * (size - width)).long()
        place = torch.arange(size)
        hidden = (place >= start) & (place < start + width)
        shape = (n, 1, -1, 1) if dim == 2 else (n, 1, 1, -1)
        return x.masked_fill(hidden.reshape(shape), math.log(FLOOR))


def _uniform(n: int, most: float) -> Tensor:
    return (2 * torch.rand(n, 1) - 1) * most


# --- Training


def word_loss(outputs: Tensor, said: Tensor, words: list[str]) -> Tensor:
    """Cross-entropy of the words, smoothed."""
    return F.cross_entropy(outputs, said, label_smoothing=SMOOTHING)


def spelling_loss(outputs: Tensor, said: Tensor, words: list[str]) -> Tensor:
    """CTC loss of the words' letters."""
    letters = [spell(words[i]) for i in said.tolist()]
    sizes = torch.tensor([len(word) for word in letters])
    frames = torch.full((len(outputs),), outputs.shape[1])
    log_p = outputs.log_softmax(-1).transpose(0, 1)
    return F.ctc_loss(log_p, torch.cat(letters), frames, sizes, zero_infinity=True)


def train(name: str, data: Recordings, epochs: int, steps: int | None = None) -> nn.Module:
    """A network after ``epochs`` over ``data``; ``steps``: stop after so many."""
    torch.manual_seed(SEED)
    model = build(name).train()
    model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    loss: Callable[..., Tensor] = spelling_loss if name == "speller" else word_loss
    change, power = Change(model.mel), powers(model.mel, data.waves)
    # What BatchNorm and LayerNorm scale by, and biases, need not be small.
    groups = [[p for p in model.parameters() if (p.ndim > 1) == large] for large in (True, False)]
    optimiser = torch.optim.AdamW(
        [{"params": groups[0], "weight_decay": DECAY}, {"params": groups[1], "weight_decay": 0.0}]
    )
    total = epochs * math.ceil(len(power) / BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, RATE, total, pct_start=0.15)
    for step, index in enumerate(batches(len(power), epochs)):
        if step == steps:
            break
        outputs = model.answer(change(power[index]))
        found = loss(outputs, data.said[index], data.words)
        optimiser.zero_grad()
        found.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 5.0)
        optimiser.step()
        schedule.step()
    return model.eval().to(memory_format=torch.contiguous_format)


def batches(count: int, epochs: int) -> Iterator[Tensor]:
    """Numbers of samples, in another order in every epoch."""
    for _ in range(epochs):
        yield from torch.randperm(count).split(BATCH)


def powers(mel: LogMel, waves: Tensor) -> Tensor:
    """The power of all recordings, once for all epochs."""
    return torch.cat([mel.power(part) for part in waves.split(200)])


@torch.inference_mode()
def accuracy(model: nn.Module, data: Recordings) -> float:
    """The share of words that are right: for the speller, of those with every letter."""
    outputs = torch.cat([model(part) for part in data.waves.split(100)])
    if outputs.ndim == 2:
        return float((outputs.argmax(1) == data.said).float().mean())
    heard = Reader().batch_decode(outputs.argmax(-1))
    said = [data.words[i] for i in data.said.tolist()]
    return sum(a == b for a, b in zip(heard, said, strict=True)) / len(said)


def main() -> None:
    """Train what is named."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(NETWORKS))
    parser.add_argument("--missing", action="store_true", help="only those that are not there")
    parser.add_argument("--dev", action="store_true", help="hold four speakers out")
    parser.add_argument("--smoke", action="store_true", help="two speakers, a few steps")
    args = parser.parse_args()
    names = args.names or [*NETWORKS]
    if unknown := [name for name in names if name not in NETWORKS]:
        parser.error(f"no network {unknown[0]!r}; there are {', '.join(NETWORKS)}")
    option = "-dev" * args.dev + "-smoke" * args.smoke
    files = {name: CHECKPOINTS / f"{name}{option}.safetensors" for name in names}
    if args.missing:
        files = {name: file for name, file in files.items() if not file.exists()}
    if not files:
        return
    data = recordings("train", 2 if args.smoke else None)
    test = data.of(held_out(data.speakers)) if args.dev else None
    if args.dev:
        data = data.of([s for s in data.speakers if s not in held_out(data.speakers)])
    CHECKPOINTS.mkdir(parents=True, exist_ok=True)
    for name, file in files.items():
        started = time.perf_counter()
        model = train(name, data, EPOCHS[name], 5 if args.smoke else None)
        seconds = time.perf_counter() - started
        save_file(model.state_dict(), file)
        right = f"; {accuracy(model, test):.1%} of held-out speakers right" if test else ""
        print(f"{file.name}: {seconds:.0f} s{right}", flush=True)


if __name__ == "__main__":
    main()

"""Accuracy on labelled data, as k/n with an interval, and told the classes beside it."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Iterable, Iterator, Mapping, Sized
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from .._errors import FinepruningError
from ..data.batches import Batch, logits_of
from ..data.padding import Unpad


def wilson(k: int, n: int, z: float = 1.96) -> tuple[float, float]:
    """Return Wilson's score interval for ``k`` hits in ``n`` trials (95 % with the default ``z``).

    >>> [round(p, 3) for p in wilson(157, 250)]
    [0.567, 0.686]
    """
    if not 0 <= k <= n or n < 1:
        raise FinepruningError(f"wilson: {k} hits in {n} trials; give 0 <= k <= n and n >= 1")
    p, square = k / n, z * z
    centre = p + square / (2 * n)
    half = z * math.sqrt(p * (1 - p) / n + square / (4 * n * n))
    low, high = (centre - half) / (1 + square / n), (centre + half) / (1 + square / n)
    # Exactly 0 and 1 at the ends, where rounding would leave 1e-17 or push past 1.
    return (0.0 if k == 0 else low, 1.0 if k == n else high)


@dataclass(frozen=True)
class Evaluation:
    """What :func:`evaluate` found: top-1 over all outputs, and over the labels' classes only.

    ``classes`` are the labels present. The ``told_`` figures restrict the outputs to these: how
    good the network is once someone tells it the person's classes, never a label-free result.
    """

    correct: int
    n: int
    interval: tuple[float, float]
    told_correct: int
    told_interval: tuple[float, float]
    classes: tuple[int, ...]
    latency: float = 0.0
    """Median over the batches of seconds a sample, the model alone."""

    @property
    def accuracy(self) -> float:
        return self.correct / self.n

    @property
    def told_accuracy(self) -> float:
        return self.told_correct / self.n

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON, with both accuracies."""
        extra = {"accuracy": self.accuracy, "told_accuracy": self.told_accuracy}
        return {**asdict(self), **extra}


def evaluate(
    model: nn.Module,
    batches: Iterable[Any],
    *,
    device: str | torch.device | None = None,
    progress: bool = True,
) -> Evaluation:
    """Count the correct answers of ``model`` on labelled batches.

    >>> evaluate(nn.Identity(), [(torch.eye(3), torch.tensor([0, 1, 1]))]).correct
    2

    ``batches`` yields ``(x, y)``: the input, a tensor or a dict of keyword inputs, and the output
    indices, int64 of shape ``(B,)``. The model may return logits ``(B, classes)``, or an object or
    dict with ``logits``. ``device``: move the model there first (default: run where it is). The
    model's training flags are put back. Raises :class:`FinepruningError` on no data, NaN logits, or
    labels that are not outputs.
    """
    device = moved(model, device)
    unpad = Unpad(lambda part: part.call(model))
    logits: list[Tensor] = []
    labels: list[Tensor] = []
    times: list[float] = []
    total = len(batches) if isinstance(batches, Sized) else None
    bar = tqdm(batches, "evaluate", total, disable=None if progress else True, delay=1)
    with evaluating(model), bar:
        for x, y in bar:
            begun = time.perf_counter()
            logits.append(predict(model, x, device, unpad))
            times.append((time.perf_counter() - begun) / max(1, len(logits[-1])))
            labels.append(torch.as_tensor(y).to("cpu", torch.int64))
            if labels[-1].shape != logits[-1].shape[:1]:
                raise FinepruningError(
                    f"evaluate: {tuple(logits[-1].shape)} logits for labels of shape"
                    f" {tuple(labels[-1].shape)}; give one label for each sample"
                )
    if not labels:
        raise FinepruningError("evaluate: no data; give at least one batch of (input, labels)")
    found = _count(torch.cat(logits), torch.cat(labels))
    return replace(found, latency=statistics.median(times))


def _count(logits: Tensor, labels: Tensor) -> Evaluation:
    n, outputs = logits.shape
    if labels.min() < 0 or labels.max() >= outputs:
        raise FinepruningError(
            f"evaluate: labels from {int(labels.min())} to {int(labels.max())}, but the network has"
            f" {outputs} outputs; give output indices, 0 to {outputs - 1}"
        )
    classes = torch.unique(labels)
    told, choice = logits[:, classes].max(dim=1)
    # A network whose read-out has silenced every one of the classes has not answered correctly.
    told_hits = (classes[choice] == labels) & (told > -math.inf)
    correct, told_correct = int((logits.argmax(1) == labels).sum()), int(told_hits.sum())
    return Evaluation(
        correct,
        n,
        wilson(correct, n),
        told_correct,
        wilson(told_correct, n),
        tuple(classes.tolist()),
    )


def moved(model: nn.Module, device: str | torch.device | None) -> torch.device:
    """Move the model to ``device`` where one is given; return the device that it is on."""
    if device is not None:
        model.to(device)
        return torch.device(device)
    tensors = [*model.parameters(), *model.buffers()]
    return tensors[0].device if tensors else torch.device("cpu")


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Within it the model is in evaluation mode and keeps no graph; its flags are put back."""
    training = {module: module.training for module in model.modules()}
    try:
        model.eval()
        with torch.inference_mode():
            yield
    finally:
        for module, flag in training.items():
            module.training = flag


def as_batch(x: Any) -> Batch:
    """One input of the model, a tensor or a mapping of keyword inputs, as a batch."""
    if not isinstance(x, Mapping):
        return Batch(x, len(x) if isinstance(x, Tensor) and x.ndim else 0)
    inputs = dict(x)
    tensors = [v for v in inputs.values() if isinstance(v, Tensor) and v.ndim]
    return Batch(inputs, len(tensors[0]) if tensors else 0)


def predict(
    model: nn.Module, x: Any, device: str | torch.device = "cpu", unpad: Unpad | None = None
) -> Tensor:
    """Return the logits ``(B, classes)`` of one batch, float32 on the CPU; NaN is an error."""
    batch = as_batch(x).to(torch.device(device))
    unpad = Unpad(lambda part: part.call(model)) if unpad is None else unpad
    outputs = [logits_of(part.call(model)) for part in unpad(batch)]
    output = torch.cat(outputs) if len(outputs) > 1 else outputs[0]
    if not isinstance(output, Tensor) or output.ndim != 2:
        what = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
        raise FinepruningError(
            f"evaluate: the model returned {what}; it must return logits (batch, classes)"
        )
    output = output.float().cpu()
    if output.isnan().any():
        raise FinepruningError(
            "evaluate: the model returned NaN; check its weights and the preprocessing"
        )
    return output

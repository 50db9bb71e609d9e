"""Answer: what the network's outputs are, and which classes of theirs the person has."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from .._errors import FinepruningError
from ..core.options import choice
from ..core.readout import Readout, ReadoutOptions, read_out
from ..core.task import ClassifierOptions, is_classifier
from .observation import Observation

PROBLEMS = {
    "single_label_classification": "classes",
    "multi_label_classification": "labels",
    "regression": "values",
}
"""What the configuration of a Hugging Face model says."""
CLASSIFIERS = ("torchvision.models.", "timm.models.", "finepruning.hub.resnet")
"""Where the classes of published image classifiers are defined; with this many outputs they are
as published."""
PUBLISHED = 1000


@dataclass(frozen=True)
class TaskOptions:
    """What the outputs are, and what the user knows of them."""

    kind: str = choice("auto", "classes", "labels", "values", "tokens")
    """``classes``: one answer a sample; ``labels``: many; ``values``: numbers, embeddings;
    ``tokens``: a vocabulary; ``auto``: as the network shows."""
    classes: tuple[int | str, ...] | None = None
    """The only ones that can come up, numbers or names."""
    names: tuple[str, ...] | None = None
    """Of all outputs."""
    prior: tuple[float, ...] | None = None
    """How often each came up in training."""
    shown: ClassifierOptions = field(default_factory=ClassifierOptions)
    """What a classifier is told by."""

    def __post_init__(self) -> None:
        for name, kinds in (("classes", (int, str)), ("names", (str,)), ("prior", (int, float))):
            given = getattr(self, name)
            if given is None:
                continue
            if isinstance(given, str) or not isinstance(given, Iterable):
                raise FinepruningError(f"task.{name}={given!r}: give a list")
            given = tuple(v.item() if hasattr(v, "item") else v for v in given)
            if wrong := [v for v in given if not isinstance(v, kinds) or isinstance(v, bool)]:
                raise FinepruningError(f"task.{name}: {wrong[0]!r} is no {kinds[-1].__name__}")
            object.__setattr__(self, name, given)
        if self.prior is not None and not all(0 < v < math.inf for v in self.prior):
            raise FinepruningError("task.prior: every class needs a frequency above 0")


def task_of(model: nn.Module, seen: Observation, options: TaskOptions) -> tuple[str, str]:
    """What the outputs of ``model`` are, ``unknown`` where that does not show; and, where there can
    be no read-out, why.

    Raises :class:`FinepruningError` where the user's ``options`` cannot be.
    """
    trace = seen.trace
    asked = options.kind
    if asked == "auto" and options.classes is not None:
        asked = "classes"
    if asked == "classes":
        return asked, trace.readout_refused
    if options.classes is not None:
        raise FinepruningError(f"classes: there are none where task={asked!r}; leave one out")
    if asked == "auto":
        asked = _shown(model, seen, options)
    if trace.readout_refused:
        return asked, trace.readout_refused
    if asked == "unknown":
        return asked, (
            f"it does not show whether the {trace.outputs} outputs are classes: if they are, say"
            ' task="classes" (--task classes)'
        )
    return asked, "" if asked == "classes" else f"the outputs are {asked}, not classes"


def _shown(model: nn.Module, seen: Observation, options: TaskOptions) -> str:
    """What the network shows by itself of its outputs."""
    head, outputs = seen.trace.head, seen.trace.outputs
    if seen.trace.end == "sigmoid":
        return "labels"
    config: Any = getattr(model, "config", None)
    problem = PROBLEMS.get(getattr(config, "problem_type", None) or "")
    if problem:
        return problem
    if type(model).__name__.endswith("Classification") and hasattr(config, "num_labels"):
        return "classes" if config.num_labels > 1 else "values"
    if seen.trace.end or (outputs == PUBLISHED and type(model).__module__.startswith(CLASSIFIERS)):
        return "classes"
    if head is None or seen.logits is None:
        return "unknown"
    weight = head.matrix()[0].double().cpu().numpy()
    logits = seen.logits.double().numpy()
    return "classes" if is_classifier(logits, weight, options.shown) else "unknown"


def names_of(model: nn.Module, options: TaskOptions, outputs: int) -> tuple[str, ...] | None:
    """What the outputs are called: as the user says, or as the model's configuration does."""
    if options.names is not None:
        return options.names if len(options.names) == outputs else None
    labels = getattr(getattr(model, "config", None), "id2label", None)
    if not isinstance(labels, dict) or {*labels} != {*range(outputs)}:
        return None
    names = tuple(str(labels[k]) for k in range(outputs))
    return None if names[0] == "LABEL_0" else names


def answers(logits: NDArray[np.float64], task: TaskOptions, options: ReadoutOptions) -> Readout:
    """The read-out, with what the user knows of the classes."""
    K = logits.shape[1]
    prior = None
    if task.prior is not None:
        prior = np.array(task.prior, dtype=np.float64)
        if len(prior) != K:
            raise FinepruningError(f"class_prior: {len(prior)} numbers for {K} outputs; give {K}")
    allowed = None if task.classes is None else numbers_of(task.classes, task.names, K)
    return read_out(logits, options, allowed=allowed, class_prior=prior)


MOST = 1024
"""Samples that halves are made of, evenly spaced."""


def halves_agree(
    logits: NDArray[np.float64], task: TaskOptions, options: ReadoutOptions
) -> float | None:
    """On which share of the samples two halves of them agree, each read out alone; None: there are
    too few."""
    if len(logits) < 4:
        return None
    if len(logits) > MOST:
        logits = logits[np.linspace(0, len(logits) - 1, MOST).round().astype(int)]
    one, two = (
        (logits + answers(half, task, options).shift).argmax(1)
        for half in (logits[::2], logits[1::2])
    )
    return float((one == two).mean())


def numbers_of(
    classes: Sequence[int | str], names: Sequence[str] | None, outputs: int
) -> NDArray[np.int64]:
    """Numbers of the user's classes, in order.

    >>> numbers_of(["cat", 0], ["dog", "bird", "cat"], 3).tolist()
    [0, 2]
    """
    if names is not None and len(names) != outputs:
        raise FinepruningError(f"class_names: {len(names)} names for {outputs} outputs")
    found = set()
    for one in classes:
        if isinstance(one, str):
            if names is None:
                raise FinepruningError(
                    f"classes: {one!r} is a name; give class_names= as well, or numbers"
                )
            if (count := [*names].count(one)) != 1:
                raise FinepruningError(
                    f"classes: {count} outputs are named {one!r}; give its number"
                )
            one = [*names].index(one)
        if not 0 <= one < outputs:
            raise FinepruningError(f"classes: no {one}; the outputs are 0 to {outputs - 1}")
        found.add(int(one))
    if not found:
        raise FinepruningError("classes: none is given; give one at least, or leave it out")
    return np.array(sorted(found))

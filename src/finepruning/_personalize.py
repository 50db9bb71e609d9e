"""The one verb: a network and a person's samples in, a personal network out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from ._config import AUTO, Config
from ._errors import FinepruningError
from ._result import Result
from ._run import run


def personalize(
    model: nn.Module,
    batches: Any,
    *,
    sparsity: float | str | None = None,
    tolerance: float | None = None,
    macs: float | None = None,
    params: float | None = None,
    latency: float | None = None,
    effort: str | None = None,
    readout: bool | None = None,
    seed: int | None = None,
    task: str | None = None,
    classes: Sequence[int | str] | None = None,
    class_names: Sequence[str] | None = None,
    class_prior: Sequence[float] | None = None,
    device: str | torch.device | None = None,
    progress: bool = True,
    config: Config | None = None,
) -> Result:
    """Make ``model`` sparse and more accurate for one person, from unlabelled data, forward only.

    >>> import torch
    >>> net = torch.nn.Sequential(torch.nn.Linear(8, 32), torch.nn.ReLU(), torch.nn.Linear(32, 4))
    >>> result = personalize(net, torch.randn(64, 8), sparsity=0.5)
    >>> round(result.report.sparsity, 2)
    0.5

    ``batches`` is a tensor ``(N, ...)`` or any iterable, also a one-shot one, of tensors, of tuples
    ``(inputs, labels)`` (labels are ignored) or of dicts of keyword inputs. It is read once.
    ``model`` may be on any device and in any floating dtype; it is left untouched. ``device`` is
    where to work (default: where the model is). ``progress`` shows bars on a terminal.

    ``sparsity`` is the share of the weights to remove. By default (``auto``) it is the largest at
    which, of 100 answers, at most ``100 * tolerance`` (default 12) change beside the dense network
    with its read-out, as samples held back tell; these are taken in again for the final fit.

    ``macs``, ``params`` or ``latency`` is the share of the multiply-accumulates, of the weights, or
    of one sample's time on this machine, that is to stay: then whole channels go, and
    :func:`finepruning.shrink` makes a smaller network of it. That network comes back even where it
    answers worse: the report says so. How much goes for a ``latency`` differs from run to run.

    ``effort`` (``best``, ``fast`` or ``paper``; default ``best``), ``readout`` (default True) and
    ``seed`` (default 0) are what else is chosen most often. ``config`` holds all choices, these
    included: give one or the other.

    ``task`` says what the outputs are: ``classes`` (one answer a sample), ``labels`` (many),
    ``values`` (numbers, embeddings) or ``tokens``; only classes are read out. By default (``auto``)
    it is what the network shows; where that is not sure nothing is read out, and the report says
    how to ask. ``classes`` are the only ones that can come up, numbers or, with ``class_names`` of
    all outputs, names: no other is answered from then on. ``class_prior`` ``(K,)`` says how often
    each class came up in training.

    Where personalising would not help this person, as far as samples held back can tell, the
    network that comes back is the dense one, and the report says so (``check``).

    The same inputs and seed give the same bits. Raises :class:`FinepruningError` for data, models
    or choices that cannot be used.
    """
    settings = _chosen(
        sparsity,
        tolerance,
        macs,
        params,
        latency,
        effort,
        readout,
        seed,
        task,
        classes,
        class_names,
        class_prior,
        config,
    )
    where = place(model, device)
    return run(model, batches, settings, where, progress)


def _chosen(
    sparsity: float | str | None,
    tolerance: float | None,
    macs: float | None,
    params: float | None,
    latency: float | None,
    effort: str | None,
    readout: bool | None,
    seed: int | None,
    task: str | None,
    classes: Sequence[int | str] | None,
    class_names: Sequence[str] | None,
    class_prior: Sequence[float] | None,
    config: Config | None,
) -> Config:
    """All choices, from those that are made most often or from a record of all."""
    known = {"kind": task, "classes": classes, "names": class_names, "prior": class_prior}
    outputs = {name: value for name, value in known.items() if value is not None} or None
    targets = {"macs": macs, "params": params, "latency": latency}
    structure = {name: value for name, value in targets.items() if value is not None}
    chosen: dict[str, Any] = {"sparsity": sparsity, "effort": effort, "readout": readout}
    chosen |= {"structure": structure or None, "seed": seed, "task": outputs, "choice": tolerance}
    settings = _settings({k: v for k, v in chosen.items() if v is not None}, config)
    if tolerance is not None and settings.sparsity != AUTO:
        raise FinepruningError(
            f"tolerance={tolerance!r}: says how a sparsity is chosen, and"
            f" sparsity={settings.sparsity!r} is given; leave one out"
        )
    return settings


def place(model: nn.Module, device: str | torch.device | None) -> torch.device:
    """Where to work."""
    if not isinstance(model, nn.Module) or isinstance(model, torch.jit.ScriptModule):
        raise FinepruningError(f"model: a {type(model).__name__}; give a plain torch.nn.Module")
    try:
        where = torch.device(device) if device is not None else _device_of(model)
    except RuntimeError as error:
        raise FinepruningError(f"device={device!r}: not a device; give 'cpu' or 'cuda'") from error
    if where.type == "cuda" and not torch.cuda.is_available():
        raise FinepruningError(f"device={device!r}: PyTorch sees no CUDA device; give 'cpu'")
    return where


def _settings(given: dict[str, Any], config: Config | None) -> Config:
    if config is None:
        return Config(**given)
    if not isinstance(config, Config):
        raise FinepruningError(f"config: a {type(config).__name__}; give a finepruning.Config")
    if given:
        name, value = next(iter(given.items()))
        raise FinepruningError(
            f"{name}={value!r} and a config: give one or the other, for example"
            f" config=Config({name}={value!r}, ...)"
        )
    return config


def _device_of(model: nn.Module) -> torch.device:
    first = next(model.parameters(), None)
    return torch.device("cpu") if first is None else first.device

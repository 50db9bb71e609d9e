"""The one verb: observe, norms, read out, plan, prune, account."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from ._config import AUTO, Config
from ._errors import FinepruningError
from ._prune import Pruner, add_shift
from .artifact.fingerprint import fingerprint
from .artifact.save import save
from .core.readout import Readout
from .data.batches import Batch, count_items, read_batches
from .data.padding import unpadded
from .data.tokens import started, transcribed, writes_tokens
from .network.engine import Engine
from .network.find import Found, find_layers
from .network.norms import Norm, find_norms
from .report.account import Report, account
from .report.memory import PeakMemory
from .steps.answer import answers, halves_agree, names_of, task_of
from .steps.check import check, worth_having
from .steps.norms import Following, following, normalise_anew
from .steps.observation import Observation
from .steps.observe import observe
from .steps.prune import Pruning
from .steps.samples import Distinct

DENSE = "the dense weights are returned"
UNSURE = "it is not sure to help"
PUBLISHED = 0.7
"""The paper's sparsity: its rule has nothing to choose by."""


@dataclass(frozen=True)
class Result:
    """A personalised network, and what was done to get it."""

    model: nn.Module
    """The new module, in evaluation mode: same inputs and outputs as the one given."""
    report: Report
    base: str
    """Fingerprint of the module that was given (SHA-256)."""
    pruned: tuple[str, ...]
    changed: tuple[str, ...]

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the artifact, a folder of its own, at ``path``: all or nothing, nothing
        overwritten."""
        report = self.report.to_dict()
        save(path, self.model, [*self.pruned], [*self.changed], self.base, report)


def personalize(
    model: nn.Module,
    batches: Any,
    *,
    sparsity: float | str | None = None,
    tolerance: float | None = None,
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
    which, of 100 answers, at most ``100 * tolerance`` (default 10) change beside the dense network
    with its read-out, as samples held back tell; these are taken in again for the final fit.

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
    known = {"kind": task, "classes": classes, "names": class_names, "prior": class_prior}
    outputs = {name: value for name, value in known.items() if value is not None} or None
    chosen: dict[str, Any] = {"sparsity": sparsity, "effort": effort, "readout": readout}
    chosen |= {"seed": seed, "task": outputs, "choice": tolerance}
    settings = _settings({k: v for k, v in chosen.items() if v is not None}, config)
    if tolerance is not None and settings.sparsity != AUTO:
        raise FinepruningError(
            f"tolerance={tolerance!r}: says how a sparsity is chosen, and"
            f" sparsity={settings.sparsity!r} is given; leave one out"
        )
    if not isinstance(model, nn.Module) or isinstance(model, torch.jit.ScriptModule):
        raise FinepruningError(f"model: a {type(model).__name__}; give a plain torch.nn.Module")
    try:
        where = torch.device(device) if device is not None else _device_of(model)
    except RuntimeError as error:
        raise FinepruningError(f"device={device!r}: not a device; give 'cpu' or 'cuda'") from error
    if where.type == "cuda" and not torch.cuda.is_available():
        raise FinepruningError(f"device={device!r}: PyTorch sees no CUDA device; give 'cpu'")
    # Within somebody's inference mode the copy's parameters could never be trained again.
    with torch.inference_mode(False), torch.no_grad(), PeakMemory(where) as memory:
        return _Run(model, where, settings, progress, memory).result(batches)


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


class _Run:
    """One personalisation."""

    def __init__(
        self,
        model: nn.Module,
        device: torch.device,
        config: Config,
        progress: bool,
        memory: PeakMemory,
    ) -> None:
        self.started = time.perf_counter()
        self.model, self.config, self.progress, self.memory = model, config, progress, memory
        _check_weights(model)
        self.base = fingerprint(model)
        self.engine = Engine(model, device)
        self.found = find_layers(self.engine.model)
        self.sparsity = config.sparsity
        if self.sparsity == AUTO and config.effort == "paper":
            self.sparsity = PUBLISHED
        self._choosing = self.sparsity == AUTO
        self._hold_back = (0.0, 0)
        if config.check.enabled or self._choosing:
            held = config.choice if self._choosing else config.check
            self._hold_back = held.share, held.most
        self.distinct = Distinct()
        self._need_layers(self.found)

    def result(self, batches: Any) -> Result:
        config, engine = self.config, self.engine
        seen, follows = self._dense(batches)
        observed = time.perf_counter()
        found = seen.found
        self._need_layers(found)
        task, answer, halves, refused = self._read(seen)
        if answer is not None and answer.trust and config.check.enabled:
            worth = worth_having(seen, answer, config.check)
            answer, refused = (worth, "") if worth else (_changing_nothing(answer, seen), UNSURE)
        choice, checked, fitted = None, None, seen
        pruning = Pruning({}, None, 0.0)
        work = Pruner(engine, found, seen, answer, config, self._bar)
        if self._choosing:
            choice = work.choose(task)
            checked, fitted = choice.check, seen.with_held()
            work = replace(work, seen=fitted)
        sparsity = self.sparsity if choice is None else choice.sparsity
        if sparsity is not None:
            pruning = work.prune(float(sparsity))
            # What was judged was the path; the final fit has seen the samples held back, but where
            # it failed, these show it all the same.
            again = check(engine, seen, task, answer, config.check, config.choice, self._choosing)
            checked = again if checked is None or not again.passed else checked
        assert checked is not None
        solves = sum(layer.macs for layer in pruning.layers.values())
        pruned_at = time.perf_counter()
        engine.finish([*found.layers, *find_norms(engine.model)])
        self._check_fit()
        if not checked.passed:
            engine = _dense_again(self.model, engine)
            found = find_layers(engine.model).without(found.skipped)
            pruning = Pruning({}, None, pruning.seconds)
            if answer is not None and answer.shift.any():
                add_shift(found, seen, answer)
            else:
                answer, refused = None, DENSE
        seconds = {
            "observe": observed - self.started,
            "dense_forward": seen.forward_seconds,
            "prune": pruned_at - observed,
            "solve": pruning.seconds,
            "total": time.perf_counter() - self.started,
        }
        report = account(
            config, found, fitted, pruning.layers, answer=answer, refused=refused, norms=follows,
            agreement=pruning.agreement, seconds=seconds, peak_memory=self.memory.above_start(),
            task=task, check=checked, choice=choice, halves=halves,
            warnings=self.distinct.warnings(config.warn),
            solves=solves,
            names=names_of(self.model, config.task, seen.trace.outputs or 0),
        )  # fmt: skip
        pruned, changed = _parameter_names(engine.model, self.model, found)
        if not checked.passed:
            pruned = ()
        return Result(engine.model, report, self.base, pruned, changed)

    def _dense(self, batches: Any) -> tuple[Observation, Following]:
        """What the dense network does on the data, its norms following the person or not."""
        options, norms = self.config.norms, find_norms(self.engine.model)
        watched = norms if self.config.effort != "paper" else ()
        real = self.distinct.once(self._real(batches))
        seen = self._observe(real, count_items(batches), watched)
        follows = following(
            watched,
            seen.norms,
            options,
            padded=any(batch.mask is not None for batch in seen.calibration),
        )
        if not follows.applied:
            return seen, follows
        calibration, samples, seconds = seen.calibration, seen.samples, seen.forward_seconds
        usable = [norm for norm in norms if norm.name in seen.norms]
        both = (*calibration, *seen.held)
        del seen  # before as much is held again
        normalise_anew(self.engine, usable, calibration, options.share)
        again = self._observe(both, None, ())
        return again.of_all(samples, seconds), follows

    def _observe(
        self, samples: Iterable[Batch], count: int | None, norms: Iterable[Norm]
    ) -> Observation:
        with self._bar("observe", count) as bar:
            return observe(
                self.engine, self.found, norms, samples, options=self.config.observe,
                seed=self.config.seed, batch_count=count, step=bar.update,
                hold_back=self._hold_back, refit=self._choosing,
            )  # fmt: skip

    def _read(self, seen: Observation) -> tuple[str, Readout | None, float | None, str]:
        """What the outputs are, which classes of theirs the person has, how far two halves of the
        samples agree on the answers, and why there is no read-out."""
        config = self.config
        task, refused = task_of(self.model, seen, config.task)
        if not config.readout.enabled:
            paper = config.effort == "paper"
            refused = "the published rule has none" if paper else "readout=False"
        elif not refused and self.distinct.different < 2:
            refused = "all samples are the same"
        if refused or seen.logits is None:
            return task, None, None, refused
        logits = seen.logits.double().numpy()
        answer = answers(logits, config.task, config.readout)
        return task, answer, halves_agree(logits, config.task, config.readout), ""

    def _real(self, batches: Any) -> Iterator[Batch]:
        """The data as calls of the model: without padding, with all that the model needs."""
        engine = self.engine
        writer, longest = writes_tokens(engine.model), self.config.observe.transcript

        def call(batch: Batch) -> None:
            with torch.no_grad():
                started(engine.model, batch.to(engine.device)).call(engine.replica())

        for batch in unpadded(read_batches(batches), call):
            if writer:
                yield from transcribed(engine.replica(), batch.to(engine.device), longest)
            else:
                yield batch

    def _need_layers(self, found: Found) -> None:
        if not found.layers:
            why = "; ".join(f"{name}: {reason}" for name, reason in [*found.skipped.items()][:2])
            raise FinepruningError(
                f"model: a {type(self.model).__name__} without prunable layers"
                f" ({why or 'none found'}); it takes Linear, Conv1d/2d/3d or attention"
            )

    def _check_fit(self) -> None:
        for parameter in self.engine.model.parameters():
            if not bool(parameter.isfinite().all()):
                raise FinepruningError(
                    "model: the fit gave NaN or infinite weights; please report this"
                )

    def _bar(self, name: str, total: int | None) -> Any:
        """A progress bar on stderr: only on a terminal, only for what takes longer than a
        second."""
        disable = None if self.progress else True
        return _Bar(desc=name, total=total, delay=1, disable=disable, leave=False)


class _Bar(tqdm):  # type: ignore[type-arg]
    """A bar without the thread that watches over all bars, which would outlive the work."""

    monitor_interval = 0


def _check_weights(model: nn.Module) -> None:
    for name, value in model.state_dict().items():
        if isinstance(value, nn.UninitializedParameter):
            raise FinepruningError(f"model: {name!r} is not initialised; run the model once first")
        floats = isinstance(value, Tensor) and value.is_floating_point()
        if floats and not bool(value.isfinite().all()):
            raise FinepruningError(
                f"model: {name!r} holds NaN or infinite values; load a sound checkpoint"
            )


def _device_of(model: nn.Module) -> torch.device:
    first = next(model.parameters(), None)
    return torch.device("cpu") if first is None else first.device


def _changing_nothing(answer: Readout, seen: Observation) -> Readout:
    """The same, believed not at all."""
    assert seen.logits is not None
    classes = len(np.unique(seen.logits.numpy().argmax(1)))
    return replace(answer, shift=np.zeros_like(answer.shift), trust=0.0, classes=classes)


def _dense_again(model: nn.Module, engine: Engine) -> Engine:
    """The network as it was given, but for batch norms that follow the person, as asked."""
    dense = Engine(model, engine.device)
    for norm, followed in zip(find_norms(dense.model), find_norms(engine.model), strict=True):
        norm.module.load_state_dict(followed.module.state_dict())
    dense.finish()
    return dense


def _parameter_names(
    personal: nn.Module, model: nn.Module, found: Found
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Names of the pruned weights, and of all other parameters that differ from the given
    model's."""
    weights = {layer.stored.untyped_storage().data_ptr() for layer in found.layers}
    given = dict(model.named_parameters())
    pruned, changed = [], []
    for name, value in personal.named_parameters():
        if value.untyped_storage().data_ptr() in weights:
            pruned.append(name)
        elif name not in given or not torch.equal(value, given[name].detach().to(value.device)):
            changed.append(name)
    return tuple(pruned), tuple(changed)

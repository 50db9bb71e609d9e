"""The one verb: observe, norms, read out, plan, prune, account."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from ._config import Config
from ._errors import FinepruningError
from .artifact.fingerprint import fingerprint
from .artifact.save import save
from .core.plan import budget, plan
from .core.readout import Readout
from .data.batches import Batch, count_items, read_batches
from .data.padding import unpadded
from .data.tokens import started, transcribed, writes_tokens
from .network.engine import Engine
from .network.find import Found, find_layers
from .network.layers import precise
from .network.norms import Norm, find_norms
from .report.account import Report, account
from .report.memory import PeakMemory
from .steps.answer import answers, halves_agree, task_of
from .steps.check import check
from .steps.norms import Following, following, normalise_anew
from .steps.observe import Observation, observe
from .steps.paper import prune_by_activity
from .steps.prune import Pruning, Teaching, prune
from .steps.samples import Distinct

DENSE = "the dense weights are returned"


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
    sparsity: float | None = None,
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

    ``sparsity`` (default 0.7), ``effort`` (``best``, ``fast`` or ``paper``; default ``best``),
    ``readout`` (default True) and ``seed`` (default 0) are what is chosen most often. ``config``
    holds all choices, these included: give one or the other.

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
    chosen |= {"seed": seed, "task": outputs}
    settings = _settings({k: v for k, v in chosen.items() if v is not None}, config)
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
        held = config.check
        self._hold_back = (held.share, held.most) if held.enabled else (0.0, 0)
        self.distinct = Distinct()
        self._need_layers(self.found)

    def result(self, batches: Any) -> Result:
        config, engine = self.config, self.engine
        seen, follows = self._dense(batches)
        observed = time.perf_counter()
        found = seen.found
        self._need_layers(found)
        task, answer, halves, refused = self._read(seen)
        silent = _silent_rows(seen, answer)
        keep = self._budget(found)
        pruning = Pruning({}, None, 0.0)
        if config.effort == "paper":
            passes = config.paper.steps * len(seen.calibration)
            with self._bar("prune", passes) as bar:
                prune_by_activity(engine, found, seen.calibration, keep, config.paper, bar.update)
        else:
            pruning = self._prune(found, seen, silent, keep, answer)
        pruned_at = time.perf_counter()
        _add_shift(found, seen, answer)
        checked = check(engine, seen, answer, config.check)
        engine.finish([*found.layers, *find_norms(engine.model)])
        self._check_fit()
        if not checked.passed:
            engine = _dense_again(self.model, engine)
            found = find_layers(engine.model).without(found.skipped)
            pruning = Pruning({}, None, pruning.seconds)
            if checked.readout:
                _add_shift(found, seen, answer)
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
            config, found, seen, pruning.layers, answer=answer, refused=refused, norms=follows,
            agreement=pruning.agreement, seconds=seconds, peak_memory=self.memory.above_start(),
            task=task, check=checked, halves=halves, warnings=self.distinct.warnings(config.warn),
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
                hold_back=self._hold_back,
            )  # fmt: skip

    def _prune(
        self,
        found: Found,
        seen: Observation,
        silent: dict[str, Tensor],
        keep: int,
        answer: Readout | None,
    ) -> Pruning:
        config = self.config
        weights = {layer.name: precise(layer.matrix()) for layer in found.layers}
        keeps = plan(weights, seen.evidence, silent, keep, config.plan)
        del weights
        head, teaching = seen.trace.head, None
        if config.neighbours.weight and answer is not None and head is not None:
            teaching = Teaching(head, torch.from_numpy(answer.shift), config.neighbours)
        with self._bar("prune", len(keeps)) as bar:
            return prune(
                self.engine, found, seen, keeps, silent, config.fit,
                step=bar.update, teaching=teaching,
            )  # fmt: skip

    def _budget(self, found: Found) -> int:
        """How many weights of the layers found are kept."""
        keep = budget(found.weights, self.config.sparsity) - found.weights_skipped
        if keep < len(found.layers):
            raise FinepruningError(
                f"sparsity={self.config.sparsity}: would leave {max(0, keep)} weights for"
                f" {len(found.layers)} layers ({found.weights_skipped} of {found.weights} are in"
                " layers left alone); give a lower sparsity"
            )
        return keep

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


def _silent_rows(seen: Observation, answer: Readout | None) -> dict[str, Tensor]:
    """Outputs that never come up, as the user says."""
    head = seen.trace.head
    if answer is None or head is None or answer.prior.all():
        return {}
    return {head.name: torch.from_numpy(answer.prior == 0).to(head.weight.device)}


def _add_shift(found: Found, seen: Observation, answer: Readout | None) -> None:
    """Fold the read-out into the bias of the last layer, one of ``found``."""
    if answer is None or seen.trace.head is None:
        return
    head = next(layer for layer in found.layers if layer.name == seen.trace.head.name)
    shift = torch.from_numpy(answer.shift)
    bias = head.bias if head.bias is not None else head.weight.new_zeros(len(shift))
    head.write_bias(bias + shift.to(bias))


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

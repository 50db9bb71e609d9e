"""A run: observe, norms, read out, plan, prune, account."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from ._config import AUTO, Config
from ._errors import FinepruningError
from ._prune import Pruner, add_shift, need_room, notes_on
from ._result import Result
from .artifact.fingerprint import fingerprint
from .artifact.kept import Past, remember
from .core.drift import DEVICE, Usual, familiar, judge, movement
from .core.readout import Readout
from .data.batches import Batch, count_items, read_batches
from .data.padding import unpadded
from .data.tokens import started, transcribed, writes_tokens
from .network.engine import Engine
from .network.find import Found, find_layers, same_layers
from .network.layers import Layer
from .network.norms import Norm, find_norms, holds_statistics
from .network.shifts import fold_shifts
from .network.values import is_plain, parts_of
from .report.account import account
from .report.memory import PeakMemory
from .steps.answer import answers, halves_agree, names_of, task_of
from .steps.check import Check, check, worth_having
from .steps.mirror import Mirrored, beside_mirrored, mirrored_alone
from .steps.norms import Following, following, normalise_anew
from .steps.observation import Observation
from .steps.observe import observe, space_for
from .steps.prune import Pruning
from .steps.samples import Distinct
from .steps.statistics import Statistics, align_norms
from .steps.trace import looked_at
from .steps.watch import as_arrays, look

DENSE = "the dense weights are returned"
UNSURE = "it is not sure to help"
STAYS = "they were returned before; give sparsity='auto' to try again"
PUBLISHED = 0.7
"""The paper's sparsity: its rule has nothing to choose by."""


def run(
    model: nn.Module,
    batches: Any,
    config: Config,
    device: torch.device,
    progress: bool,
    past: Past | None = None,
) -> Result:
    """Personalise, beside what is known of a ``past``."""
    # Within somebody's inference mode the copy's parameters could never be trained again.
    with torch.inference_mode(False), torch.no_grad(), PeakMemory(device) as memory:
        result = _Run(model, device, config, progress, memory, past).result(batches)
    if result.statistics is not None:
        remember(result.model, result.statistics)
    return result


def real_batches(engine: Engine, batches: Any, longest: int) -> Iterator[Batch]:
    """The data as calls of the model: without padding, with all that the model needs; transcripts
    are of ``longest`` tokens at most."""
    writer = writes_tokens(engine.model)

    def call(batch: Batch) -> None:
        with torch.no_grad():
            started(engine.model, batch.to(engine.device)).call(engine.replica())

    for batch in unpadded(read_batches(batches), call):
        if writer:
            yield from transcribed(engine.replica(), batch.to(engine.device), longest)
        else:
            yield batch


class _Run:
    """One personalisation."""

    def __init__(
        self,
        model: nn.Module,
        device: torch.device,
        config: Config,
        progress: bool,
        memory: PeakMemory,
        past: Past | None,
    ) -> None:
        self.started = time.perf_counter()
        self.model, self.config, self.progress, self.memory = model, config, progress, memory
        _check_weights(model)
        self.base = fingerprint(model)
        self.engine = Engine(model, device)
        self.past, self.aligned = None, False
        if past is not None:
            self.past = past.statistics.capped(config.update.remember)
            self.earlier = past.model
            _adopt_norms(self.engine.model, past.model)
        self.found = find_layers(self.engine.model)
        self.sparsity: float | str | None = config.sparsity
        if past is not None and past.dense:
            self.sparsity = None
        if self.sparsity == AUTO and config.effort == "paper":
            self.sparsity = PUBLISHED
        self._restructuring = config.structure.wanted and not (past is not None and past.dense)
        self._choosing = self.sparsity == AUTO and not self._restructuring
        self._hold_back = (0.0, 0)
        if config.check.enabled or self._choosing:
            held = config.choice if self._choosing else config.check
            self._hold_back = held.share, held.most
        self.distinct = Distinct()
        self._need_layers(self.found)
        if isinstance(self.sparsity, float):
            need_room(self.found, self.sparsity)

    def result(self, batches: Any) -> Result:
        config, engine = self.config, self.engine
        fresh, follows = self._dense(batches)
        observed = time.perf_counter()
        found, past = fresh.found, self.past
        seen = fresh
        if past is not None:
            seen = past.beside(fresh, same_layers(found, engine.model, self.earlier))
        self._need_layers(found)
        task, answer, halves, refused = self._read(seen)
        if answer is not None and answer.trust and config.check.enabled:
            worth = worth_having(seen, answer, config.check)
            answer, refused = (worth, "") if worth else (_changing_nothing(answer, seen), UNSURE)
        choice, fitted = None, seen
        checked = Check(0, False, STAYS)
        pruning = Pruning({}, None, 0.0)
        notes: tuple[str, ...] = ()
        chosen, mirrored = 0.0, Mirrored()
        work = Pruner(engine, found, seen, answer, config, self._bar)
        if self._choosing:
            choice = work.choose(task)
            checked, fitted = choice.check, seen.with_held()
            work = replace(work, seen=fitted)
        sparsity = self.sparsity if choice is None else choice.sparsity
        if self._restructuring:
            both, mirrored = self._mirrored(seen)
            pruning, chosen, timed = replace(work, seen=both).restructure()
            checked = check(engine, seen, task, answer, config.check, config.choice, False)
            notes = (*timed, *notes_on(config, found, seen, checked))
            # It was asked to cost less, not to be better: what that costs is told.
            checked = replace(checked, passed=True)
        elif sparsity is not None:
            pruning = work.prune(float(sparsity))
            # What was judged was the path; the final fit has seen the samples held back, but where
            # it failed, these show it all the same.
            again = check(engine, seen, task, answer, config.check, config.choice, self._choosing)
            checked = checked if choice is not None and again.passed else again
        solves = sum(layer.macs for layer in pruning.layers.values())
        solves += fresh.macs + pruning.keeping + chosen
        pruned_at = time.perf_counter()
        engine.finish([*found.layers, *find_norms(engine.model)])
        offsets = fold_shifts(found.layers)
        self._check_fit()
        if not checked.passed:
            engine = _dense_again(self.model, engine)
            dense, _, _ = looked_at(engine, find_layers(engine.model), seen.calibration[0])
            found = dense.without(found.skipped)
            pruning, offsets = Pruning({}, None, pruning.seconds), {}
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
            warnings=(*self._warnings(), *notes), update=self._updated(),
            solves=solves, mirrored=mirrored,
            names=names_of(self.model, config.task, seen.trace.outputs or 0),
        )  # fmt: skip
        sparse = found.layers if checked.passed else ()
        pruned, changed = _parameter_names(engine.model, self.model, sparse)
        statistics = None
        if fresh.inputs:
            statistics = Statistics.of(
                fresh, pruning.inputs, answer, past, seen.logits if task == "classes" else None
            )
            statistics = replace(statistics.compacted(config.observe.rank), offsets=offsets)
        plain = engine.made_plain
        moving = tuple(sorted(self.engine.moving & self.model.state_dict().keys()))
        base = fingerprint(self.model, moving) if moving else self.base
        return Result(engine.model, report, base, pruned, changed, statistics, plain, moving)

    def _warnings(self) -> tuple[str, ...]:
        few = self.config.warn if self.past is None else replace(self.config.warn, few=0)
        return self.distinct.warnings(few)

    def _updated(self) -> dict[str, Any] | None:
        """What is told of an update."""
        if self.past is None:
            return None
        return {"remembered": round(self.past.samples), "aligned": self.aligned}

    def _dense(self, batches: Any) -> tuple[Observation, Following]:
        """What the dense network does on the data, its norms following the person or not."""
        config = self.config
        options, norms = config.norms, find_norms(self.engine.model)
        watched = norms if self.config.effort != "paper" else ()
        real = self.distinct.once(real_batches(self.engine, batches, config.observe.transcript))
        seen = self._observe(real, count_items(batches), watched)
        follows = following(
            watched,
            seen.norms,
            options,
            padded=any(batch.mask is not None for batch in seen.calibration),
        )
        align = not follows.applied and self._from_another_device(seen)
        if not follows.applied and not align:
            return seen, follows
        calibration, first = seen.calibration, seen.light()
        usable = [norm for norm in norms if norm.name in seen.norms]
        both = (*calibration, *seen.held)
        del seen  # before as much is held again
        if align:
            assert self.past is not None
            share = first.samples / (first.samples + self.config.update.doubt)
            align_norms(self.engine, usable, both, self.past.norms, share)
        else:
            normalise_anew(self.engine, usable, calibration, options.share)
        if self.past is not None:  # what norms and layers see is that of this device from now on
            self.past = replace(self.past, usual=Usual({}, 1.0), norms={})
        again = self._observe(both, None, watched)
        return again.of_all(first), follows

    def _from_another_device(self, seen: Observation) -> bool:
        """Whether the new samples have come from another device than the earlier ones."""
        if self.past is None or not (self.past.norms.keys() & seen.norms.keys()):
            return False
        options, past = self.config.drift, self.past
        new = {name: means.double().numpy() for name, means in seen.means.items()}
        if movement(past.usual, new, options=options).p > options.false_alarms / 2:
            return False
        batches = (*seen.calibration, *seen.held)
        looked = look(self.engine, seen.found, batches, self.config.observe, self.config.seed)
        new, logits = as_arrays(looked)
        known = None if past.logits is None else familiar(past.logits.double().numpy())
        self.aligned = judge(past.usual, known, new, logits, options).cause == DEVICE
        return self.aligned

    def _observe(
        self, samples: Iterable[Batch], count: int | None, norms: Iterable[Norm]
    ) -> Observation:
        with self._bar("observe", count) as bar:
            return observe(
                self.engine, find_layers(self.engine.model), norms, samples,
                options=self.config.observe,
                seed=self.config.seed, batch_count=count, step=bar.update,
                hold_back=self._hold_back, refit=self._choosing,
            )  # fmt: skip

    def _mirrored(self, seen: Observation) -> tuple[Observation, Mirrored]:
        """``seen`` with the pictures mirrored beside them, where these are answered alike."""
        limit, options = self.config.structure.mirror, self.config.observe
        room = space_for(seen.trace, options) - seen.calibration_samples
        others = mirrored_alone(seen, room) if limit else ()
        if sum(batch.size for batch in others) < 2:
            return seen, Mirrored()
        with self._bar("mirror", len(others)) as bar:
            again = observe(
                self.engine, seen.found, (), others,
                options=options, seed=self.config.seed, batch_count=None, step=bar.update,
            )  # fmt: skip
        return beside_mirrored(seen, again, limit)

    def _read(self, seen: Observation) -> tuple[str, Readout | None, float | None, str]:
        """What the outputs are, which classes of theirs the person has, how far two halves of the
        samples agree on the answers, and why there is no read-out."""
        config = self.config
        task, refused = task_of(self.model, seen, config.task)
        if not config.readout.enabled:
            paper = config.effort == "paper"
            refused = "the published rule has none" if paper else "readout=False"
        elif not refused and self.distinct.different < 2 and self.past is None:
            refused = "all samples are the same"
        if refused or seen.logits is None:
            return task, None, None, refused
        logits = seen.logits.double().numpy()
        answer = answers(logits, config.task, config.readout)
        return task, answer, halves_agree(logits, config.task, config.readout), ""

    def _need_layers(self, found: Found) -> None:
        if not found.layers:
            why = "; ".join(f"{name}: {reason}" for name, reason in [*found.skipped.items()][:2])
            raise FinepruningError(
                f"model: a {type(self.model).__name__} without prunable layers"
                f" ({why or 'none found'}); it takes Linear, Conv1d/2d/3d or attention"
            )

    def _check_fit(self) -> None:
        for parameter in self.engine.model.parameters():
            if is_plain(parameter) and not bool(parameter.isfinite().all()):
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
    statistics = ("running_mean", "running_var")
    buffers = {n for n, _ in model.named_buffers() if not n.endswith(statistics)}
    for name, value in model.state_dict().items():
        if isinstance(value, nn.UninitializedParameter):
            raise FinepruningError(f"model: {name!r} is not initialised; run the model once first")
        if not isinstance(value, Tensor):
            continue
        if value.device.type == "meta":
            raise FinepruningError(f"model: {name!r} has no values (meta); load the weights first")
        numbers = parts_of(value)[-1]
        if not numbers.is_floating_point():
            continue
        # A mask may hold minus infinity; a weight may not.
        wrong = numbers.float().isnan() if name in buffers else ~numbers.float().isfinite()
        if bool(wrong.any()):
            raise FinepruningError(
                f"model: {name!r} holds NaN or infinite values; load a sound checkpoint"
            )


def _changing_nothing(answer: Readout, seen: Observation) -> Readout:
    """The same, believed not at all."""
    assert seen.logits is not None
    classes = len(np.unique(seen.logits.numpy().argmax(1)))
    return replace(answer, shift=np.zeros_like(answer.shift), trust=0.0, classes=classes)


def _adopt_norms(model: nn.Module, earlier: nn.Module) -> None:
    """Batch norms as another network of the same kind has them."""
    # By name: shifts that the earlier one has taken up make it look as if it held statistics.
    for norm in find_norms(model):
        for p, value in earlier.get_submodule(norm.name).named_parameters():
            norm.module.get_parameter(p).copy_(value)


def _dense_again(model: nn.Module, engine: Engine) -> Engine:
    """The network as it was given, but for batch norms that follow the person, as asked."""
    dense = Engine(model, engine.device)
    _adopt_norms(dense.model, engine.model)
    dense.finish()
    return dense


def _parameter_names(
    personal: nn.Module, model: nn.Module, layers: Sequence[Layer]
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Names of the pruned weights, and of all other parameters that differ from the given
    model's."""
    weights = {layer.stored.untyped_storage().data_ptr() for layer in layers}
    given = dict(model.named_parameters())
    pruned, changed = [], []
    for name, value in personal.named_parameters():
        if value.untyped_storage().data_ptr() in weights:
            pruned.append(name)
        elif name not in given or not torch.equal(value, given[name].detach().to(value.device)):
            changed.append(name)
    # Of what is no parameter, the means of batch norms that have taken up a shift.
    norms = {f"{n}.running_mean" for n, m in personal.named_modules() if holds_statistics(m)}
    before = dict(model.named_buffers())
    for name, buffer in personal.named_buffers():
        if name in norms and not torch.equal(buffer, before[name].to(buffer.device)):
            changed.append(name)
    return tuple(pruned), tuple(changed)

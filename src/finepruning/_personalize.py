"""The one verb: observe, plan, prune, repair, read out, account."""

from __future__ import annotations

import copy
import os
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from ._account import Report, account
from ._config import Config
from ._errors import FinepruningError
from ._find import Found, find_layers
from ._layers import Layer
from ._memory import PeakMemory
from ._norms import Norm, find_norms, how_far, normalise_anew, watched, why_kept
from ._observe import Observation, as_array, observe, precise
from ._paper import STEPS, prune_by_activity
from ._plan import budget, global_threshold, relative_saliency, spared, spread
from ._prune import Pruned, prune, with_neighbours
from ._readout import Readout, read_out
from ._scratch import Scratch
from .artifact.fingerprint import fingerprint
from .artifact.save import save
from .data.batches import Batch, count_items, read_batches
from .data.padding import unpadded
from .data.tokens import started, transcribed, writes_tokens


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
    sparsity: float = 0.7,
    effort: str = "best",
    readout: bool = True,
    seed: int = 0,
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
    where to work (default: where the model is). ``progress`` shows bars on a terminal. ``config``
    replaces ``sparsity``, ``effort``, ``readout`` and ``seed`` and sets the rest.

    The same inputs and seed give the same bits. Raises :class:`FinepruningError` for data or models
    that cannot be used.
    """
    if config is None:
        config = Config(sparsity=sparsity, effort=effort, readout=readout, seed=seed)
    if not isinstance(config, Config):
        raise FinepruningError(f"config: a {type(config).__name__}; give a finepruning.Config")
    if not isinstance(model, nn.Module) or isinstance(model, torch.jit.ScriptModule):
        raise FinepruningError(f"model: a {type(model).__name__}; give a plain torch.nn.Module")
    try:
        where = torch.device(device) if device is not None else _device_of(model)
    except RuntimeError as error:
        raise FinepruningError(f"device={device!r}: not a device; give 'cpu' or 'cuda'") from error
    if where.type == "cuda" and not torch.cuda.is_available():
        raise FinepruningError(f"device={device!r}: PyTorch sees no CUDA device; give 'cpu'")
    # Within somebody's inference mode the copy's parameters could never be trained again.
    with torch.inference_mode(False), torch.no_grad():
        return _run(model, batches, where, config, progress)


def _run(
    model: nn.Module, batches: Any, where: torch.device, config: Config, progress: bool
) -> Result:
    started = time.perf_counter()
    _check_weights(model)
    base = fingerprint(model)
    memory = PeakMemory(where)
    try:
        personal = copy.deepcopy(model).eval().to(where)
    except (RuntimeError, TypeError) as error:
        raise FinepruningError(f"model: cannot be copied ({error}); give a plain module") from error
    personal.requires_grad_(False)
    found = find_layers(personal)
    _need_layers(found, model)
    scratch = Scratch(personal)

    def look(samples: Iterable[Batch], count: int | None) -> Observation:
        with _bar(progress, "observe", count) as bar:
            return observe(
                personal,
                found,
                samples,
                device=where,
                positions=config.positions if config.effort == "best" else config.positions // 8,
                inputs_every=8 if config.effort == "best" else 1,
                memory=config.memory,
                seed=config.seed,
                batch_count=count,
                step=bar.update,
            )

    norms = find_norms(personal) if config.norms and config.effort != "paper" else []
    with watched(personal, norms) as watch:
        seen = look(_real(personal, batches, where), count_items(batches))
    seen.forward_seconds -= watch.seconds
    kept = _norms_kept(norms, seen, config)
    follow = {"applied": not kept, "reason": kept, "moved": how_far(norms)}
    if not kept:
        dense = seen
        del seen  # before as much is held again
        normalise_anew(personal, norms, dense.calibration, config.norms, where)
        dense.outputs.clear()
        seen = look(dense.calibration, None)
        seen.samples, seen.forward_seconds = dense.samples, dense.forward_seconds
    observed = time.perf_counter()

    leave_uncalled(found, seen)
    _need_layers(found, model)
    answer, refused = _read(seen, config)
    silent = _silent_rows(seen, answer)
    total = sum(layer.size for layer in found.layers) + found.weights_skipped
    keep_total = budget(total, config.sparsity) - found.weights_skipped
    if keep_total < len(found.layers):
        raise FinepruningError(
            f"sparsity={config.sparsity}: would leave {max(0, keep_total)} weights for"
            f" {len(found.layers)} layers ({found.weights_skipped} of {total} are in layers left"
            " alone); give a lower sparsity"
        )

    done: dict[str, Pruned] = {}
    solving = 0.0
    if config.effort == "paper":
        with _bar(progress, "prune", STEPS * len(seen.calibration)) as bar:
            prune_by_activity(
                personal, found, seen.calibration, found.layers, keep_total, where,
                config.positions, bar.update,
            )  # fmt: skip
    else:
        keep = plan_layers(found.layers, seen, silent, keep_total, config)
        with _bar(progress, "prune", len(keep)) as bar:
            head, fit = seen.trace.head, None
            if config.effort == "best" and config.neighbours and answer is not None and head:
                fit = with_neighbours(head, torch.from_numpy(answer.shift), config.neighbours)
            pruning = prune(personal, found, seen, keep, silent, config, where, bar.update, fit)
        done, solving = pruning.layers, pruning.seconds
    pruned_at = time.perf_counter()

    if answer is not None and seen.trace.head is not None:
        head = seen.trace.head
        bias = head.bias if head.bias is not None else torch.zeros(seen.trace.outputs, device=where)
        head.write(head.matrix().clone(), bias + torch.from_numpy(answer.shift).to(bias))

    for parameter in personal.parameters():
        if not bool(parameter.isfinite().all()):
            raise FinepruningError(
                "model: the fit gave NaN or infinite weights; please report this"
            )
    scratch.take()  # nothing of the person's data stays on the network
    seconds = {
        "observe": observed - started,
        "dense_forward": seen.forward_seconds,
        "prune": pruned_at - observed,
        "solve": solving,
        "total": time.perf_counter() - started,
    }
    report = account(
        found, seen, done, answer, refused, follow, config, seconds, total, memory.above_start()
    )
    pruned, changed = _parameter_names(personal, model, found.layers)
    return Result(personal, report, base, pruned, changed)


def _real(model: nn.Module, batches: Any, where: torch.device) -> Iterator[Batch]:
    """The person's data as calls of the model: without padding, with all that the model needs."""

    def call(batch: Batch) -> None:
        with torch.inference_mode():
            started(model, batch.to(where)).call(model)

    for batch in unpadded(read_batches(batches), call):
        yield from transcribed(model, batch.to(where) if writes_tokens(model) else batch)


def _need_layers(found: Found, model: nn.Module) -> None:
    if not found.layers:
        why = "; ".join(f"{name}: {reason}" for name, reason in [*found.skipped.items()][:2])
        raise FinepruningError(
            f"model: a {type(model).__name__} without prunable layers ({why or 'none found'});"
            " it takes Linear, Conv1d/2d/3d or attention"
        )


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


def leave_uncalled(found: Found, seen: Observation) -> None:
    """Leave out of ``found`` the layers that no calibration sample reached, and say so."""
    for layer in [
        la
        for la in found.layers
        if not seen.outputs.get(la.name, {}) and la.name not in seen.repeated
    ]:
        found.layers.remove(layer)
        found.skipped[layer.name] = "never called on the calibration data"
        found.weights_skipped += layer.size


def _read(seen: Observation, config: Config) -> tuple[Readout | None, str]:
    if not config.readout:
        return None, "readout=False"
    if config.effort == "paper":
        return None, "the published rule has none"
    if seen.trace.head is None or seen.logits is None:
        return None, seen.trace.readout_refused
    return read_out(as_array(seen.logits.double())), ""


def _norms_kept(norms: list[Norm], seen: Observation, config: Config) -> str:
    """Why the batch norms stay as they are; empty: they are to follow the person."""
    if not norms:
        chosen = not config.norms or config.effort == "paper"
        return "not asked for" if chosen else "there are none with statistics"
    # Where there are no classes to be missed, only what has moved can tell.
    trust = 1.0 if seen.logits is None else read_out(as_array(seen.logits.double())).trust
    return why_kept(norms, trust, any(batch.mask is not None for batch in seen.calibration))


def _silent_rows(seen: Observation, answer: Readout | None) -> dict[str, Tensor]:
    if answer is None or seen.trace.head is None or not answer.silent.any():
        return {}
    head = seen.trace.head
    return {head.name: torch.from_numpy(answer.silent).to(head.weight.device)}


def plan_layers(
    layers: Iterable[Layer],
    seen: Observation,
    silent: dict[str, Tensor],
    keep: int,
    config: Config,
) -> dict[str, int]:
    """How many weights each layer keeps, of ``keep`` in all; silent rows hold none of them."""
    scores = {}
    for layer in layers:
        dense = seen.inputs[layer.name]
        score = relative_saliency(
            precise(layer.matrix()), dense.input_variance(), dense.output_variance()
        )
        if layer.name in silent:
            score = score[:, ~silent[layer.name]]
        scores[layer.name] = as_array(score)
    whole = spared({name: score.shape for name, score in scores.items()}, keep)
    scores = {name: score for name, score in scores.items() if name not in whole}
    sizes = {name: score.size for name, score in scores.items()}
    keep -= sum(whole.values())
    return whole | spread(sizes, global_threshold(scores, keep), keep, config.planned)


def _parameter_names(
    personal: nn.Module, model: nn.Module, layers: Iterable[Layer]
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
    return tuple(pruned), tuple(changed)


def _bar(wanted: bool, name: str, total: int | None) -> Any:
    """A progress bar on stderr: only on a terminal, only for what takes longer than a second."""
    return tqdm(desc=name, total=total, delay=1, disable=None if wanted else True, leave=False)

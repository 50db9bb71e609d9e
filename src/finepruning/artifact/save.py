"""Writing an artifact: all of it, or nothing."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from .._errors import FinepruningError
from ..steps.statistics import Statistics
from .fingerprint import is_of
from .folder import write_folder
from .layout import FORMAT, JSON, VALUES, Values, check_place, read_about
from .statistics import to_tensors
from .values import stored


def save(
    path: str | os.PathLike[str],
    model: nn.Module,
    pruned: list[str],
    changed: list[str],
    base: str,
    report: dict[str, Any],
    *,
    statistics: Statistics | None = None,
    replace: bool = False,
    source: dict[str, Any] | None = None,
    plain: Mapping[str, Any] | None = None,
    moving: Sequence[str] = (),
    key: bytes | None = None,
    values: Values = "exact",
    given: nn.Module | None = None,
) -> None:
    """Write the artifact for ``model`` at ``path``: all or nothing, also where the process is
    killed meanwhile.

    ``pruned`` and ``changed`` name the parameters that are stored as mask and values, and as they
    are; ``key`` is what it is sealed with; ``values`` says what is stored of the former, for which
    ``given``, the base network, may be needed. Raises :class:`FinepruningError` where ``path``
    cannot be written, or exists and is not to be ``replace`` d.
    """
    if values not in VALUES:
        raise FinepruningError(f"values={values!r}: give one of {', '.join(VALUES)}")
    needed = values in ("differences", "mask")
    if needed and (given is None or not is_of(given, base, moving)):
        raise FinepruningError(f"values={values!r}: needs the network that was personalised")
    out = Path(path)
    there = replace and out.exists()
    if not there:
        check_place(out)
    # Nothing is replaced that is no artifact.
    before = read_about(out, key) if there else None
    about: dict[str, Any] = {"format": FORMAT, "base": base, "pruned": pruned, "changed": changed}
    if values != "exact":
        about["values"] = values
    if moving:
        about["moving"] = [*moving]
    if plain:
        about["plain"] = dict(plain)
    if source is not None:
        about["source"] = source
    parts = {"personal": _tensors(model, pruned, changed, values, given)}
    if statistics is not None:
        parts["statistics"] = to_tensors(statistics)
    about["report"] = report
    write_folder(out, JSON, about, parts, key=key, private=("statistics",), before=before)


def _tensors(
    model: nn.Module,
    pruned: list[str],
    changed: list[str],
    values: Values,
    given: nn.Module | None,
) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = {}
    for name in pruned:
        before = None if given is None else _weight_of(given, name)
        tensors |= stored(name, model.get_parameter(name), before, values)
    for name in changed:
        tensors[name] = tensor_of(model, name).detach().cpu().clone()
    return tensors


def _weight_of(given: nn.Module, name: str) -> Tensor:
    """A weight as the base computes it, where it does not store it."""
    owner, _, key = name.rpartition(".")
    found: Tensor = getattr(given.get_submodule(owner), key)
    return found


def tensor_of(model: nn.Module, name: str) -> Tensor:
    """A parameter or buffer by its name."""
    owner, _, key = name.rpartition(".")
    tensor: Tensor = getattr(model.get_submodule(owner), key)
    return tensor

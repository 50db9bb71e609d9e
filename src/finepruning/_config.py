"""All choices of a personalisation, in one frozen record that is saved beside the tensors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, is_dataclass, replace
from typing import TYPE_CHECKING, Any

from ._errors import FinepruningError
from .core.check import CheckOptions
from .core.choose import ChoiceOptions
from .core.drift import DriftOptions
from .core.fit import FitOptions
from .core.neighbours import NeighbourOptions
from .core.options import number, problem
from .core.plan import PlanOptions
from .core.readout import ReadoutOptions
from .steps.answer import TaskOptions
from .steps.norms import NormOptions
from .steps.observation import ObserveOptions
from .steps.paper import PaperOptions
from .steps.samples import WarnOptions
from .steps.statistics import UpdateOptions
from .steps.structure import StructureOptions

PRESETS: dict[str, dict[str, Any]] = {
    "best": {
        "task": TaskOptions(),
        "observe": ObserveOptions(),
        "norms": NormOptions(),
        "readout": ReadoutOptions(),
        "plan": PlanOptions(),
        "neighbours": NeighbourOptions(),
        "fit": FitOptions(),
        "structure": StructureOptions(),
        "check": CheckOptions(),
        "choice": ChoiceOptions(),
        "drift": DriftOptions(),
        "update": UpdateOptions(),
        "warn": WarnOptions(),
        "paper": PaperOptions(),
    },
}
_fewer = ObserveOptions(positions=1000, inputs_every=1)
PRESETS["fast"] = PRESETS["best"] | {
    "observe": _fewer,
    "neighbours": NeighbourOptions(weight=0.0),
    "fit": FitOptions(method="rescale"),
}
PRESETS["paper"] = PRESETS["fast"] | {
    "observe": replace(_fewer, rank=0),
    "readout": ReadoutOptions(enabled=False),
    "check": CheckOptions(enabled=False),
}
"""What each effort stands for."""

AUTO = "auto"
"""The sparsity that is chosen by what it does."""

Given = Mapping[str, Any] | None
"""What differs from the preset."""

DIALS = {
    "task": "kind",
    "norms": "share",
    "readout": "enabled",
    "plan": "tempering",
    "neighbours": "weight",
    "check": "enabled",
    "choice": "tolerance",
    "drift": "false_alarms",
}
"""The one value that a part may be given as."""


@dataclass(frozen=True)
class Config:
    """All choices of one personalisation, every constant of the method among them.

    >>> config = Config(sparsity=0.5, effort="fast", norms={"share": 0.1}, readout=False)
    >>> config.fit.method, config.norms.share, config.norms.moved, config.readout.enabled
    ('rescale', 0.1, 0.035, False)

    ``effort`` is a preset of all parts: ``best`` compensates, ``fast`` scores and repairs,
    ``paper`` is the published rule alone. A part that is given says what differs from the preset: a
    mapping of some of its values, a whole record, or, for those in ``DIALS``, its main value
    alone, as in ``task="classes"``, ``norms=0.25``, ``readout=False`` and ``check=False``. The
    defaults are what the benchmarks chose.

    Raises :class:`FinepruningError` where a value is out of range, and names it.
    """

    sparsity: float | str = AUTO
    """Zeros wanted, as a share of *all* weights of Conv and Linear layers, in [0, 1); or ``auto``:
    as many as there can be while few answers change, see ``choice``."""
    effort: str = "best"
    seed: int = number(0, 0, 2**63 - 1)
    """Draws the positions that are sampled, and the calibration samples where there are too
    many."""
    task: TaskOptions = field(default=None)  # type: ignore[assignment]
    observe: ObserveOptions = field(default=None)  # type: ignore[assignment]
    norms: NormOptions = field(default=None)  # type: ignore[assignment]
    readout: ReadoutOptions = field(default=None)  # type: ignore[assignment]
    plan: PlanOptions = field(default=None)  # type: ignore[assignment]
    neighbours: NeighbourOptions = field(default=None)  # type: ignore[assignment]
    fit: FitOptions = field(default=None)  # type: ignore[assignment]
    structure: StructureOptions = field(default=None)  # type: ignore[assignment]
    check: CheckOptions = field(default=None)  # type: ignore[assignment]
    choice: ChoiceOptions = field(default=None)  # type: ignore[assignment]
    drift: DriftOptions = field(default=None)  # type: ignore[assignment]
    update: UpdateOptions = field(default=None)  # type: ignore[assignment]
    warn: WarnOptions = field(default=None)  # type: ignore[assignment]
    paper: PaperOptions = field(default=None)  # type: ignore[assignment]

    if TYPE_CHECKING:
        # What may be given is more than what is held: mappings, and main values alone.
        def __init__(
            self,
            sparsity: float | str = AUTO,
            effort: str = "best",
            seed: int = 0,
            task: TaskOptions | Given | str = None,
            observe: ObserveOptions | Given = None,
            norms: NormOptions | Given | float = None,
            readout: ReadoutOptions | Given | bool = None,
            plan: PlanOptions | Given | float = None,
            neighbours: NeighbourOptions | Given | float = None,
            fit: FitOptions | Given = None,
            structure: StructureOptions | Given = None,
            check: CheckOptions | Given | bool = None,
            choice: ChoiceOptions | Given | float = None,
            drift: DriftOptions | Given | float = None,
            update: UpdateOptions | Given = None,
            warn: WarnOptions | Given = None,
            paper: PaperOptions | Given = None,
        ) -> None: ...

    def __post_init__(self) -> None:
        if not isinstance(self.effort, str) or self.effort not in PRESETS:
            raise FinepruningError(f"effort={self.effort!r}: choose one of {', '.join(PRESETS)}")
        for name, preset in PRESETS[self.effort].items():
            part = _part(name, preset, getattr(self, name))
            object.__setattr__(self, name, part)
        _check(self)
        targets = ("macs", "params", "latency")
        asked = [name for name in targets if getattr(self.structure, name) is not None]
        if len(asked) > 1:
            raise FinepruningError(f"structure: {' and '.join(asked)}; give one of them")
        if self.structure.wanted and (self.sparsity != AUTO or self.effort != "best"):
            given = "sparsity" if self.sparsity != AUTO else "effort"
            raise FinepruningError(
                f"{given}={getattr(self, given)!r}: says how single weights go, and structure asks"
                " for whole channels; leave one out"
            )
        if self.sparsity != AUTO and not _is_share(self.sparsity):
            raise FinepruningError(
                f"sparsity={self.sparsity!r}: must be {AUTO!r}, or a number from 0 up to, not"
                " including, 1, such as 0.7"
            )

    def to_dict(self) -> dict[str, Any]:
        """All of it as plain values, ready for ``json.dumps``."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Config:
        """The record that :meth:`to_dict` gave; what is missing is the preset's.

        >>> Config.from_dict(Config(sparsity=0.5).to_dict()) == Config(sparsity=0.5)
        True
        """
        unknown = sorted(values.keys() - {f.name for f in fields(cls)})
        if unknown:
            raise FinepruningError(f"config: no {unknown[0]!r}; there are {_names(cls)}")
        return cls(**values)


def _is_share(value: Any) -> bool:
    number_ = isinstance(value, int | float) and not isinstance(value, bool)
    return number_ and 0 <= value < 1


def _part(name: str, preset: Any, given: Any) -> Any:
    """A part of the record: the preset, but for what is given."""
    if given is None:
        return preset
    if isinstance(given, type(preset)):
        return given
    if isinstance(given, int | float | str) and name in DIALS:
        given = {DIALS[name]: given}
    if not isinstance(given, Mapping):
        raise FinepruningError(
            f"{name}={given!r}: give a mapping of what differs from the preset, of {_names(preset)}"
        )
    unknown = sorted(given.keys() - {f.name for f in fields(preset)})
    if unknown:
        raise FinepruningError(f"{name}: no {unknown[0]!r}; there are {_names(preset)}")
    inner = {
        key: _part(f"{name}.{key}", held, value) if is_dataclass(held) else value
        for key, value in given.items()
        for held in [getattr(preset, key)]
    }
    return replace(preset, **inner)


def _check(record: Any, where: str = "") -> None:
    for declared in fields(record):
        value = getattr(record, declared.name)
        if wrong := problem(record, declared.name):
            raise FinepruningError(f"{where}{declared.name}={value!r}: {wrong}")
        if is_dataclass(value):
            _check(value, f"{where}{declared.name}.")


def _names(record: Any) -> str:
    return ", ".join(f.name for f in fields(record))

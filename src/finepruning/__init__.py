"""finepruning: make a pretrained network personal from unlabelled data, forward passes only.

>>> import finepruning
>>> result = finepruning.personalize(model, batches, sparsity=0.7)  # doctest: +SKIP
>>> result.save("me/")  # doctest: +SKIP
>>> model = finepruning.load("me/", base)  # doctest: +SKIP

From a name and a folder, as the command does it:

>>> loaded = finepruning.load_model("torchvision:resnet50", "resnet50.pth")  # doctest: +SKIP
>>> loaded = loaded.preparing_images(resize=256, crop=224)  # doctest: +SKIP
>>> photos = finepruning.open_folder("photos/", loaded)  # doctest: +SKIP
>>> result = finepruning.personalize(loaded.model, photos)  # doctest: +SKIP
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from ._version import __version__

if TYPE_CHECKING:
    from ._config import Config
    from ._errors import FinepruningError
    from ._many import Fleet, personalize_many
    from ._monitor import Drift, Monitor, monitor
    from ._personalize import personalize
    from ._result import Result
    from ._update import update
    from .artifact.bank import Bank
    from .artifact.layout import read_report
    from .artifact.load import load
    from .data.audio import AudioFolder
    from .data.front_end import FrontEnd
    from .data.images import ImageFolder
    from .data.pictures import Preprocess
    from .deploy.export import export
    from .deploy.runtime import Deployed
    from .deploy.shrink import Small, load_small, shrink
    from .hub import Loaded, class_folders, load_model, open_folder
    from .hub.share import pull, push
    from .network.kinds import register_layer
    from .network.layers import Layer
    from .report.account import LayerReport, Report
    from .scoring.accuracy import Evaluation, evaluate, wilson
    from .scoring.classes import match_classes
    from .scoring.texts import find_texts
    from .scoring.transcripts import Transcription, evaluate_transcripts

_ROOMS = {
    "Config": "_config",
    "FinepruningError": "_errors",
    "Fleet": "_many",
    "personalize_many": "_many",
    "Drift": "_monitor",
    "Monitor": "_monitor",
    "monitor": "_monitor",
    "Result": "_result",
    "update": "_update",
    "personalize": "_personalize",
    "Bank": "artifact.bank",
    "read_report": "artifact.layout",
    "load": "artifact.load",
    "AudioFolder": "data.audio",
    "FrontEnd": "data.front_end",
    "ImageFolder": "data.images",
    "Preprocess": "data.pictures",
    "Loaded": "hub",
    "class_folders": "hub",
    "load_model": "hub",
    "open_folder": "hub",
    "pull": "hub.share",
    "push": "hub.share",
    "Deployed": "deploy.runtime",
    "Small": "deploy.shrink",
    "export": "deploy.export",
    "load_small": "deploy.shrink",
    "shrink": "deploy.shrink",
    "register_layer": "network.kinds",
    "Layer": "network.layers",
    "LayerReport": "report.account",
    "Report": "report.account",
    "Evaluation": "scoring.accuracy",
    "evaluate": "scoring.accuracy",
    "wilson": "scoring.accuracy",
    "match_classes": "scoring.classes",
    "find_texts": "scoring.texts",
    "Transcription": "scoring.transcripts",
    "evaluate_transcripts": "scoring.transcripts",
}
"""Where each public name lives. None is called like a module or sub-package of this folder: the
import of that one would put itself in the name's place."""

__all__ = [
    "AudioFolder",
    "Bank",
    "Config",
    "Deployed",
    "Drift",
    "Evaluation",
    "FinepruningError",
    "Fleet",
    "FrontEnd",
    "ImageFolder",
    "Layer",
    "LayerReport",
    "Loaded",
    "Monitor",
    "Preprocess",
    "Report",
    "Result",
    "Small",
    "Transcription",
    "__version__",
    "class_folders",
    "evaluate",
    "evaluate_transcripts",
    "export",
    "find_texts",
    "load",
    "load_model",
    "load_small",
    "match_classes",
    "monitor",
    "open_folder",
    "personalize",
    "personalize_many",
    "pull",
    "push",
    "read_report",
    "register_layer",
    "shrink",
    "update",
    "wilson",
]


def __getattr__(name: str) -> Any:
    """Import a public name when it is first asked for: ``finepruning --help`` needs no PyTorch."""
    if name not in _ROOMS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        value = getattr(import_module(f".{_ROOMS[name]}", __name__), name)
    except AttributeError as error:
        # hasattr() would take it for a name that is not there, and hide what is broken.
        raise ImportError(f"{__name__}.{name} cannot be imported: {error}") from error
    globals()[name] = value  # not asked for again
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

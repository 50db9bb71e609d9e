"""What a comparison needs beside the public names. Internal: it may change from version to version.

The benchmarks import from :mod:`finepruning` and from here, and from nowhere else. With these parts
another rule runs in the same passes: an :class:`Engine` copies the network, :func:`observe` gives
the evidence of its layers, :func:`plan` says how much each keeps, and :func:`prune` takes any
``fit(W, evidence, keep, options) -> Solution``.
"""

from .artifact.seal import ZEROS, sealed
from .artifact.sizes import sizes_of
from .core.arrays import like, top
from .core.check import sparing
from .core.evidence import Evidence
from .core.fit import Fit, FitOptions, Solution, repaired
from .core.gains import fitted_bias, gain, saliency
from .core.moments import Moments
from .core.plan import budget, global_threshold, plan, spread
from .core.readout import ReadoutOptions, Skew, read_out, skew_of
from .data.audio import find_audio, read_audio
from .data.batches import BATCH_SIZE, count_items, logits_of, read_batches
from .data.pictures import find_images, read_image
from .deploy.bench import paired, processor, sizes
from .hub.resnet import resnet
from .network.engine import Engine
from .network.find import find_layers
from .network.layers import Layer, precise
from .network.norms import Norm
from .network.taps import Call, Place
from .report.memory import PeakMemory
from .report.page import page
from .report.text import format_report, summary
from .steps.choose import HIGH, LOW, MIDDLE
from .steps.observation import Observation
from .steps.observe import observe
from .steps.prune import prune

__all__ = [
    "BATCH_SIZE",
    "HIGH",
    "LOW",
    "MIDDLE",
    "ZEROS",
    "Call",
    "Engine",
    "Evidence",
    "Fit",
    "FitOptions",
    "Layer",
    "Moments",
    "Norm",
    "Observation",
    "PeakMemory",
    "Place",
    "ReadoutOptions",
    "Skew",
    "Solution",
    "budget",
    "count_items",
    "find_audio",
    "find_images",
    "find_layers",
    "fitted_bias",
    "format_report",
    "gain",
    "global_threshold",
    "like",
    "logits_of",
    "observe",
    "page",
    "paired",
    "plan",
    "precise",
    "processor",
    "prune",
    "read_audio",
    "read_batches",
    "read_image",
    "read_out",
    "repaired",
    "resnet",
    "saliency",
    "sealed",
    "sizes",
    "sizes_of",
    "skew_of",
    "sparing",
    "spread",
    "summary",
    "top",
]

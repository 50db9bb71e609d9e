"""What a comparison needs beside the public names. Internal: it may change from version to version.

The benchmarks import from :mod:`finepruning` and from here, and from nowhere else.
"""

from .data.audio import find_audio, read_audio
from .data.batches import BATCH_SIZE, count_items, logits_of, read_batches
from .data.images import find_images, read_image
from .hub.resnet import resnet

__all__ = [
    "BATCH_SIZE",
    "count_items",
    "find_audio",
    "find_images",
    "logits_of",
    "read_audio",
    "read_batches",
    "read_image",
    "resnet",
]

"""One thread for each operation: the networks here are far too small to share out."""

from __future__ import annotations

import torch

torch.set_num_threads(1)

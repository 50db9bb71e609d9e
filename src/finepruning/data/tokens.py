"""What an encoder-decoder network is fed while it listens: its own transcript, token by token."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from .batches import Batch

GIVEN = ("decoder_input_ids", "decoder_inputs_embeds")


def writes_tokens(model: nn.Module) -> bool:
    """Whether the network writes a sequence after having read one, as Hugging Face's do."""
    config = getattr(model, "config", None)
    return bool(getattr(config, "is_encoder_decoder", False)) and hasattr(model, "generate")


def started(model: nn.Module, batch: Batch) -> Batch:
    """The batch with the token that starts every transcript, where the decoder is given none."""
    if not writes_tokens(model) or not isinstance(batch.inputs, dict):
        return batch
    if any(batch.inputs.get(key) is not None for key in GIVEN):
        return batch
    device = next(model.parameters()).device
    start = torch.full((batch.size, 1), _start(model), device=device)
    return replace(batch, inputs={**batch.inputs, GIVEN[0]: start})


def transcribed(model: nn.Module, batch: Batch, longest: int) -> Iterator[Batch]:
    """The batch with the network's own greedy transcript as the decoder's input, ``longest`` tokens
    of it at most.

    Samples whose transcripts differ in length come in batches of their own: nothing is padded.
    Forward passes only. A batch that brings the decoder's input, or a network that needs none,
    is left as it is.
    """
    if not writes_tokens(model) or started(model, batch) is batch:
        yield batch
        return
    with torch.inference_mode():
        tokens = [_cut(model, row) for row in generate(model, batch, longest)]
    first = 0
    for end in range(1, batch.size + 1):
        if end < batch.size and len(tokens[end]) == len(tokens[first]):
            continue
        part = batch.take(first, end)
        assert isinstance(part.inputs, dict)
        ids = torch.stack(tokens[first:end])
        items = batch.items * (end == batch.size)
        yield replace(part, inputs={**part.inputs, GIVEN[0]: ids}, items=items, part=True)
        first = end


def generate(model: Any, batch: Batch, longest: int = 128) -> Tensor:
    """The network's greedy transcript of each sample, ``(size, tokens)``, padded at the end; as
    long by default as :class:`~finepruning.Config` has it."""
    assert isinstance(batch.inputs, dict)
    config = model.config
    names = ("max_target_positions", "max_position_embeddings")
    known = [size for name in names if (size := getattr(config, name, None))]
    room = known[0] if known else longest  # relative positions know no end
    return model.generate(
        **batch.inputs, do_sample=False, num_beams=1, max_new_tokens=min(longest, room - 8)
    )


def _start(model: Any) -> int:
    generation = getattr(model, "generation_config", None)
    for config in (generation, model.config):
        for name in ("decoder_start_token_id", "bos_token_id"):
            if isinstance(token := getattr(config, name, None), int):
                return token
    return 0


def _cut(model: Any, row: Tensor) -> Tensor:
    """One transcript from its start token to before its end."""
    end = model.generation_config.eos_token_id
    ends = torch.tensor(end if isinstance(end, list) else [-1 if end is None else end])
    start = _start(model)
    if not len(row) or int(row[0]) != start:  # Whisper leaves it out
        row = torch.cat([row.new_tensor([start]), row])
    stop = torch.isin(row[1:], ends.to(row.device)).nonzero()
    return row[: 1 + int(stop[0])] if len(stop) else row

"""What the GPU backend runs once at load, so that no call waits for a compiler."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from distilrt.backends.cuda.encoder import Rows
from distilrt.batch import PaddedInputs
from distilrt.kernels.gather import gather

if TYPE_CHECKING:
    from distilrt.backends.cuda.backend import CudaBackend

_HEAD_ROWS = 512  # scores of a vocabulary for more rows would take gigabytes


def warm_up(backend: CudaBackend) -> None:
    """Compile what graphs leave out and a call may need: other kinds of inputs, hidden states of all layers, heads.

    All buckets once, launch by launch; then every kind of ids and mask in the smallest. Other dtypes are brought to
    these (`distilrt.backends.cuda.inputs`).

    Args:
        backend: loaded; nobody else uses it yet.
    """
    encoder, head = backend.encoder, backend.head
    width, device = encoder.norms["embeddings.LayerNorm"][0].numel(), encoder.buffers[encoder.buckets[0]].block.device
    encoder.workspace.fill(0)  # an empty batch in every bucket
    with torch.no_grad():
        for bucket in encoder.buckets:
            embeds, buffers = torch.zeros((bucket.tokens, width), device=device), encoder.buffers[bucket]
            stage = encoder.launch(bucket, embeds=embeds, visit=lambda *_: None)
            gather(buffers.few.hidden, stage.hidden, buffers.index[: len(buffers.few.hidden)])
            if bucket.tokens <= _HEAD_ROWS:
                head.compute(backend, stage.hidden)
                head.compute(backend, Rows(stage.hidden, stage.num_rows))
    ids = torch.zeros((2, 2), dtype=torch.int64, device=device)
    embeds = torch.zeros((2, 2, width), device=device)
    for first in {head.reads == "first", head.reads == "first" or not head.layers}:
        for mask in (None, torch.ones_like(ids), torch.ones_like(ids, dtype=torch.bool)):
            for states in (False, True):
                for given in (ids, ids.int()):
                    backend.run_padded(PaddedInputs(given, mask), first_only=first, all_layers=states)
                backend.run_padded(PaddedInputs(None, mask, embeds), first_only=first, all_layers=states)

"""The GPU backend's way with padded tensors that already lie on the device: packed, computed and unpacked there."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch

from distilrt.backends.cuda.encoder import DeviceEncoder, Rows, Stage
from distilrt.backends.cuda.graphs import pick
from distilrt.backends.cuda.inputs import Errors, Padded, check
from distilrt.backends.cuda.stream import Turns
from distilrt.batch import PaddedInputs
from distilrt.kernels.gather import gather
from distilrt.kernels.unpacking import unpack
from distilrt.model.config import DistilBertConfig
from distilrt.model.heads import ENCODER, Head


class PaddedForwards:
    """What `distilrt.backends.cuda.backend.CudaBackend` does with such tensors; the attributes are its own."""

    config: DistilBertConfig
    head: Head
    encoder: DeviceEncoder
    _device: torch.device
    _captured: Head | None  # the head in the graphs
    _turns: Turns
    _errors: Errors
    _numbers: torch.Tensor  # 0, 1, 2 and so on
    _replay: Callable[..., tuple[Stage, torch.Tensor | None]]
    _empty: Callable[..., torch.Tensor]
    linear: Callable[..., Any]
    layer_norm: Callable[..., Any]

    def packs(self, inputs: PaddedInputs) -> bool:
        """Whether all inputs are tensors on this device, and a padded sequence is no longer than the largest bucket."""
        given = inputs if self.config.is_bert else inputs[:-1]
        rows = inputs.inputs_embeds if inputs.input_ids is None else inputs.input_ids
        return (
            all(each is None or (isinstance(each, torch.Tensor) and each.device == self._device) for each in given)
            and rows is not None
            and rows.dim() > 1
            and rows.shape[1] <= self.encoder.buckets[-1].tokens
        )

    def run_padded(
        self,
        inputs: PaddedInputs,
        *,
        with_head: bool = True,
        first_only: bool = False,
        all_layers: bool = False,
    ) -> tuple[torch.Tensor, tuple[torch.Tensor, ...]]:
        """Encoder and head over tensors that lie on this device, with no copy to the host and no waiting.

        Shapes and dtypes are checked at once. Values are checked by the device: a batch with a bad one gives NaN in
        all of its outputs, and the next call that finds the news on the host, or `synchronize`, raises InvalidInput.

        Args:
            inputs: tensors, as `Backend.run_padded` says.
            with_head, first_only, all_layers: likewise.

        Returns:
            Float32 tensors, as `Backend.run_padded` says.

        Raises:
            InvalidInput: a wrong shape or dtype; or an earlier batch had a wrong value.
            TooLong: more positions than the model has, and no mask or positions that could make it right.
        """
        self._errors.raise_known()
        padded, head = check(self.config, inputs), self.head if with_head else ENCODER
        joined = self._turns.turn(partial(self._run_parts, padded, head, first_only, all_layers))
        return joined[0], tuple(joined[1:])

    def _run_parts(self, padded: Padded, head: Head, first_only: bool, all_layers: bool) -> list[torch.Tensor]:
        """What `_run_part` gives, for as many sequences as there are."""
        (batch_size, seq_len), top = padded.shape, self.encoder.buckets[-1]
        step = min(top.seqs, top.tokens // max(seq_len, 1))
        parts: list[torch.Tensor] = []
        states: list[tuple[torch.Tensor, ...]] = []
        word = self._errors.next_word(self._turns.wait)
        try:
            for first in range(0, batch_size, step) or (0,):
                output, layers = self._run_part(padded.part(first, first + step), word, head, first_only, all_layers)
                parts.append(output)
                states.append(layers)
            joined = [_joined(parts), *(_joined(layer) for layer in zip(*states, strict=True))]
            for tensor in joined:
                tensor.masked_fill_(word != 0, torch.nan)
        finally:  # or an error that a head raises here would leave the word to a later batch
            self._errors.send(word)
        return joined

    def _run_part(
        self, padded: Padded, word: torch.Tensor, head: Head, first_only: bool, all_layers: bool
    ) -> tuple[torch.Tensor, tuple[torch.Tensor, ...]]:
        """The head's padded output, or that of the first rows, and hidden states, of one bucket's sequences."""
        (batch_size, seq_len), config = padded.shape, self.config
        tokens = batch_size * seq_len
        bucket = pick(self.encoder.buckets, tokens, batch_size)
        b = self.encoder.buffers[bucket]
        padded.pack_into(b, word, self._numbers, config, keep_first=first_only)
        embeds = None
        if padded.embeds is not None:
            embeds = self._empty(bucket.tokens, config.hidden_size, dtype=torch.float32)
            gather(embeds, padded.embeds, b.index, num_rows=b.num_tokens)
        states: list[torch.Tensor] = []

        def unpacked(rows: torch.Tensor) -> torch.Tensor:
            out = self._empty(batch_size, seq_len, rows.shape[1], dtype=torch.float32)
            mask = padded.mask if first_only else None  # a masked first position was packed, but is not shown
            unpack(out, rows[:tokens], b.index[:tokens], attention_mask=mask, num_tokens=b.num_tokens)
            return out

        scores = None
        if all_layers:
            stage = self.encoder.launch(bucket, embeds=embeds, visit=lambda i, rows: states.append(unpacked(rows)))
        else:
            stage, scores = self._replay((bucket, first_only, None), embeds)
        if scores is not None and head is self._captured:
            values = scores
        elif first_only:
            if all_layers:
                gather(b.few.hidden, stage.hidden, b.wanted[:-1], num_rows=b.few.num_rows)
            rows = Rows(b.few.hidden, b.few.num_rows)  # the buffers' own size: what is compiled at load
            values = head.compute(self, rows).values
        else:
            rows = Rows(stage.hidden, b.num_tokens)
            values = head.compute(self, rows).values
        return (values[:batch_size].to(torch.float32, copy=True) if first_only else unpacked(values)), tuple(states)

    def synchronize(self) -> None:
        """Wait for the caller's stream, and for the news of wrong values in batches that it ran.

        Raises:
            InvalidInput: a batch of tensors held a wrong value; its outputs are NaN.
        """
        self._turns.wait()
        self._errors.raise_known()


def _joined(parts: Sequence[torch.Tensor]) -> torch.Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(list(parts))

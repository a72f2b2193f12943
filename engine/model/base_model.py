"""What the six model classes share: from a padded batch over the encoder and the head to the output.

A model computes but does not learn, and knows nothing of text. Inputs are packed and checked on the host, unless all
of them are tensors on the device of the backend. Those are packed there, and their values never come to the host
(`Backend.run_padded`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Generic, TypeVar, cast

import numpy as np
import numpy.typing as npt

from distilrt.batch import Batch, Layout, PaddedInputs, pack_padded
from distilrt.errors import InvalidInput
from distilrt.model import functional, losses, outputs
from distilrt.model.array_kinds import as_array, as_numpy, as_tensor, is_tensor
from distilrt.model.config import DistilBertConfig
from distilrt.model.heads import ENCODER, POOLER
from distilrt.model.outputs import ModelOutput, selected_states
from distilrt.model.pretrained import Pretrained

Array = npt.NDArray[Any]
_Output = TypeVar("_Output", bound=ModelOutput)


class BaseModel(Pretrained, Generic[_Output]):
    """What the six classes share: the encoder and its head, and the way back to the caller's kind of array.

    Safe to call from many threads.
    """

    masked_outputs = False  # whether outputs at masked positions are computed, instead of being zero

    def _forward(
        self,
        inputs: PaddedInputs,
        output_hidden_states: bool | int | list[int] | None,
        output_attentions: bool | None,
        return_dict: bool | None,
        *labels: Any,
    ) -> _Output:
        """The head's output in the caller's kind of array; a tuple of its fields if no dict is wanted.

        The tuple is not part of the type: few callers ask for it, and all others would have to test for it.

        The config says what arguments of None mean. There is a loss if none of `labels`, which the head names, is None.
        """
        config = self.config
        states = config.output_hidden_states if output_hidden_states is None else output_hidden_states
        attentions = config.output_attentions if output_attentions is None else output_attentions
        as_dict = config.return_dict if return_dict is None else return_dict
        fields = compute_fields(self, inputs, states, attentions, labels)
        output = outputs.BaseModelOutputWithPooling if self._pools else self._head.output
        return cast(_Output, output(**fields) if as_dict else tuple(fields.values()))

    @property
    def _pools(self) -> bool:
        """Whether it is a bare BERT with a pooler."""
        return self.config.add_pooling_layer and self._head is ENCODER

    def _loss(self, scores: Array, *labels: Any) -> Any:
        assert self._head.loss is not None
        return self._head.loss(self.config, scores, *labels)

    def _encode(
        self,
        inputs: PaddedInputs,
        want_states: bool | int | list[int] = False,
        want_attentions: bool = False,
        labels: Sequence[Any] = (),
        *,
        first_only: bool = False,
    ) -> Encoded:
        """Run the encoder and the head over a padded batch, on the road that its inputs allow.

        `want_states` is the caller's `output_hidden_states`. With `labels` there will be a loss, computed on the host.
        With `first_only` only position 0 of each sequence is returned, also where the head reads all.
        """
        first_only = first_only or self._head.reads == "first"
        if not (labels or want_attentions or self.masked_outputs) and self.backend.packs(inputs):
            with_head = self._head is self.backend.head
            scores, states = self.backend.run_padded(
                inputs, with_head=with_head, first_only=first_only, all_layers=bool(want_states)
            )
            pooled = self._pooled(inputs, scores) if self._pools and not first_only else None
            kept = selected_states(states, want_states) if want_states else None
            return Encoded(scores, hidden_states=kept, pooled=pooled)
        keep_masked = self.masked_outputs or (
            bool(labels)
            and not first_only
            and losses.counts_masked(as_numpy(labels[0]), as_numpy(inputs.attention_mask))
        )
        return self._encode_on_host(inputs, want_states, want_attentions, first_only, keep_masked)

    def _pooled(self, inputs: PaddedInputs, hidden: Any) -> Any:
        """The pooler's output for hidden states `[batch_size, seq_len, hidden_size]` on the backend's device."""
        first, mask = hidden[:, 0], inputs.attention_mask
        if mask is not None and not bool((mask[:, 0] == 1).all()):  # position 0 is pooled even where it is masked
            first, _ = self.backend.run_padded(inputs, with_head=False, first_only=True)
        return POOLER.compute(self.backend, first).to(hidden.dtype)

    def _encode_on_host(
        self,
        inputs: PaddedInputs,
        want_states: bool | int | list[int],
        want_attentions: bool,
        first_only: bool,
        keep_masked: bool,
    ) -> Encoded:
        """Pack on the host, compute, and unpack what was asked for."""
        config, backend, head = self.config, self.backend, self._head
        pools = self._pools and not first_only
        batch, layout = pack_padded(config, inputs, keep_first=first_only or pools, keep_masked=keep_masked)
        wanted = layout.first_rows if first_only else None
        unpack = partial(layout.unpack, masked=self.masked_outputs)
        hidden_states = attentions = pooled = None
        if want_states or want_attentions:
            every = backend.forward(batch, all_layers=True)
            hidden = every[-1]
            rows = backend.to_numpy(head.compute(backend, hidden if wanted is None else hidden[wanted]))
            states = backend.to_numpy(every)
            if want_states:
                hidden_states = selected_states(tuple(map(unpack, states)), want_states)
            if want_attentions:
                attentions = tuple(
                    _unpack_attentions(config, self.weights, index, layer, batch, layout)
                    for index, layer in enumerate(states[:-1])
                )
        elif pools:
            hidden = backend.forward(batch)
            rows = backend.to_numpy(hidden)
        elif head is backend.head:
            rows = backend.answer(batch, wanted)
        else:
            rows = backend.to_numpy(backend.forward(batch, wanted=wanted))
        if pools:
            pooled = backend.to_numpy(POOLER.compute(backend, hidden[layout.first_rows]))
        given = inputs.inputs_embeds if inputs.input_ids is None else inputs.input_ids
        return Encoded(
            rows if first_only else unpack(rows),
            rows,
            layout,
            given.device if is_tensor(given) else None,
            hidden_states,
            attentions,
            pooled,
        )


@dataclass(frozen=True, slots=True)
class Encoded:
    """What the encoder and a head made of a batch. A batch that was packed on the device has no `rows` and `layout`."""

    scores: Any  # the head's output [batch_size, seq_len, width], or of the first rows [batch_size, width]
    rows: Any = None  # the same, packed: [total_tokens, width] or [batch_size, width]
    layout: Any = None  # Layout
    device: Any = None  # torch's device of the inputs, to which outputs go; None: outputs stay as they are
    hidden_states: tuple[Any, ...] | None = None  # padded
    attentions: tuple[Array, ...] | None = None  # padded
    pooled: Any = None  # [batch_size, hidden_size], of a bare BERT with a pooler

    @property
    def with_masked(self) -> Any:
        """The head's output with the numbers of masked positions that were packed, which are zero in `scores`."""
        if self.rows is self.scores or self.layout.masked_rows is None:
            return self.scores
        return self.layout.unpack(self.rows, masked=True)


def compute_fields(
    model: BaseModel[Any],
    inputs: PaddedInputs,
    states: bool | int | list[int],
    attentions: bool,
    labels: Sequence[Any],
) -> dict[str, Any]:
    """The fields of the head's output that are not None, in order, in the caller's kind of array."""
    head = model._head
    choices = None
    if head.has_choices:
        choices, inputs = _flattened(inputs)
    if any(label is None for label in labels):
        labels = ()
    run = model._encode(inputs, states, attentions, labels)
    scores = run.scores if choices is None else run.scores.reshape(choices)
    fields: dict[str, Any] = {}
    if labels:
        every = run.with_masked if choices is None else scores
        fields["loss"] = scores.dtype.type(model._loss(every, *map(as_numpy, labels)))
    for column, name in enumerate(head.fields):
        fields[name] = scores if len(head.fields) == 1 else _column(scores, column)
    fields |= {"pooler_output": run.pooled, "hidden_states": run.hidden_states, "attentions": run.attentions}
    if run.device is not None:
        fields = {name: as_tensor(value, run.device) for name, value in fields.items()}
    return {name: value for name, value in fields.items() if value is not None}


def _flattened(inputs: PaddedInputs) -> tuple[tuple[int, int], PaddedInputs]:
    """`[batch_size, num_choices]`, and the inputs of each choice as a sequence of its own."""
    given = inputs.inputs_embeds if inputs.input_ids is None else inputs.input_ids
    flat = PaddedInputs(
        input_ids=_as_sequences(inputs.input_ids, "input_ids", 3),
        attention_mask=_as_sequences(inputs.attention_mask, "attention_mask", 3),
        inputs_embeds=_as_sequences(inputs.inputs_embeds, "inputs_embeds", 4),
        position_ids=inputs.position_ids,  # of the sequences already, as in the reference
        token_type_ids=_as_sequences(inputs.token_type_ids, "token_type_ids", 3),
    )
    return np.shape(given)[:2], flat


def _as_sequences(value: Any, name: str, rank: int) -> Any:
    """`[batch_size, num_choices, …]` as `[batch_size * num_choices, …]`."""
    if value is None:
        return None
    array = value if is_tensor(value) else as_array(value, name)
    if array.ndim != rank:
        shape = "[batch_size, num_choices, seq_len" + (", hidden_size]" if rank == 4 else "]")
        raise InvalidInput(f"{name} must have shape {shape}, found {list(array.shape)}")
    return array.reshape(array.shape[0] * array.shape[1], *array.shape[2:])


def _column(scores: Any, index: int) -> Any:
    """One number of each position, contiguous: `[batch_size, seq_len, width]` to `[batch_size, seq_len]`."""
    column = scores[..., index]
    return column.contiguous() if is_tensor(column) else np.ascontiguousarray(column)


def _unpack_attentions(
    config: DistilBertConfig, weights: Mapping[str, Array], index: int, rows: Array, batch: Batch, layout: Layout
) -> Array:
    """`[batch_size, num_heads, seq_len, seq_len]` of one layer, zero in rows and columns of masked positions."""
    batch_size, seq_len = layout.shape
    padded = np.zeros((batch_size, config.num_heads, seq_len, seq_len), rows.dtype)
    positions = np.arange(batch.total_tokens) if layout.index is None else layout.index
    for seq, probs in enumerate(functional.layer_attentions(config, weights, index, rows, batch)):
        num_keys = probs.shape[2]
        keys = positions[batch.cu_seqlens[seq] :][:num_keys] - seq * seq_len
        padded[seq][:, keys[:, None], keys] = probs[:, :num_keys]
    return padded

"""The model classes, with the reference's names, signatures and outputs: padded arrays in, padded arrays out.

Padding, masks, labels and the kinds of arrays (lists, NumPy, torch) end here; below there are only packed rows.

Every `forward` takes the reference's arguments in the reference's order:

    input_ids: `[batch_size, seq_len]` token ids; or None with `inputs_embeds`.
    attention_mask: `[batch_size, seq_len]` of 0 and 1 in any pattern; None: all 1. Outputs at masked positions are 0.
    inputs_embeds: `[batch_size, seq_len, hidden_size]` in place of the looked-up word embeddings.
    position_ids: `[batch_size, seq_len]`, `[1, seq_len]` or `[seq_len]`; None: 0, 1, 2, …
    token_type_ids: ignored, as in the reference; but a folded BERT has only segment 0 and refuses others.
    output_hidden_states, output_attentions, return_dict: None: what the config says. Indices in place of True leave
        None in the place of the other hidden states.

and raises `InvalidInput` for a wrong shape, dtype or value and `TooLong` for a position that the model does not have.
Outputs are of the kind of `input_ids` (or `inputs_embeds`): torch tensors on its device, else NumPy arrays.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np

from distilrt.errors import InvalidInput
from distilrt.model import losses
from distilrt.model.array_kinds import as_numpy, as_tensor, is_tensor
from distilrt.model.base_model import BaseModel
from distilrt.model.outputs import (
    BaseModelOutput,
    MaskedLMOutput,
    MultipleChoiceModelOutput,
    QuestionAnsweringModelOutput,
    SequenceClassifierOutput,
    TokenClassifierOutput,
)
from distilrt.uncompiled import uncompiled


class DistilBertModel(BaseModel):
    """The bare encoder. `last_hidden_state` is zero at masked positions, a masked first one included."""

    architecture = "DistilBertModel"

    @uncompiled
    def forward(
        self,
        input_ids: Any = None,
        attention_mask: Any = None,
        inputs_embeds: Any = None,
        position_ids: Any = None,
        *,
        token_type_ids: Any = None,
        output_hidden_states: bool | int | list[int] | None = None,
        output_attentions: bool | None = None,
        return_dict: bool | None = None,
    ) -> BaseModelOutput:
        """Hidden states `[batch_size, seq_len, hidden_size]`; see the module for the arguments."""
        run = self._encode(input_ids, attention_mask, inputs_embeds, position_ids, token_type_ids,
                           output_hidden_states, output_attentions)  # fmt: skip
        return self._answer(BaseModelOutput, run, return_dict, last_hidden_state=run.padded)

    @uncompiled
    def first_hidden_state(
        self,
        input_ids: Any = None,
        attention_mask: Any = None,
        inputs_embeds: Any = None,
        position_ids: Any = None,
        token_type_ids: Any = None,
    ) -> Any:
        """The hidden state of position 0 `[batch_size, hidden_size]`, also where it is masked; arguments as above."""
        run = self._encode(input_ids, attention_mask, inputs_embeds, position_ids, token_type_ids, False, False,
                           first_only=True)  # fmt: skip
        return run.padded if run.device is None else as_tensor(run.padded, run.device)

    __call__ = forward


class HeadModel(BaseModel):
    """What the five classes with a head share."""

    @property
    def distilbert(self) -> DistilBertModel:
        """The encoder beneath, on the same backend."""
        return self._shared_as(DistilBertModel, None)


class DistilBertForMaskedLM(HeadModel):
    """The encoder with a score for each word of the vocabulary at every position."""

    architecture = "DistilBertForMaskedLM"

    @uncompiled
    def forward(
        self,
        input_ids: Any = None,
        attention_mask: Any = None,
        inputs_embeds: Any = None,
        labels: Any = None,
        position_ids: Any = None,
        *,
        token_type_ids: Any = None,
        output_hidden_states: bool | int | list[int] | None = None,
        output_attentions: bool | None = None,
        return_dict: bool | None = None,
    ) -> MaskedLMOutput:
        """Logits `[batch_size, seq_len, vocab_size]`; see the module for the arguments.

        `labels` `[batch_size, seq_len]`: word ids, or -100 where none counts. Those at masked positions count too.
        """
        run = self._encode(input_ids, attention_mask, inputs_embeds, position_ids, token_type_ids,
                           output_hidden_states, output_attentions, with_labels=labels is not None,
                           keep_masked=losses.counts_masked(as_numpy(labels), as_numpy(attention_mask)))  # fmt: skip
        loss = None if labels is None else losses.token_level(run.rows, as_numpy(labels), run.layout)
        return self._answer(MaskedLMOutput, run, return_dict, loss=loss, logits=run.padded)

    __call__ = forward


class DistilBertForSequenceClassification(HeadModel):
    """The encoder with scores for a whole sequence, read at position 0 even where that is masked."""

    architecture = "DistilBertForSequenceClassification"

    @uncompiled
    def forward(
        self,
        input_ids: Any = None,
        attention_mask: Any = None,
        inputs_embeds: Any = None,
        labels: Any = None,
        position_ids: Any = None,
        *,
        token_type_ids: Any = None,
        output_hidden_states: bool | int | list[int] | None = None,
        output_attentions: bool | None = None,
        return_dict: bool | None = None,
    ) -> SequenceClassifierOutput:
        """Logits `[batch_size, num_labels]`; see the module for the arguments.

        `labels`: `[batch_size]` label ids or numbers, or `[batch_size, num_labels]` numbers, by
        `config.problem_type` (see `losses.sequence_classification`).
        """
        run = self._encode(input_ids, attention_mask, inputs_embeds, position_ids, token_type_ids,
                           output_hidden_states, output_attentions, with_labels=labels is not None,
                           first_only=True)  # fmt: skip
        loss = None
        if labels is not None:
            loss = losses.sequence_classification(self.config, run.rows, as_numpy(labels))
        return self._answer(SequenceClassifierOutput, run, return_dict, loss=loss, logits=run.padded)

    __call__ = forward


class DistilBertForQuestionAnswering(HeadModel):
    """The encoder with a score for each position to be the first and the last of the answer."""

    architecture = "DistilBertForQuestionAnswering"
    _loss: ClassVar[Callable[..., Any]] = staticmethod(losses.question_answering)

    @uncompiled
    def forward(
        self,
        input_ids: Any = None,
        attention_mask: Any = None,
        inputs_embeds: Any = None,
        start_positions: Any = None,
        end_positions: Any = None,
        position_ids: Any = None,
        *,
        token_type_ids: Any = None,
        output_hidden_states: bool | int | list[int] | None = None,
        output_attentions: bool | None = None,
        return_dict: bool | None = None,
    ) -> QuestionAnsweringModelOutput:
        """Start and end logits, each `[batch_size, seq_len]`; see the module for the arguments.

        `start_positions`, `end_positions` `[batch_size]`: both or no loss; one outside the sequence is left out.
        """
        # The reference's loss ranks masked positions too, so with labels they are computed, though not returned.
        with_loss = start_positions is not None and end_positions is not None
        run = self._encode(input_ids, attention_mask, inputs_embeds, position_ids, token_type_ids,
                           output_hidden_states, output_attentions, with_labels=with_loss,
                           keep_masked=with_loss)  # fmt: skip
        loss = None
        if with_loss:
            ends = run.layout.unpack(run.rows, masked=True)
            loss = self._loss(ends[..., 0], ends[..., 1], as_numpy(start_positions), as_numpy(end_positions))
        return self._answer(QuestionAnsweringModelOutput, run, return_dict, loss=loss,
                            start_logits=_column(run.padded, 0), end_logits=_column(run.padded, 1))  # fmt: skip

    __call__ = forward


class DistilBertForTokenClassification(HeadModel):
    """The encoder with scores for each label at every position."""

    architecture = "DistilBertForTokenClassification"

    @uncompiled
    def forward(
        self,
        input_ids: Any = None,
        attention_mask: Any = None,
        inputs_embeds: Any = None,
        labels: Any = None,
        position_ids: Any = None,
        *,
        token_type_ids: Any = None,
        output_hidden_states: bool | int | list[int] | None = None,
        output_attentions: bool | None = None,
        return_dict: bool | None = None,
    ) -> TokenClassifierOutput:
        """Logits `[batch_size, seq_len, num_labels]`; see the module for the arguments.

        `labels` `[batch_size, seq_len]`: label ids, or -100 where none counts. Those at masked positions count too.
        """
        run = self._encode(input_ids, attention_mask, inputs_embeds, position_ids, token_type_ids,
                           output_hidden_states, output_attentions, with_labels=labels is not None,
                           keep_masked=losses.counts_masked(as_numpy(labels), as_numpy(attention_mask)))  # fmt: skip
        loss = None if labels is None else losses.token_level(run.rows, as_numpy(labels), run.layout)
        return self._answer(TokenClassifierOutput, run, return_dict, loss=loss, logits=run.padded)

    __call__ = forward


class DistilBertForMultipleChoice(HeadModel):
    """The encoder with one score for each choice, read at position 0 even where that is masked."""

    architecture = "DistilBertForMultipleChoice"

    @uncompiled
    def forward(
        self,
        input_ids: Any = None,
        attention_mask: Any = None,
        inputs_embeds: Any = None,
        labels: Any = None,
        position_ids: Any = None,
        *,
        token_type_ids: Any = None,
        output_hidden_states: bool | int | list[int] | None = None,
        output_attentions: bool | None = None,
        return_dict: bool | None = None,
    ) -> MultipleChoiceModelOutput:
        """Logits `[batch_size, num_choices]`; see the module for the arguments, here with num_choices before seq_len.

        `labels` `[batch_size]`: the right choice. Hidden states and attentions have batch_size * num_choices sequences,
        and position_ids may be given so, as in the reference.
        """
        ids, embeds = _as_choices(input_ids, "input_ids", 3), _as_choices(inputs_embeds, "inputs_embeds", 4)
        given = inputs_embeds if input_ids is None else input_ids
        run = self._encode(ids, _as_choices(attention_mask, "attention_mask", 3), embeds, position_ids,
                           _as_choices(token_type_ids, "token_type_ids", 3),
                           output_hidden_states, output_attentions, with_labels=labels is not None,
                           first_only=True)  # fmt: skip
        logits = run.padded.reshape(np.shape(given)[:2])
        loss = None if labels is None else losses.multiple_choice(logits, as_numpy(labels))
        return self._answer(MultipleChoiceModelOutput, run, return_dict, loss=loss, logits=logits)

    __call__ = forward


def _column(padded: Any, index: int) -> Any:
    """One number of each position, contiguous: `[batch_size, seq_len, width]` to `[batch_size, seq_len]`."""
    column = padded[..., index]
    return column.contiguous() if is_tensor(column) else np.ascontiguousarray(column)


def _as_choices(value: Any, name: str, rank: int) -> Any:
    """`[batch_size, num_choices, …]` as `[batch_size * num_choices, …]`."""
    if value is None:
        return None
    array = value if is_tensor(value) else np.asarray(value)
    if array.ndim != rank:
        shape = "[batch_size, num_choices, seq_len" + (", hidden_size]" if rank == 4 else "]")
        raise InvalidInput(f"{name} must have shape {shape}, found {list(array.shape)}")
    return array.reshape(array.shape[0] * array.shape[1], *array.shape[2:])

"""The model classes, with the reference's names, signatures and outputs: padded arrays in, padded arrays out.

Padding, masks, labels and the kinds of arrays (lists, NumPy, torch) end here; below there are only packed rows. A
model computes but does not learn, and knows nothing of text. Torch is never imported: a tensor can only come from a
caller who has.

Every `forward` takes the reference's arguments in the reference's order:

    input_ids: `[batch_size, seq_len]` token ids; or None with `inputs_embeds`.
    attention_mask: `[batch_size, seq_len]` of 0 and 1 in any pattern; None: all 1. Outputs at masked positions are 0.
    inputs_embeds: `[batch_size, seq_len, hidden_size]` in place of the looked-up word embeddings.
    position_ids: `[batch_size, seq_len]`, `[1, seq_len]` or `[seq_len]`; None: 0, 1, 2, …
    token_type_ids: ignored, as in the reference; but a folded BERT has only segment 0 and refuses others.
    output_hidden_states, output_attentions, return_dict: None: what the config says.

and raises `InvalidInput` for a wrong shape, dtype or value and `TooLong` for a position that the model does not have.
Outputs are of the kind of `input_ids` (or `inputs_embeds`): torch tensors on its device, else NumPy arrays.

There are two roads. Inputs are packed and checked on the host, unless all of them are tensors where the backend
computes; those are packed there and the host sees none of their values (`Backend.run_padded`).
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar, cast

import numpy as np
import numpy.typing as npt

from distilrt import backends, checkpoint, heads, hub_upload, losses, packed, reference
from distilrt.batch import Batch, Layout, pack_padded
from distilrt.config import DistilBertConfig
from distilrt.errors import InvalidInput
from distilrt.outputs import (
    BaseModelOutput,
    MaskedLMOutput,
    ModelOutput,
    MultipleChoiceModelOutput,
    QuestionAnsweringModelOutput,
    SequenceClassifierOutput,
    TokenClassifierOutput,
)

if TYPE_CHECKING:
    from typing_extensions import Self

    from distilrt.calibration import Calibration

Array = npt.NDArray[Any]
_Output = TypeVar("_Output", bound=ModelOutput)


class _Model:
    """What the six classes share: loading, the encoder, and the way back to the caller's kind of array.

    Safe to call from many threads.

    Args:
        config: the model's shape.
        weights: canonical names to float32 arrays; None: random, as in the reference.
        backend: "auto", "reference", "cpu" or "cuda".
        dtype: "auto", the checkpoint's own, or one that the backend has.
        num_threads: CPU threads; None: what the machine allows.
        calibration: how int8 quantizes on the CPU (`distilrt.calibration`); None: without example texts.

    Raises:
        BackendError: the backend or dtype is not available here.
    """

    architecture: ClassVar[str]

    def __init__(
        self,
        config: DistilBertConfig,
        weights: Mapping[str, Array] | None = None,
        *,
        backend: str = "auto",
        dtype: str = "auto",
        num_threads: int | None = None,
        calibration: Calibration | None = None,
    ) -> None:
        self.config = config
        self.weights = checkpoint.random_weights(config, self.architecture) if weights is None else weights
        self.backend = backends.create(
            backend, config, self.weights, dtype=dtype, num_threads=num_threads, calibration=calibration
        )

    @classmethod
    def from_pretrained(
        cls,
        model: str | Path,
        backend: str = "auto",
        dtype: str = "auto",
        num_threads: int | None = None,
        revision: str | None = None,
        subfolder: str = "",
        token: str | bool | None = None,
        cache_dir: str | Path | None = None,
        local_files_only: bool = False,
    ) -> Self:
        """Load a folder or a hub id, or open a packed folder.

        `dtype="int8"` of a float checkpoint on the CPU calibrates first, with built-in texts and the tokenizer beside
        the weights, which takes seconds; without a tokenizer it does not. A packed folder has that done.

        Raises:
            OSError: the folder, the repository or a file of it is not there.
            CheckpointError: the files do not hold this model, or a packed folder is to serve another backend.
            BackendError: the backend or dtype is not available here.
        """
        where: dict[str, Any] = {"revision": revision, "subfolder": subfolder, "token": token,
                                 "cache_dir": cache_dir, "local_files_only": local_files_only}  # fmt: skip
        config = DistilBertConfig.from_pretrained(model, **where)
        weights: Mapping[str, Array]
        folder = packed.find(model, subfolder)
        calibration = None
        if folder is None:
            weights = checkpoint.load(model, cls.architecture, config, **where)
            if dtype == "int8" and backends.chosen(backend, weights) == "cpu":
                from distilrt.calibration import of_checkpoint  # loads the tokenizer, which no other dtype needs

                calibration = of_checkpoint(model, config, weights, **where)
        else:
            config, weights = packed.load(folder, cls.architecture, config)
        return cls(config, weights, backend=backend, dtype=dtype, num_threads=num_threads, calibration=calibration)

    def save_pretrained(self, folder: str | Path) -> None:
        """Write config and weights where the reference and `from_pretrained` can read them."""
        checkpoint.save(folder, self.config, self.weights, self.architecture)

    def push_to_hub(self, repo_id: str, **options: Any) -> str:
        """Upload what `save_pretrained` writes, and a section of the model card; see `hub_upload.upload`."""
        return hub_upload.upload(self.save_pretrained, repo_id, architecture=self.architecture, **options)

    @property
    def dtype(self) -> str:
        """The dtype that the backend computes in."""
        return self.backend.dtype

    @property
    def device(self) -> str:
        """Where the model computes: "cpu", or "cuda" with a number, as torch names it."""
        return self.backend.device

    def num_parameters(self) -> int:
        """How many numbers the model has; a tied vocabulary projection counts once."""
        shapes = checkpoint.expected_shapes(self.config, self.architecture)
        if self.config.tie_word_embeddings:
            shapes.pop("vocab_projector.weight", None)
        return sum(math.prod(shape) for shape in shapes.values())

    def state_dict(self) -> dict[str, Array]:
        """The weights as float32 arrays by the reference's names."""
        prefix = "" if self.architecture == "DistilBertModel" else "distilbert."
        encoder = ("embeddings.", "transformer.")
        return {prefix + name if name.startswith(encoder) else name: array for name, array in self.weights.items()}

    def eval(self) -> Self:
        """The model itself, which is always in evaluation mode."""
        return self

    def train(self, mode: bool = True) -> Self:
        """Refused, unless `mode` is False."""
        if mode:
            raise TypeError("distilrt only infers; train with transformers, save, and load the result here")
        return self

    def parameters(self) -> None:
        """Refused: there is nothing to train."""
        raise TypeError("distilrt only infers and has no trainable parameters; state_dict() has the weights as arrays")

    def to(self, device: Any) -> Self:
        """The model itself, if it is on `device`; a model stays where and as it was loaded."""
        if str(device) not in (self.device, self.device.partition(":")[0]):
            raise ValueError(
                f"this model is on {self.device!r} in {self.dtype} and can't be moved to {device!r}; choose with "
                "from_pretrained(…, backend=…, dtype=…)"
            )
        return self

    def _encode(
        self,
        input_ids: Any,
        attention_mask: Any,
        inputs_embeds: Any,
        position_ids: Any,
        token_type_ids: Any,
        output_hidden_states: bool | None,
        output_attentions: bool | None,
        *,
        head: Callable[[Any], Any] | None = None,
        first_only: bool = False,
        with_labels: bool = False,
        keep_masked: bool = False,
    ) -> _Encoded:
        """Pack, run the encoder and a head over its rows, and unpack what was asked for of its inner states.

        Args:
            head: from the backend's rows to its rows; None: leave the hidden states as they are.
            first_only: the head reads position 0 of each sequence alone.
            with_labels: the caller needs the packed rows for a loss, which is computed on the host.
            keep_masked: pack masked positions too.
        """
        config = self.config
        given = inputs_embeds if input_ids is None else input_ids
        want_states = config.output_hidden_states if output_hidden_states is None else output_hidden_states
        want_attentions = config.output_attentions if output_attentions is None else output_attentions
        inputs = (input_ids, attention_mask, position_ids, inputs_embeds)
        segments = token_type_ids if config.folded_bert else None
        if not (with_labels or want_attentions):
            there = self.backend.run_padded(
                *inputs, segments=segments, head=head, first_only=first_only, all_layers=want_states
            )
            if there is not None:
                return _Encoded(there[0], hidden_states=there[1])
        batch, layout = pack_padded(config, *map(_as_numpy, inputs), keep_first=first_only, keep_masked=keep_masked)
        if segments is not None:
            _check_segments(_as_numpy(segments), layout)
        wanted = layout.first_rows if first_only else None
        hidden_states = attentions = None
        if want_states or want_attentions:
            every = self.backend.forward(batch, all_layers=True)
            rows = every[-1] if wanted is None else every[-1][wanted]
            states = self.backend.to_numpy(every)
            hidden_states = tuple(layout.unpack(layer) for layer in states) if want_states else None
            if want_attentions:
                attentions = tuple(
                    _unpack_attentions(config, self.weights, index, layer, batch, layout)
                    for index, layer in enumerate(states[:-1])
                )
        else:
            rows = self.backend.forward(batch, wanted=wanted)
        rows = self.backend.to_numpy(rows if head is None else head(rows))
        padded = rows if first_only else layout.unpack(rows)
        device = given.device if _is_tensor(given) else None
        return _Encoded(padded, rows, layout, device, hidden_states, attentions)

    def _answer(self, output_class: type[_Output], run: _Encoded, return_dict: bool | None, **fields: Any) -> _Output:
        """Head outputs and inner states as the caller's kind of array; a tuple of them if no dict is wanted.

        The type leaves the tuple out: hardly anybody asks for it, and everybody would have to narrow it.
        """
        fields |= {"hidden_states": run.hidden_states, "attentions": run.attentions}
        if fields.get("loss") is not None:
            fields["loss"] = run.rows.dtype.type(fields["loss"])
        if run.device is not None:
            fields = {name: _as_tensor(value, run.device) for name, value in fields.items()}
        output = output_class(**fields)
        wanted = self.config.return_dict if return_dict is None else return_dict
        return output if wanted else cast(Any, output.to_tuple())


class DistilBertModel(_Model):
    """The bare encoder. `last_hidden_state` is zero at masked positions, a masked first one included."""

    architecture = "DistilBertModel"

    def forward(
        self,
        input_ids: Any = None,
        attention_mask: Any = None,
        inputs_embeds: Any = None,
        position_ids: Any = None,
        *,
        token_type_ids: Any = None,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
        return_dict: bool | None = None,
    ) -> BaseModelOutput:
        """Hidden states `[batch_size, seq_len, hidden_size]`; see the module for the arguments."""
        run = self._encode(input_ids, attention_mask, inputs_embeds, position_ids, token_type_ids,
                           output_hidden_states, output_attentions)  # fmt: skip
        return self._answer(BaseModelOutput, run, return_dict, last_hidden_state=run.padded)

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
        return run.padded if run.device is None else _as_tensor(run.padded, run.device)

    __call__ = forward


class DistilBertForMaskedLM(_Model):
    """The encoder with a score for each word of the vocabulary at every position."""

    architecture = "DistilBertForMaskedLM"

    def forward(
        self,
        input_ids: Any = None,
        attention_mask: Any = None,
        inputs_embeds: Any = None,
        labels: Any = None,
        position_ids: Any = None,
        *,
        token_type_ids: Any = None,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
        return_dict: bool | None = None,
    ) -> MaskedLMOutput:
        """Logits `[batch_size, seq_len, vocab_size]`; see the module for the arguments.

        `labels` `[batch_size, seq_len]`: word ids, or -100, which masked positions must have.
        """
        run = self._encode(input_ids, attention_mask, inputs_embeds, position_ids, token_type_ids,
                           output_hidden_states, output_attentions, with_labels=labels is not None,
                           head=lambda rows: heads.masked_lm(self.backend, rows, self.config.activation))  # fmt: skip
        loss = None if labels is None else losses.token_level(run.rows, _as_numpy(labels), run.layout)
        return self._answer(MaskedLMOutput, run, return_dict, loss=loss, logits=run.padded)

    __call__ = forward


class DistilBertForSequenceClassification(_Model):
    """The encoder with scores for a whole sequence, read at position 0 even where that is masked."""

    architecture = "DistilBertForSequenceClassification"

    def forward(
        self,
        input_ids: Any = None,
        attention_mask: Any = None,
        inputs_embeds: Any = None,
        labels: Any = None,
        position_ids: Any = None,
        *,
        token_type_ids: Any = None,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
        return_dict: bool | None = None,
    ) -> SequenceClassifierOutput:
        """Logits `[batch_size, num_labels]`; see the module for the arguments.

        `labels`: `[batch_size]` label ids or numbers, or `[batch_size, num_labels]` numbers, by
        `config.problem_type` (see `losses.sequence_classification`).
        """
        run = self._encode(input_ids, attention_mask, inputs_embeds, position_ids, token_type_ids,
                           output_hidden_states, output_attentions, with_labels=labels is not None,
                           head=partial(heads.sequence_classification, self.backend), first_only=True)  # fmt: skip
        loss = None
        if labels is not None:
            loss = losses.sequence_classification(self.config, run.rows, _as_numpy(labels))
        return self._answer(SequenceClassifierOutput, run, return_dict, loss=loss, logits=run.padded)

    __call__ = forward


class DistilBertForQuestionAnswering(_Model):
    """The encoder with a score for each position to be the first and the last of the answer."""

    architecture = "DistilBertForQuestionAnswering"
    _loss: ClassVar[Callable[..., Any]] = staticmethod(losses.question_answering)

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
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
        return_dict: bool | None = None,
    ) -> QuestionAnsweringModelOutput:
        """Start and end logits, each `[batch_size, seq_len]`; see the module for the arguments.

        `start_positions`, `end_positions` `[batch_size]`: both or no loss; one outside the sequence is left out.
        """
        # The reference's loss ranks masked positions too, so with labels they are computed, though not returned.
        with_loss = start_positions is not None and end_positions is not None
        run = self._encode(input_ids, attention_mask, inputs_embeds, position_ids, token_type_ids,
                           output_hidden_states, output_attentions, with_labels=with_loss, keep_masked=with_loss,
                           head=partial(heads.question_answering, self.backend))  # fmt: skip
        loss = None
        if with_loss:
            ends = run.layout.unpack(run.rows, masked=True)
            loss = self._loss(ends[..., 0], ends[..., 1], _as_numpy(start_positions), _as_numpy(end_positions))
        return self._answer(QuestionAnsweringModelOutput, run, return_dict, loss=loss,
                            start_logits=_column(run.padded, 0), end_logits=_column(run.padded, 1))  # fmt: skip

    __call__ = forward


class DistilBertForTokenClassification(_Model):
    """The encoder with scores for each label at every position."""

    architecture = "DistilBertForTokenClassification"

    def forward(
        self,
        input_ids: Any = None,
        attention_mask: Any = None,
        inputs_embeds: Any = None,
        labels: Any = None,
        position_ids: Any = None,
        *,
        token_type_ids: Any = None,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
        return_dict: bool | None = None,
    ) -> TokenClassifierOutput:
        """Logits `[batch_size, seq_len, num_labels]`; see the module for the arguments.

        `labels` `[batch_size, seq_len]`: label ids, or -100, which masked positions must have.
        """
        run = self._encode(input_ids, attention_mask, inputs_embeds, position_ids, token_type_ids,
                           output_hidden_states, output_attentions, with_labels=labels is not None,
                           head=partial(heads.token_classification, self.backend))  # fmt: skip
        loss = None if labels is None else losses.token_level(run.rows, _as_numpy(labels), run.layout)
        return self._answer(TokenClassifierOutput, run, return_dict, loss=loss, logits=run.padded)

    __call__ = forward


class DistilBertForMultipleChoice(_Model):
    """The encoder with one score for each choice, read at position 0 even where that is masked."""

    architecture = "DistilBertForMultipleChoice"

    def forward(
        self,
        input_ids: Any = None,
        attention_mask: Any = None,
        inputs_embeds: Any = None,
        labels: Any = None,
        position_ids: Any = None,
        *,
        token_type_ids: Any = None,
        output_hidden_states: bool | None = None,
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
                           head=partial(heads.multiple_choice, self.backend), first_only=True)  # fmt: skip
        logits = run.padded.reshape(np.shape(given)[:2])
        loss = None if labels is None else losses.multiple_choice(logits, _as_numpy(labels))
        return self._answer(MultipleChoiceModelOutput, run, return_dict, loss=loss, logits=logits)

    __call__ = forward


@dataclass(frozen=True, slots=True)
class _Encoded:
    """One run of the encoder and a head. Packed on the backend's own device it has tensors, and no rows and layout."""

    padded: Any  # the head's output [batch_size, seq_len, width], or of the first rows [batch_size, width]
    rows: Any = None  # the same, packed: [total_tokens, width] or [batch_size, width]
    layout: Any = None  # Layout
    device: Any = None  # torch device to bring arrays to; None: leave them as they are
    hidden_states: tuple[Any, ...] | None = None  # padded
    attentions: tuple[Array, ...] | None = None  # padded


def _column(padded: Any, index: int) -> Any:
    """One number of each position, contiguous: `[batch_size, seq_len, width]` to `[batch_size, seq_len]`."""
    column = padded[..., index]
    return column.contiguous() if _is_tensor(column) else np.ascontiguousarray(column)


def _unpack_attentions(
    config: DistilBertConfig, weights: Mapping[str, Array], index: int, rows: Array, batch: Batch, layout: Layout
) -> Array:
    """`[batch_size, num_heads, seq_len, seq_len]` of one layer, zero in rows and columns of masked positions."""
    batch_size, seq_len = layout.shape
    padded = np.zeros((batch_size, config.num_heads, seq_len, seq_len), rows.dtype)
    positions = np.arange(batch.total_tokens) if layout.index is None else layout.index
    for seq, probs in enumerate(reference.layer_attentions(config, weights, index, rows, batch)):
        num_keys = probs.shape[2]
        keys = positions[batch.cu_seqlens[seq] :][:num_keys] - seq * seq_len
        padded[seq][:, keys[:, None], keys] = probs[:, :num_keys]
    return padded


def _check_segments(token_type_ids: Any, layout: Layout) -> None:
    segments = np.asarray(token_type_ids)
    if segments.shape != layout.shape:
        raise InvalidInput(f"token_type_ids must have shape {list(layout.shape)} like the inputs, "
                           f"found {list(segments.shape)}")  # fmt: skip
    if layout.gather(segments).any():
        raise InvalidInput("token_type_ids must be 0: this model is a BERT folded into a DistilBERT, which has no "
                           "other segment")  # fmt: skip


def _as_choices(value: Any, name: str, rank: int) -> Any:
    """`[batch_size, num_choices, …]` as `[batch_size * num_choices, …]`."""
    if value is None:
        return None
    array = value if _is_tensor(value) else np.asarray(value)
    if array.ndim != rank:
        shape = "[batch_size, num_choices, seq_len" + (", hidden_size]" if rank == 4 else "]")
        raise InvalidInput(f"{name} must have shape {shape}, found {list(array.shape)}")
    return array.reshape(array.shape[0] * array.shape[1], *array.shape[2:])


def _is_tensor(value: Any) -> bool:
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, getattr(torch, "Tensor", ()))


def _as_numpy(value: Any) -> Any:
    """A torch tensor as an array, without a copy where it is on the CPU; anything else as it is."""
    if not _is_tensor(value):
        return value
    value = value.detach().cpu()
    return value.float().numpy() if str(value.dtype) == "torch.bfloat16" else value.numpy()


def _as_tensor(value: Any, device: Any) -> Any:
    """An array, or a tuple of arrays, as torch tensors on `device`, without a copy where that is the CPU."""
    if value is None:
        return None
    if isinstance(value, tuple):
        return tuple(_as_tensor(item, device) for item in value)
    return sys.modules["torch"].from_numpy(np.asarray(value)).to(device)

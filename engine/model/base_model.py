"""What the six model classes share: loading and saving, one run of the encoder and a head, and the answer.

A model computes but does not learn, and knows nothing of text. There are two roads. Inputs are packed and checked on
the host, unless all of them are tensors where the backend computes; those are packed there and the host sees none of
their values (`Backend.run_padded`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar, cast

import numpy as np
import numpy.typing as npt

from distilrt.backends import base as backends
from distilrt.batch import Batch, Layout, PaddedInputs, pack_padded
from distilrt.checkpoint import packed
from distilrt.checkpoint import upload as hub_upload
from distilrt.checkpoint.source import Source
from distilrt.checkpoint.weights import load_weights, random_weights, save_checkpoint
from distilrt.errors import InvalidInput
from distilrt.model import losses, reference
from distilrt.model.architecture import expected_shapes
from distilrt.model.array_kinds import as_numpy, as_tensor, is_tensor
from distilrt.model.config import DistilBertConfig
from distilrt.model.heads import HEADS
from distilrt.model.input_embeddings import InputEmbeddings
from distilrt.model.load_arguments import settled
from distilrt.model.outputs import ModelOutput, selected_states
from distilrt.model.placement import Placed

if TYPE_CHECKING:
    from typing_extensions import Self

    from distilrt.checkpoint.int8 import Calibration

Array = npt.NDArray[Any]
_Output = TypeVar("_Output", bound=ModelOutput)
_Model = TypeVar("_Model", bound="BaseModel[Any]")


class BaseModel(Placed, Generic[_Output]):
    """What the six classes share: loading, the encoder, and the way back to the caller's kind of array.

    Safe to call from many threads.

    Args:
        config: the model's shape; transformers' `DistilBertConfig` too.
        weights: canonical names to float32 arrays; None: random, as in the reference.
        backend: "auto", "reference", "cpu" or "cuda".
        dtype: "auto", the checkpoint's own, or one that the backend has.
        num_threads: CPU threads; None: what the machine allows.
        calibration: how int8 quantizes on the CPU (`distilrt.checkpoint.int8`); None: without example texts.

    Raises:
        BackendError: the backend or dtype is not available here.
    """

    architecture: ClassVar[str]
    masked_outputs = False  # compute outputs of single positions at masked ones too, where they else are zero

    def __init__(
        self,
        config: DistilBertConfig | Any,
        weights: Mapping[str, Array] | None = None,
        *,
        backend: str = "auto",
        dtype: str = "auto",
        num_threads: int | None = None,
        calibration: Calibration | None = None,
    ) -> None:
        self.config = config = DistilBertConfig.of(config)
        self.weights = random_weights(config, self.architecture) if weights is None else weights
        self._head = HEADS[self.architecture]
        self.backend = backends.create(
            backend,
            config,
            self.weights,
            dtype=dtype,
            num_threads=num_threads,
            calibration=calibration,
            head=self._head,
        )

    @classmethod
    def from_pretrained(
        cls,
        model: str | Path | Source | None = None,
        backend: str = "auto",
        dtype: Any = "auto",
        num_threads: int | None = None,
        revision: str | None = None,
        subfolder: str = "",
        token: str | bool | None = None,
        cache_dir: str | Path | None = None,
        local_files_only: bool = False,
        *,
        config: Any = None,
        use_safetensors: bool | None = None,
        strict: bool = False,
        **arguments: Any,
    ) -> Self:
        """Load a folder or a hub id, or open a packed folder.

        Args:
            dtype: "auto", a name, or a dtype of torch.
            config: in place of the folder's: one of ours or of transformers, a dict, or a folder or hub id.
            use_safetensors: True: of the formats of weights only safetensors; False: only the others.
            strict: refuse a checkpoint with tensors that the model does not use, instead of warning.
            arguments: fields of the config to be otherwise (`num_labels`, `id2label`, `output_hidden_states` and so
                on), and what else transformers takes, see `load_arguments`.

        `dtype="int8"` of a float checkpoint on the CPU calibrates first, with built-in texts and the tokenizer beside
        the weights, which takes seconds; without a tokenizer it does not. A packed folder has that done.

        Raises:
            OSError: the folder, the repository or a file of it is not there.
            CheckpointError: the files do not hold this model, or a packed folder is to serve another backend.
            BackendError: the backend or dtype is not available here.
            TypeError, ValueError: an argument that there is not, or that can't be followed.
        """
        model, backend, dtype, token, changes = settled(model, backend, dtype, token, arguments)
        source = Source.of(model, revision, subfolder, token, cache_dir, local_files_only)
        config = DistilBertConfig.of(source if config is None else config)
        if changes:
            config = config.replace(**changes)
        weights: Mapping[str, Array]
        folder = packed.find(source)
        calibration = None
        if folder is None:
            weights = load_weights(source, cls.architecture, config, use_safetensors=use_safetensors, strict=strict)
            if dtype == "int8" and backends.chosen(backend, weights) == "cpu":
                from distilrt.checkpoint.int8 import (
                    calibration_of,  # loads the tokenizer, which no other dtype needs
                )

                calibration = calibration_of(source, config, weights)
        else:
            config, weights = packed.load(folder, cls.architecture, config)
        return cls(config, weights, backend=backend, dtype=dtype, num_threads=num_threads, calibration=calibration)

    def save_pretrained(self, folder: str | Path) -> None:
        """Write config and weights where the reference and `from_pretrained` can read them."""
        save_checkpoint(folder, self.config, self.weights, self.architecture)

    def push_to_hub(self, repo_id: str, **options: Any) -> str:
        """Upload what `save_pretrained` writes, and a section of the model card; see `hub_upload.upload`."""
        return hub_upload.upload(self.save_pretrained, repo_id, architecture=self.architecture, **options)

    def num_parameters(self, only_trainable: bool = False, exclude_embeddings: bool = False) -> int:
        """How many numbers the model has, as transformers counts them; a tied vocabulary projection counts once.

        Args:
            only_trainable: makes no difference, for all of them are what training made.
            exclude_embeddings: leave the tables of words and positions out.
        """
        shapes = expected_shapes(self.config, self.architecture)
        if self.config.tie_word_embeddings:
            shapes.pop("vocab_projector.weight", None)
        if exclude_embeddings:
            shapes = {name: shape for name, shape in shapes.items() if not name.endswith("_embeddings.weight")}
        return sum(math.prod(shape) for shape in shapes.values())

    def state_dict(self) -> dict[str, Array]:
        """The weights as float32 arrays by the reference's names."""
        own, prefix = self._head.tensors, self._head.encoder_prefix
        names = expected_shapes(self.config, self.architecture)
        return {name if name in own else prefix + name: self.weights[name] for name in names}

    def get_input_embeddings(self) -> InputEmbeddings:
        """The word embeddings, which look up what the model takes as `inputs_embeds`."""
        return InputEmbeddings(self.weights["embeddings.word_embeddings.weight"], self.config.pad_token_id)

    def __deepcopy__(self, memo: Any) -> Self:
        return self._shared_as(type(self))  # nothing of it can change, so that copies may share everything

    def __reduce__(self) -> Any:
        """With the numbers it computes with, for a process that may lack the checkpoint, and makes its own threads."""
        weights = self.weights
        if isinstance(weights, packed.PackedWeights) or (self.backend.name, self.dtype) == ("cpu", "int8"):
            weights = packed.in_memory(self)  # rounding anew would take the calibration's texts
        threads = self.backend.describe().get("num_threads")
        made = partial(type(self), backend=self.backend.name, dtype=self.backend.dtype, num_threads=threads)
        return made, (self.config, weights)

    def _shared_as(self, cls: type[_Model]) -> _Model:
        """A model of another class on the same backend, hence the same memory and threads."""
        made = object.__new__(cls)
        vars(made).update(vars(self), _head=HEADS[cls.architecture])
        return made

    def _forward(
        self,
        inputs: PaddedInputs,
        output_hidden_states: bool | int | list[int] | None,
        output_attentions: bool | None,
        return_dict: bool | None,
        *labels: Any,
    ) -> _Output:
        """The head's output in the caller's kind of array; a tuple of its fields if no dict is wanted.

        The type leaves the tuple out: hardly anybody asks for it, and everybody would have to narrow it.

        Args:
            inputs: as the caller gave them.
            output_hidden_states, output_attentions, return_dict: None: what the config says.
            labels: the arguments that the head's `labels` names; there is a loss if none of them is None.
        """
        config, head = self.config, self._head
        states = config.output_hidden_states if output_hidden_states is None else output_hidden_states
        attentions = config.output_attentions if output_attentions is None else output_attentions
        choices = None
        if head.has_choices:
            choices, inputs = _flattened(inputs)
        given = [label for label in labels if label is not None]
        with_loss = bool(given) and len(given) == len(labels)
        run = self._encode(inputs, states, attentions, labels if with_loss else ())
        scores = run.scores if choices is None else run.scores.reshape(choices)
        fields = {"hidden_states": run.hidden_states, "attentions": run.attentions}
        for column, name in enumerate(head.fields):
            fields[name] = scores if len(head.fields) == 1 else _column(scores, column)
        if with_loss:
            every = run.with_masked if choices is None else scores
            fields["loss"] = scores.dtype.type(self._loss(every, *map(as_numpy, labels)))
        if run.device is not None:
            fields = {name: as_tensor(value, run.device) for name, value in fields.items()}
        output: Any = head.output(**fields)
        as_dict = config.return_dict if return_dict is None else return_dict
        return cast(_Output, output if as_dict else output.to_tuple())

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
        """Pack, run the encoder and the head over its rows, and unpack what was asked for of its inner states.

        Args:
            inputs: `[batch_size, seq_len]` and so on.
            want_states: as the caller's `output_hidden_states`.
            want_attentions: return attention probabilities.
            labels: of a loss, which is computed on the host.
            first_only: without a head: only position 0 of each sequence is wanted.
        """
        first_only = first_only or self._head.reads == "first"
        if not (labels or want_attentions or self.masked_outputs) and self.backend.packs(inputs):
            with_head = self._head is self.backend.head
            scores, states = self.backend.run_padded(
                inputs, with_head=with_head, first_only=first_only, all_layers=bool(want_states)
            )
            return Encoded(scores, hidden_states=selected_states(states, want_states) if want_states else None)
        keep_masked = self.masked_outputs or (
            bool(labels)
            and not first_only
            and losses.counts_masked(as_numpy(labels[0]), as_numpy(inputs.attention_mask))
        )
        return self._encode_on_host(inputs, want_states, want_attentions, first_only, keep_masked)

    def _encode_on_host(
        self,
        inputs: PaddedInputs,
        want_states: bool | int | list[int],
        want_attentions: bool,
        first_only: bool,
        keep_masked: bool,
    ) -> Encoded:
        config, backend, head = self.config, self.backend, self._head
        ids, mask, embeds, position_ids, segments = map(as_numpy, inputs)
        batch, layout = pack_padded(
            config, ids, mask, position_ids, embeds, keep_first=first_only, keep_masked=keep_masked
        )
        if config.folded_bert and segments is not None:
            _check_segments(segments, layout)
        wanted = layout.first_rows if first_only else None
        unpack = partial(layout.unpack, masked=self.masked_outputs)
        hidden_states = attentions = None
        if want_states or want_attentions:
            every = backend.forward(batch, all_layers=True)
            rows = backend.to_numpy(head.compute(backend, every[-1] if wanted is None else every[-1][wanted]))
            states = backend.to_numpy(every)
            if want_states:
                hidden_states = selected_states(tuple(map(unpack, states)), want_states)
            if want_attentions:
                attentions = tuple(
                    _unpack_attentions(config, self.weights, index, layer, batch, layout)
                    for index, layer in enumerate(states[:-1])
                )
        elif head is backend.head:
            rows = backend.answer(batch, wanted)
        else:
            rows = backend.to_numpy(backend.forward(batch, wanted=wanted))
        given = inputs.inputs_embeds if inputs.input_ids is None else inputs.input_ids
        return Encoded(
            rows if first_only else unpack(rows),
            rows,
            layout,
            given.device if is_tensor(given) else None,
            hidden_states,
            attentions,
        )


@dataclass(frozen=True, slots=True)
class Encoded:
    """One run of the encoder and a head. Packed on the backend's own device it has tensors, and no rows and layout."""

    scores: Any  # the head's output [batch_size, seq_len, width], or of the first rows [batch_size, width]
    rows: Any = None  # the same, packed: [total_tokens, width] or [batch_size, width]
    layout: Any = None  # Layout
    device: Any = None  # torch device to bring arrays to; None: leave them as they are
    hidden_states: tuple[Any, ...] | None = None  # padded
    attentions: tuple[Array, ...] | None = None  # padded

    @property
    def with_masked(self) -> Any:
        """The head's output with the numbers of masked positions that were packed, which are zero in `scores`."""
        if self.rows is self.scores or self.layout.masked_rows is None:
            return self.scores
        return self.layout.unpack(self.rows, masked=True)


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
    array = value if is_tensor(value) else np.asarray(value)
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

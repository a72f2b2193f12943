"""The heads: one record for each architecture, which says everything that tells it from the others.

Checkpoints, backends, model classes, the server and the drop-ins read `HEADS`; none of them knows an architecture by
its name. A new head is a record here, a class in `distilrt.model.models`, a task and their tests.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, Protocol

from distilrt.model import losses, outputs
from distilrt.model.config import DistilBertConfig

Rows = Any  # [rows, width] of floats, of the backend's own kind: NumPy arrays or tensors
Dimensions = tuple[str | int, ...]  # numbers, or names of config properties


class HeadBackend(Protocol):
    """What a head needs of the backend that owns its weights."""

    config: DistilBertConfig

    def linear(self, name: str, rows: Any, activation: str | None = None) -> Any:
        """See `distilrt.backends.base.Backend`."""
        ...

    def layer_norm(self, name: str, rows: Any) -> Any:
        """See `distilrt.backends.base.Backend`."""
        ...


@dataclass(frozen=True, slots=True)
class Projection:
    """A linear layer of a head, from `[n, hidden_size]` to `[n, width]`, and the activation behind it."""

    name: str  # the reference's
    width: str | int  # a property of the config, or a number
    activation: str | None = None  # "config": the one that the config names; "pooled": DistilBERT's ReLU, BERT's tanh

    @property
    def tensors(self) -> dict[str, Dimensions]:
        """The name and dimensions of each parameter."""
        return {f"{self.name}.weight": (self.width, "hidden_size"), f"{self.name}.bias": (self.width,)}

    def activation_of(self, config: DistilBertConfig) -> str | None:
        """The name of its activation in a model with this config."""
        if self.activation == "pooled":
            return "tanh" if config.is_bert else "relu"
        return config.activation if self.activation == "config" else self.activation

    def compute(self, backend: HeadBackend, rows: Rows) -> Rows:
        """The layer's output for rows `[n, hidden_size]`."""
        return backend.linear(self.name, rows, self.activation_of(backend.config))


@dataclass(frozen=True, slots=True)
class Norm:
    """A layer norm of a head over `[n, hidden_size]`."""

    name: str  # the reference's

    @property
    def tensors(self) -> dict[str, Dimensions]:
        """The name and dimensions of each parameter."""
        return {f"{self.name}.weight": ("hidden_size",), f"{self.name}.bias": ("hidden_size",)}

    def compute(self, backend: HeadBackend, rows: Rows) -> Rows:
        """The layer's output for rows `[n, hidden_size]`."""
        return backend.layer_norm(self.name, rows)


@dataclass(frozen=True, kw_only=True, eq=False)
class Head:
    """What follows the encoder in one architecture.

    Attributes:
        architecture: the reference's class, which is also the class in `distilrt.model.models`.
        task: what an engine and a model card do with it unless told otherwise, a key of `distilrt.tasks.TASKS`.
        reads: the hidden states of "all" tokens, or of the "first" token of each sequence alone.
        layers: what it computes from them, in order; dropout is the identity at inference.
        output: the class that its model returns.
        fields: the dimensions of each field of the output that it computes: names of config properties, "batch_size",
            "seq_len" or "num_choices". Several fields are columns of the last layer's output.
        labels: the arguments of the model that are needed for a loss.
        loss: takes the config, the head's output and the labels.
        makes_vectors: sentence-transformers' files may say how vectors are made of its output.
    """

    architecture: str
    task: str
    reads: Literal["all", "first"] = "all"
    layers: tuple[Projection | Norm, ...] = ()
    output: type[outputs.ModelOutput]
    fields: Mapping[str, tuple[str, ...]]
    labels: tuple[str, ...] = ()
    loss: Callable[..., float] | None = None
    makes_vectors: bool = False

    @cached_property
    def width(self) -> str | int:
        """How many numbers it gives for each row: a property of the config, or a number."""
        projections = [layer.width for layer in self.layers if isinstance(layer, Projection)]
        return projections[-1] if projections else "hidden_size"

    @cached_property
    def tensors(self) -> dict[str, Dimensions]:
        """The name and dimensions of each parameter, in the order of files."""
        return {name: dimensions for layer in self.layers for name, dimensions in layer.tensors.items()}

    @cached_property
    def has_labels(self) -> bool:
        """Whether its outputs are the labels that the config names."""
        return self.width == "num_labels"

    @cached_property
    def has_choices(self) -> bool:
        """Whether its inputs are `[batch_size, num_choices, seq_len]`."""
        return any("num_choices" in dimensions for dimensions in self.fields.values())

    @cached_property
    def bert(self) -> str:
        """transformers' class of the same head behind a BERT."""
        return self.architecture.replace("DistilBert", "Bert", 1)

    def compute(self, backend: HeadBackend, rows: Rows) -> Rows:
        """The head's output `[n, width]` for hidden states `[n, hidden_size]`; without layers these themselves."""
        for layer in self.layers:
            rows = layer.compute(backend, rows)
        return rows


# The first layer of a classifier of the first token. In a BERT it is the pooler, which the bare encoder may have too.
POOLER = Projection("pre_classifier", "hidden_size", "pooled")
ENCODER = Head(
    architecture="DistilBertModel",
    task="feature-extraction",
    output=outputs.BaseModelOutput,
    fields={"last_hidden_state": ("batch_size", "seq_len", "hidden_size")},
    makes_vectors=True,
)
HEADS: Mapping[str, Head] = {
    head.architecture: head
    for head in (
        ENCODER,
        Head(
            architecture="DistilBertForMaskedLM",
            task="fill-mask",
            layers=(
                Projection("vocab_transform", "hidden_size", "config"),
                Norm("vocab_layer_norm"),
                Projection("vocab_projector", "vocab_size"),
            ),
            output=outputs.MaskedLMOutput,
            fields={"logits": ("batch_size", "seq_len", "vocab_size")},
            labels=("labels",),
            loss=losses.token_level,
            makes_vectors=True,
        ),
        Head(
            architecture="DistilBertForSequenceClassification",
            task="text-classification",
            reads="first",
            layers=(POOLER, Projection("classifier", "num_labels")),
            output=outputs.SequenceClassifierOutput,
            fields={"logits": ("batch_size", "num_labels")},
            labels=("labels",),
            loss=losses.sequence_classification,
        ),
        Head(
            architecture="DistilBertForMultipleChoice",
            task="multiple-choice",
            reads="first",
            layers=(POOLER, Projection("classifier", 1)),
            output=outputs.MultipleChoiceModelOutput,
            fields={"logits": ("batch_size", "num_choices")},
            labels=("labels",),
            loss=losses.multiple_choice,
        ),
        Head(
            architecture="DistilBertForQuestionAnswering",
            task="question-answering",
            layers=(Projection("qa_outputs", 2),),
            output=outputs.QuestionAnsweringModelOutput,
            fields={"start_logits": ("batch_size", "seq_len"), "end_logits": ("batch_size", "seq_len")},
            labels=("start_positions", "end_positions"),
            loss=losses.question_answering,
        ),
        Head(
            architecture="DistilBertForTokenClassification",
            task="token-classification",
            layers=(Projection("classifier", "num_labels"),),
            output=outputs.TokenClassifierOutput,
            fields={"logits": ("batch_size", "seq_len", "num_labels")},
            labels=("labels",),
            loss=losses.token_level,
        ),
    )
}

"""Model configuration: the reference's field names outside, canonical names inside.

This is the only module that knows that a checkpoint calls the width `dim`, the FFN width `hidden_dim`, the attention
heads `n_heads` and the layers `n_layers`; the rest of the engine says `hidden_size`, `intermediate_size`, `num_heads`
and `num_layers`. What a BERT's config calls them is in `distilrt.model.bert_config`. It reads no weights.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from distilrt.checkpoint import adapter
from distilrt.checkpoint.files import read_object, replacing
from distilrt.checkpoint.source import Source
from distilrt.errors import CheckpointError
from distilrt.model import bert_config

ACTIVATIONS = ("gelu", "relu", "gelu_new", "gelu_pytorch_tanh", "silu")
PROBLEM_TYPES = ("regression", "single_label_classification", "multi_label_classification")
# Other names that the reference has for the same functions; the chosen name is kept, so kernels see only ACTIVATIONS.
_SAME_ACTIVATION = {
    "swish": "silu",
    "gelu_python": "gelu",
    "gelu_accurate": "gelu_new",
    "gelu_fast": "gelu_new",
    "gelu_python_tanh": "gelu_pytorch_tanh",
}
HEAD_DIM_RANGE = (1, 128)
MOST_UNNAMED_LABELS = 1_000_000  # names that are made up for a count alone, before any file is asked whether it fits
LAYER_NORM_EPS = 1e-12  # a constant of the reference, not a field of its config

# What each field may be: names of fields, the allowed values in words, and the check.
_RULES: tuple[tuple[tuple[str, ...], str, Callable[[Any], bool]], ...] = (
    (
        ("vocab_size", "max_position_embeddings", "n_layers", "n_heads", "dim", "hidden_dim"),
        "an integer of at least 1",
        lambda value: type(value) is int and value >= 1,
    ),
    (("type_vocab_size",), "an integer of at least 0", lambda value: type(value) is int and value >= 0),
    (("sinusoidal_pos_embds", "tie_word_embeddings", "add_pooling_layer"), "true or false", lambda x: type(x) is bool),
    (
        ("output_hidden_states", "output_attentions", "return_dict"),
        "true or false",
        lambda x: isinstance(x, bool | None),
    ),
    (
        ("dropout", "attention_dropout", "initializer_range", "qa_dropout", "seq_classif_dropout"),
        "a finite number of at least 0",
        lambda value: isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < math.inf,
    ),
    (("activation",), f"one of {', '.join(ACTIVATIONS)}", lambda value: value in [*ACTIVATIONS]),
    (("problem_type",), f"one of {', '.join(PROBLEM_TYPES)}, or None", lambda value: value in [None, *PROBLEM_TYPES]),
    (("dtype",), "None or the name of a dtype", lambda value: value is None or value.isidentifier()),
    (
        ("architectures",),
        "None or a list of class names",
        lambda value: (
            value is None or (isinstance(value, list | tuple) and all(isinstance(name, str) for name in value))
        ),
    ),
)


@dataclass(frozen=True, kw_only=True)
class DistilBertConfig:
    """Shape and behaviour of a DistilBERT, with the reference's field names and defaults.

    Immutable; `replace` makes a changed copy. Keys of a config file that the engine does not use are kept in `extra`
    and written back by `to_dict`. Canonical names are properties: `hidden_size`, `num_heads`, `head_dim`,
    `num_layers`, `intermediate_size`. A BERT's config has a `type_vocab_size` of at least 1, how many token types have
    an embedding; its `add_pooling_layer` says whether the bare encoder's checkpoint has a pooler. `to_dict` writes
    BERT's names for it.

    Raises:
        ValueError: a field is out of its range; the message names the field, the range and the value found.
        TypeError: an unknown field name.
    """

    vocab_size: int = 30522
    max_position_embeddings: int = 512
    sinusoidal_pos_embds: bool = False
    n_layers: int = 6
    n_heads: int = 12
    dim: int = 768
    hidden_dim: int = 3072
    dropout: float = 0.1
    attention_dropout: float = 0.1
    activation: str = "gelu"
    initializer_range: float = 0.02
    qa_dropout: float = 0.1
    seq_classif_dropout: float = 0.2
    pad_token_id: int | None = 0
    tie_word_embeddings: bool = True
    num_labels: int | None = None
    id2label: Mapping[int, str] | None = None
    label2id: Mapping[str, int] | None = None
    problem_type: str | None = None
    architectures: tuple[str, ...] | None = None
    dtype: str | None = None
    output_hidden_states: bool = False
    output_attentions: bool = False
    return_dict: bool = True
    type_vocab_size: int = 0
    add_pooling_layer: bool = False
    extra: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        settle = partial(object.__setattr__, self)
        if isinstance(self.activation, str):
            settle("activation", _SAME_ACTIVATION.get(self.activation, self.activation))
        if self.dtype is not None:
            settle("dtype", str(self.dtype).removeprefix("torch."))
        for names, allowed, fits in _RULES:
            for name in names:
                if not fits(getattr(self, name)):
                    raise ValueError(f"config.{name} must be {allowed}, found {getattr(self, name)!r}")
        if self.architectures is not None:
            settle("architectures", tuple(self.architectures))
        if self.dim % self.n_heads:
            raise ValueError(f"config.dim ({self.dim}) must be divisible by config.n_heads ({self.n_heads})")
        low, high = HEAD_DIM_RANGE
        if not low <= self.head_dim <= high:
            raise ValueError(
                f"config.dim / config.n_heads is the width of an attention head and must be {low} to {high}, "
                f"found {self.dim} / {self.n_heads} = {self.head_dim}"
            )
        pad = self.pad_token_id
        # The reference's embedding counts a negative padding row from the end, and some checkpoints say -1.
        if pad is not None and not (type(pad) is int and -self.vocab_size <= pad < self.vocab_size):
            allowed = f"None or an integer of {-self.vocab_size} to {self.vocab_size - 1}"
            raise ValueError(f"config.pad_token_id must be {allowed}, found {pad!r}")
        id2label = self._labels()
        settle("num_labels", len(id2label))
        label2id = self.label2id if self.id2label else None  # without names of its own it is made anew
        settle("id2label", id2label)
        numbered = {label: i for i, label in id2label.items()}
        settle("label2id", _converted("label2id", label2id, str, int) if label2id else numbered)
        if self.problem_type == "single_label_classification" and self.num_labels == 1:
            raise ValueError(
                "config.problem_type 'single_label_classification' needs at least 2 labels, found 1; "
                "use num_labels=2, or problem_type='regression'"
            )

    def _labels(self) -> dict[int, str]:
        """The labels by number: those that are named, or as many as are asked for; two are the reference's default."""
        count = self.num_labels
        if not self.id2label:
            count = 2 if count is None else count
            if type(count) is not int or not 1 <= count <= MOST_UNNAMED_LABELS:
                raise ValueError(
                    f"config.num_labels must be an integer of 1 to {MOST_UNNAMED_LABELS}, found {count!r};"
                    " more labels need names, in config.id2label"
                )
            return {i: f"LABEL_{i}" for i in range(count)}
        labels = _converted("id2label", self.id2label, int, str)
        if len(labels) != len(self.id2label):
            raise ValueError(f"config.id2label names one label twice, found {self.id2label!r}")
        if count not in (None, len(labels)):
            raise ValueError(
                f"config.num_labels is {count} but config.id2label names {len(labels)}; "
                "give one of them, or make them agree"
            )
        return labels

    @property
    def hidden_size(self) -> int:
        """Width of the residual stream."""
        return self.dim

    @property
    def num_heads(self) -> int:
        """Attention heads per layer."""
        return self.n_heads

    @property
    def head_dim(self) -> int:
        """Width of one attention head."""
        return self.dim // self.n_heads

    @property
    def num_layers(self) -> int:
        """Transformer layers."""
        return self.n_layers

    @property
    def intermediate_size(self) -> int:
        """Width of the feed-forward network."""
        return self.hidden_dim

    @property
    def is_bert(self) -> bool:
        """Whether token types have embeddings, and a vector is pooled with tanh."""
        return self.type_vocab_size > 0

    @property
    def model_type(self) -> str:
        """transformers' name for the kind of model: "distilbert" or "bert"."""
        return "bert" if self.is_bert else "distilbert"

    @property
    def predicts_next_sentence(self) -> bool:
        """Whether its classifier says if the second text of a pair follows the first: label 0 means that it does."""
        return self.is_bert and bert_config.NEXT_SENTENCE in (self.architectures or ())

    @property
    def num_position_rows(self) -> int:
        """Rows of the table of positions as backends have it: all positions of token type 0, then those of type 1, …"""
        return self.max_position_embeddings * max(self.type_vocab_size, 1)

    @property
    def num_attention_heads(self) -> int:
        """transformers' alias of `n_heads`."""
        return self.n_heads

    @property
    def num_hidden_layers(self) -> int:
        """transformers' alias of `n_layers`."""
        return self.n_layers

    def label_names(self) -> list[str]:
        """The labels in index order.

        Raises:
            ValueError: they are not numbered 0, 1, 2, …, so that it is not known which output is which label.
        """
        assert self.id2label is not None
        if self.id2label.keys() != set(range(len(self.id2label))):
            raise ValueError(
                f"config.id2label must number {len(self.id2label)} labels 0 to {len(self.id2label) - 1}, "
                f"found {', '.join(map(str, sorted(self.id2label)))}; "
                "correct config.json, or give id2label"
            )
        return [self.id2label[i] for i in range(len(self.id2label))]

    def replace(self, **changes: Any) -> DistilBertConfig:
        """A copy with some fields changed, transformers' aliases of them too.

        Another number of labels, without names, renames them LABEL_0, LABEL_1, …

        Raises:
            ValueError: a field is out of its range.
            TypeError: an unknown field name.
        """
        changes = {bert_config.ALIASES.get(name, name): value for name, value in changes.items()}
        if "id2label" in changes:
            changes = {"num_labels": None, "label2id": None} | changes
        elif changes.get("num_labels", self.num_labels) != self.num_labels:
            changes = {"id2label": None, "label2id": None} | changes
        return dataclasses.replace(self, **changes)

    def to_dict(self) -> dict[str, Any]:
        """The config as a JSON-ready dict in the reference's field names, or a BERT's, `model_type` included."""
        out: dict[str, Any] = {"model_type": self.model_type}
        for item in dataclasses.fields(self):
            if item.name not in ("extra", "num_labels", *bert_config.OWN_FIELDS):
                out[item.name] = getattr(self, item.name)
        out["id2label"] = {str(i): label for i, label in (self.id2label or {}).items()}
        out["label2id"] = dict(self.label2id or {})
        out["architectures"] = None if self.architectures is None else list(self.architectures)
        if self.is_bert:
            own = {name: getattr(self, name) for name in bert_config.OWN_FIELDS}
            out = bert_config.renamed(out) | own | {"layer_norm_eps": LAYER_NORM_EPS}
        return out | dict(self.extra)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> DistilBertConfig:
        """Build from the content of a `config.json` of a DistilBERT or a BERT.

        Raises:
            CheckpointError: another architecture, or a BERT whose arithmetic a DistilBERT does not have.
            ValueError: a field out of its range.
        """
        values = dict(values)
        model_type = values.pop("model_type", "distilbert")
        of_bert: dict[str, Any] = {}
        if model_type == "bert":
            values, of_bert = bert_config.read(values, LAYER_NORM_EPS)
        elif model_type != "distilbert":
            raise bert_config.unsupported(model_type)
        old_dtype = values.pop("torch_dtype", None)  # the name of `dtype` before transformers 4.56
        if values.get("dtype") is None:
            values["dtype"] = old_dtype
        # Where a file contradicts itself, the reference lets the alias and the number of labels win; so do we.
        for alias, name in bert_config.ALIASES.items():
            if alias in values:
                values[name] = values.pop(alias)
        count, named = values.get("num_labels"), values.get("id2label")
        if count is not None and isinstance(named, Mapping) and count != len(named):
            values |= {"id2label": None, "label2id": None}
        known = {item.name for item in dataclasses.fields(cls)} - {"extra", *bert_config.OWN_FIELDS}
        extra = {key: value for key, value in values.items() if key not in known}
        fields = {key: value for key, value in values.items() if key in known}
        try:
            return cls(**fields, **of_bert, extra=extra)
        except ValueError as error:
            raise ValueError(bert_config.in_its_names(str(error)) if of_bert else str(error)) from None

    @classmethod
    def from_pretrained(
        cls,
        model: str | Path | Source,
        *,
        revision: str | None = None,
        subfolder: str = "",
        token: str | bool | None = None,
        cache_dir: str | Path | None = None,
        local_files_only: bool = False,
        **changes: Any,
    ) -> DistilBertConfig:
        """Read `config.json` of a folder or a hub id; `changes` are fields to be otherwise, as in `replace`.

        Raises:
            OSError: the folder, the repository or its `config.json` is not there.
            CheckpointError: the file is not JSON, has a field out of its range, or describes another architecture.
            ValueError, TypeError: as `replace`.
        """
        source = Source.of(model, revision, subfolder, token, cache_dir, local_files_only)
        path = source.file("config.json")
        if path is None:
            raise OSError(
                f"{source} has no config.json: a checkpoint is a folder or repository with config.json, weights and a "
                "tokenizer"
            )
        try:
            config = cls.from_dict(read_object(path))
        except CheckpointError:
            raise
        except ValueError as error:
            raise CheckpointError(f"{path}: {error}") from None
        if source.adapter is not None:
            changes = adapter.head(source.adapter) | changes
        return config.replace(**changes) if changes else config

    @classmethod
    def of(cls, config: Any) -> DistilBertConfig:
        """The config that is meant: one of ours or of transformers, the content of a `config.json`, or where one is.

        Raises:
            TypeError: none of these.
            OSError, CheckpointError, ValueError: as `from_pretrained` and `from_dict`.
        """
        if isinstance(config, cls):
            return config
        if isinstance(config, str | Path | Source):
            return cls.from_pretrained(config)
        values = config.to_dict() if hasattr(config, "to_dict") else config
        if not isinstance(values, Mapping):
            raise TypeError(
                "config must be a DistilBertConfig, of distilrt or transformers, a dict, a folder or a hub "
                f"id, found {type(config).__name__}"
            )
        return cls.from_dict(values)

    def save_pretrained(self, folder: str | Path) -> None:
        """Write `config.json` into `folder`, which is made if needed; a crash leaves the old file or the new one."""
        target = Path(folder)
        target.mkdir(parents=True, exist_ok=True)
        text = json.dumps(self.to_dict(), indent=2, sort_keys=True, ensure_ascii=False)
        with replacing(target / "config.json") as file:
            file.write(text.encode() + b"\n")


AutoConfig = DistilBertConfig  # transformers' class that reads a config of any type


def _converted(name: str, mapping: Any, key: type, value: type) -> dict[Any, Any]:
    """A mapping of labels with keys and values of these types."""
    try:
        return {key(left): value(right) for left, right in mapping.items()}
    except (AttributeError, TypeError, ValueError, OverflowError):
        allowed = "label numbers to names" if key is int else "names to label numbers"
        raise ValueError(f"config.{name} must map {allowed}, found {mapping!r}") from None

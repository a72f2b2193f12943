"""Model configuration: the reference's field names outside, canonical names inside.

This is the only module that knows that a checkpoint calls the width `dim`, the FFN width `hidden_dim`, the attention
heads `n_heads` and the layers `n_layers`; the rest of the engine says `hidden_size`, `intermediate_size`, `num_heads`
and `num_layers`. It also maps the config of a BERT encoder that can be run as a DistilBERT. It reads no weights.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from distilrt.checkpoint.files import read_object, replacing
from distilrt.checkpoint.source import Source
from distilrt.errors import CheckpointError

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

# transformers' names for the same things, accepted in a config file beside DistilBERT's own.
_ALIASES = {"hidden_size": "dim", "num_attention_heads": "n_heads", "num_hidden_layers": "n_layers"}
_BERT_NAMES = _ALIASES | {
    "intermediate_size": "hidden_dim",
    "hidden_act": "activation",
    "hidden_dropout_prob": "dropout",
    "attention_probs_dropout_prob": "attention_dropout",
}
_SIZES = ("vocab_size", "max_position_embeddings", "n_layers", "n_heads", "dim", "hidden_dim")
_SWITCHES = {
    "sinusoidal_pos_embds": bool,
    "tie_word_embeddings": bool,
    "output_hidden_states": bool | None,
    "output_attentions": bool | None,
    "return_dict": bool | None,
}
_RATES = ("dropout", "attention_dropout", "initializer_range", "qa_dropout", "seq_classif_dropout")
# Fields of a BERT config that have no meaning once it is folded into a DistilBERT.
_BERT_ONLY = ("type_vocab_size", "layer_norm_eps", "position_embedding_type", "use_cache", "is_decoder",
              "add_cross_attention", "gradient_checkpointing", "classifier_dropout", "_name_or_path")  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class DistilBertConfig:
    """Shape and behaviour of a DistilBERT, with the reference's field names and defaults.

    Immutable; `replace` makes a changed copy. Keys of a config file that the engine does not use are kept in `extra`
    and written back by `to_dict`. Canonical names are properties: `hidden_size`, `num_heads`, `head_dim`,
    `num_layers`, `intermediate_size`. `folded_bert` says that the weights come from a BERT encoder, whose segment-0
    embedding is folded into the position embeddings; it is never written, for what is written is a DistilBERT.

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
    folded_bert: bool = False
    extra: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._check_types()
        if self.dim % self.n_heads:
            raise ValueError(f"config.dim ({self.dim}) must be divisible by config.n_heads ({self.n_heads})")
        low, high = HEAD_DIM_RANGE
        if not low <= self.head_dim <= high:
            raise ValueError(
                f"config.dim / config.n_heads is the width of an attention head and must be {low} to {high}, "
                f"found {self.dim} / {self.n_heads} = {self.head_dim}"
            )
        object.__setattr__(self, "activation", _SAME_ACTIVATION.get(self.activation, self.activation))
        if self.activation not in ACTIVATIONS:
            raise ValueError(f"config.activation must be one of {', '.join(ACTIVATIONS)}, found {self.activation!r}")
        if self.problem_type is not None and self.problem_type not in PROBLEM_TYPES:
            raise ValueError(
                f"config.problem_type must be one of {', '.join(PROBLEM_TYPES)}, or None, found {self.problem_type!r}"
            )
        pad = self.pad_token_id
        # The reference's embedding counts a negative padding row from the end, and some checkpoints say -1.
        if pad is not None and not (type(pad) is int and -self.vocab_size <= pad < self.vocab_size):
            raise ValueError(
                f"config.pad_token_id must be None or an integer of {-self.vocab_size} to "
                f"{self.vocab_size - 1}, found {pad!r}"
            )
        self._settle_labels()
        if self.problem_type == "single_label_classification" and self.num_labels == 1:
            raise ValueError(
                "config.problem_type 'single_label_classification' needs at least 2 labels, found 1; "
                "use num_labels=2, or problem_type='regression'"
            )

    def _check_types(self) -> None:
        for name in _SIZES:
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"config.{name} must be an integer of at least 1, found {value!r}")
        for name, kind in _SWITCHES.items():
            if not isinstance(getattr(self, name), kind):
                raise ValueError(f"config.{name} must be true or false, found {getattr(self, name)!r}")
        for name in _RATES:
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < math.inf:
                raise ValueError(f"config.{name} must be a finite number of at least 0, found {value!r}")
        if not isinstance(self.activation, str):
            raise ValueError(f"config.activation must be one of {', '.join(ACTIVATIONS)}, found {self.activation!r}")
        if self.dtype is not None:
            object.__setattr__(self, "dtype", str(self.dtype).removeprefix("torch."))
            if not str(self.dtype).isidentifier():
                raise ValueError(f"config.dtype must be None or the name of a dtype, found {self.dtype!r}")
        if self.architectures is not None:
            names = self.architectures
            if not isinstance(names, list | tuple) or not all(isinstance(name, str) for name in names):
                raise ValueError(f"config.architectures must be None or a list of class names, found {names!r}")
            object.__setattr__(self, "architectures", tuple(names))

    def _settle_labels(self) -> None:
        """Make num_labels, id2label and label2id agree; two labels are the reference's default."""
        if not self.id2label:
            count = 2 if self.num_labels is None else self.num_labels
            if isinstance(count, bool) or not isinstance(count, int) or not 1 <= count <= MOST_UNNAMED_LABELS:
                raise ValueError(
                    f"config.num_labels must be an integer of 1 to {MOST_UNNAMED_LABELS}, found {count!r};"
                    " more labels need names, in config.id2label"
                )
            id2label = {i: f"LABEL_{i}" for i in range(count)}
        else:
            try:
                id2label = {int(i): str(label) for i, label in self.id2label.items()}
            except (AttributeError, TypeError, ValueError, OverflowError):
                raise ValueError(f"config.id2label must map label numbers to names, found {self.id2label!r}") from None
            if len(id2label) != len(self.id2label):
                raise ValueError(f"config.id2label names one label twice, found {self.id2label!r}")
            if self.num_labels is not None and self.num_labels != len(id2label):
                raise ValueError(
                    f"config.num_labels is {self.num_labels} but config.id2label names {len(id2label)}; "
                    "give one of them, or make them agree"
                )
        if not self.label2id or not self.id2label:
            object.__setattr__(self, "label2id", {label: i for i, label in id2label.items()})
        else:
            try:
                object.__setattr__(self, "label2id", {str(label): int(i) for label, i in self.label2id.items()})
            except (AttributeError, TypeError, ValueError, OverflowError):
                raise ValueError(f"config.label2id must map names to label numbers, found {self.label2id!r}") from None
        object.__setattr__(self, "id2label", id2label)
        object.__setattr__(self, "num_labels", len(id2label))

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
        changes = {_ALIASES.get(name, name): value for name, value in changes.items()}
        if "id2label" in changes:
            changes = {"num_labels": None, "label2id": None} | changes
        elif changes.get("num_labels", self.num_labels) != self.num_labels:
            changes = {"id2label": None, "label2id": None} | changes
        return dataclasses.replace(self, **changes)

    def to_dict(self) -> dict[str, Any]:
        """The config as a JSON-ready dict in the reference's field names, `model_type` included."""
        out: dict[str, Any] = {"model_type": "distilbert"}
        for item in dataclasses.fields(self):
            if item.name not in ("extra", "num_labels", "folded_bert"):
                out[item.name] = getattr(self, item.name)
        out["id2label"] = {str(i): label for i, label in (self.id2label or {}).items()}
        out["label2id"] = dict(self.label2id or {})
        out["architectures"] = None if self.architectures is None else list(self.architectures)
        return out | dict(self.extra)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> DistilBertConfig:
        """Build from the content of a `config.json` of a DistilBERT or of a foldable BERT encoder.

        Raises:
            CheckpointError: another architecture, or a BERT whose arithmetic a DistilBERT does not have.
            ValueError: a field out of its range.
        """
        values = dict(values)
        model_type = values.pop("model_type", "distilbert")
        folded = model_type == "bert"
        if folded:
            values = _from_bert(values)
        elif model_type != "distilbert":
            raise CheckpointError(
                f"config.json says model_type {model_type!r}; distilrt runs 'distilbert', and 'bert' encoders that "
                "use only segment 0"
            )
        old_dtype = values.pop("torch_dtype", None)  # the name of `dtype` before transformers 4.56
        if values.get("dtype") is None:
            values["dtype"] = old_dtype
        # Where a file contradicts itself, the reference lets the alias and the number of labels win; so do we.
        for alias, name in _ALIASES.items():
            if alias in values:
                values[name] = values.pop(alias)
        count, named = values.get("num_labels"), values.get("id2label")
        if count is not None and isinstance(named, Mapping) and count != len(named):
            values |= {"id2label": None, "label2id": None}
        known = {item.name for item in dataclasses.fields(cls)} - {"extra", "folded_bert"}
        extra = {key: value for key, value in values.items() if key not in known}
        fields = {key: value for key, value in values.items() if key in known}
        return cls(**fields, folded_bert=folded, extra=extra)

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


def _from_bert(values: dict[str, Any]) -> dict[str, Any]:
    """Translate a BERT config into DistilBERT's names, refusing what the folded model could not compute."""
    eps = values.get("layer_norm_eps", LAYER_NORM_EPS)
    if eps != LAYER_NORM_EPS:
        raise CheckpointError(
            f"this BERT has layer_norm_eps {eps}; a DistilBERT's is always {LAYER_NORM_EPS}, so it can't be run exactly"
        )
    kind = values.get("position_embedding_type", "absolute")
    if kind != "absolute":
        raise CheckpointError(f"this BERT has position_embedding_type {kind!r}; only 'absolute' can be run")
    if values.get("is_decoder") or values.get("add_cross_attention"):
        raise CheckpointError("this BERT is a decoder; only encoders can be run")
    defaults: dict[str, Any] = {
        "hidden_size": 768,
        "num_attention_heads": 12,
        "num_hidden_layers": 12,
        "intermediate_size": 3072,
        "hidden_act": "gelu",
    }
    values = defaults | {key: value for key, value in values.items() if key not in _BERT_ONLY}
    renamed = {_BERT_NAMES.get(key, key): value for key, value in values.items()}
    architectures = renamed.get("architectures")
    if isinstance(architectures, list | tuple):
        renamed["architectures"] = [str(name).replace("Bert", "DistilBert", 1) for name in architectures]
    return renamed

"""What a model returns: the reference's output classes, with its field names and order.

An output holds NumPy arrays or torch tensors, and knows nothing of models.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

from distilrt.errors import InvalidInput


def selected_states(states: tuple[Any, ...], wanted: bool | int | Iterable[int]) -> tuple[Any, ...]:
    """Hidden states, of the embeddings and of each layer, with None in the place of those that are not wanted.

    `wanted` is True for all, or as in transformers 5 indices: negative ones count from the end, those of no state are
    ignored. Something else is an InvalidInput.
    """
    if isinstance(wanted, bool):
        return states
    indices = [wanted] if isinstance(wanted, int) else wanted
    try:
        kept = {range(len(states))[i] for i in indices if -len(states) <= i < len(states)}
    except TypeError as error:
        raise InvalidInput(
            f"output_hidden_states must be True, False, None, an index or a list of indices of hidden "
            f"states, found {wanted!r}"
        ) from error
    return tuple(state if i in kept else None for i, state in enumerate(states))


class ModelOutput(dict[str, Any]):
    """A dict of the fields that are not None, also readable as attributes and by position.

    `out.logits`, `out["logits"]`, `out[0]`, `out[:2]`, `out.to_tuple()`; keys, values, items, `len`, iteration and
    `**out` see only the fields that are set, and the attribute of another field is None, as in transformers.

    Raises:
        TypeError: a field that the class does not have.
    """

    __slots__ = ()
    _fields: ClassVar[tuple[str, ...]] = ()

    def __init_subclass__(cls) -> None:
        cls._fields = tuple(cls.__annotations__) or cls._fields

    def __init__(self, items: Mapping[str, Any] | Iterable[tuple[str, Any]] = (), /, **values: Any) -> None:
        values = dict(items, **values)  # tf.data builds an output from pairs of name and value
        unknown = [name for name in values if name not in self._fields]
        if unknown:
            raise TypeError(f"{type(self).__name__} has no field {unknown[0]!r}; it has {', '.join(self._fields)}")
        super().__init__((name, values[name]) for name in self._fields if values.get(name) is not None)

    def __getitem__(self, key: str | int | slice) -> Any:
        return super().__getitem__(key) if isinstance(key, str) else self.to_tuple()[key]

    def __getattr__(self, name: str) -> Any:
        if name in self._fields:
            return self.get(name)
        raise AttributeError(f"{type(self).__name__} has no field {name!r}; it has {', '.join(self._fields)}")

    def __setattr__(self, name: str, value: Any) -> None:
        self[name] = value  # attribute and item are one

    def to_tuple(self) -> tuple[Any, ...]:
        """The fields that are set, in order."""
        return tuple(self.values())


class BaseModelOutput(ModelOutput):
    """`DistilBertModel`'s output."""

    last_hidden_state: Any  # [batch_size, seq_len, hidden_size]
    hidden_states: Any  # num_layers + 1 of [batch_size, seq_len, hidden_size]: embeddings, then each layer
    attentions: Any  # num_layers of [batch_size, num_heads, seq_len, seq_len]


class BaseModelOutputWithPooling(ModelOutput):
    """`DistilBertModel`'s output where it is a BERT with a pooler."""

    last_hidden_state: Any  # [batch_size, seq_len, hidden_size]
    pooler_output: Any  # [batch_size, hidden_size]
    hidden_states: Any  # num_layers + 1 of [batch_size, seq_len, hidden_size]: embeddings, then each layer
    past_key_values: Any  # None, as cross_attentions: only decoders have them
    attentions: Any  # num_layers of [batch_size, num_heads, seq_len, seq_len]
    cross_attentions: Any


class LogitsOutput(ModelOutput):
    """The fields of the outputs of one array of logits."""

    loss: Any  # scalar
    logits: Any
    hidden_states: Any
    attentions: Any


class MaskedLMOutput(LogitsOutput):
    """`DistilBertForMaskedLM`'s output; logits `[batch_size, seq_len, vocab_size]`."""


class SequenceClassifierOutput(LogitsOutput):
    """`DistilBertForSequenceClassification`'s output; logits `[batch_size, num_labels]`."""


class TokenClassifierOutput(LogitsOutput):
    """`DistilBertForTokenClassification`'s output; logits `[batch_size, seq_len, num_labels]`."""


class MultipleChoiceModelOutput(LogitsOutput):
    """`DistilBertForMultipleChoice`'s output; logits `[batch_size, num_choices]`.

    Its hidden states and attentions have batch_size * num_choices sequences.
    """


class QuestionAnsweringModelOutput(ModelOutput):
    """`DistilBertForQuestionAnswering`'s output."""

    loss: Any  # scalar
    start_logits: Any  # [batch_size, seq_len]
    end_logits: Any  # [batch_size, seq_len]
    hidden_states: Any
    attentions: Any

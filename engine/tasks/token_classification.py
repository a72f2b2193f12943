"""token-classification: the label of each token of a text, or of each group of tokens that name one thing."""

from __future__ import annotations

import reprlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import accumulate
from typing import Any, ClassVar, NamedTuple, TypeVar

import numpy as np
from tokenizers import Encoding

from distilrt.errors import InvalidInput, InvalidParameter
from distilrt.model.functional import softmax
from distilrt.tasks.task import Params, Prepared, Rows, Task, check_most
from distilrt.tasks.task_inputs import Text, as_text
from distilrt.tasks.task_parameters import MOST_ENTRIES, Param, count, one_of, strings
from distilrt.text.tokenizer import DistilBertTokenizer

Entity = dict[str, Any]
_Item = TypeVar("_Item")

# What the scores `[pieces, num_labels]` of a word's pieces say about the word.
_WORD_SCORES: dict[str, Callable[[Rows], Rows]] = {
    "first": lambda scores: scores[0],
    "average": lambda scores: scores.mean(axis=0),
    "max": lambda scores: scores[scores.max(axis=1).argmax()],
}


class _Token(NamedTuple):
    word: str
    scores: Rows  # [num_labels]
    start: int
    end: int
    place: int  # in its sequence
    continues: bool  # the word of the token before


class TokenClassification(Task):
    """A text, which is cut if it is too long, to a list of `{"entity", "score", "index", "word", "start", "end"}`, one
    for each token; or of `{"entity_group", "score", "word", "start", "end"}`, one for tokens of one label that are
    neighbours."""

    name = "token-classification"
    architecture = "DistilBertForTokenClassification"
    params: ClassVar[Mapping[str, Param]] = {
        "aggregation_strategy": one_of(
            "whether neighbours of one label are joined ('simple'), or those of whole words, each with the label of "
            "its first piece, of the average of its pieces, or of its surest piece",
            *("none", "simple", *_WORD_SCORES),
            any_case=True,
        ),
        "ignore_labels": Param(
            "labels to leave out",
            ("O",),
            f"a list of at most {MOST_ENTRIES} labels",
            lambda value: (
                isinstance(value, list | tuple | set | frozenset)
                and len(value) <= MOST_ENTRIES
                and all(isinstance(label, str) for label in value)
            ),
            frozenset,
        ),
        "stride": count("tokens that windows of a text too long share; None: it is cut", None, least=0),
        "is_split_into_words": one_of("whether the input is a list of words", False, True),
        "delimiter": Param(
            "what joins the words to the text in which places are counted",
            " ",
            "a string",
            lambda value: isinstance(value, str),
        ),
    }

    def check(self, params: Params) -> None:
        """Windows must advance, and what they share must be merged."""
        if params["stride"] is None:
            return
        room = self.limit - self.tokenizer.num_special_tokens_to_add()
        check_most("stride", params["stride"], max(0, room - 1), f"less than the {room} tokens of text in a window")
        if params["aggregation_strategy"] == "none":
            message = "stride needs an aggregation_strategy other than 'none', to merge what windows share"
            raise InvalidParameter(message)

    def texts(self, item: Any, params: Params) -> list[Text]:
        """The text, or its words."""
        if not params["is_split_into_words"]:
            return [as_text(item)]
        if not strings(item):
            raise InvalidInput(f"expected a list of words, found {reprlib.repr(item)}")
        return [item]

    def tokenizing(self, params: Params) -> dict[str, Any]:
        """Cut the text, or cut it into windows."""
        windows = {} if params["stride"] is None else {"stride": params["stride"], "return_overflowing_tokens": True}
        return {
            "truncation": True,
            "max_length": self.limit,
            "is_split_into_words": params["is_split_into_words"],
            **windows,
        }

    def answer(self, prepared: Prepared, outputs: Sequence[Rows]) -> list[Entity]:
        """Entities in the order of the text."""
        strategy, ignored = prepared.params["aggregation_strategy"], prepared.params["ignore_labels"]
        labels, tokenizer = self.config.label_names(), self.tokenizer
        words = prepared.source if prepared.params["is_split_into_words"] else [prepared.source]
        starts = _word_starts(words, prepared.params["delimiter"])
        entities: list[Entity] = []
        for encoding, logits in zip(prepared.encodings, outputs, strict=True):
            tokens = _tokens(words, starts, encoding, softmax(logits), tokenizer.unk_token_id)
            if strategy in _WORD_SCORES:
                pieces = _runs(tokens, lambda last, token: token.continues)
                found = [_word(tokenizer, word, _WORD_SCORES[strategy], labels) for word in pieces]
            else:
                found = [_entity(token.scores, labels, token) for token in tokens]
            if strategy != "none":
                found = [_joined(tokenizer, group) for group in _runs(found, _continues)]
            entities += [entity for entity in found if entity.get("entity", entity.get("entity_group")) not in ignored]
        return entities if len(outputs) == 1 else _without_overlaps(entities)


def _word_starts(words: list[str], delimiter: str) -> list[int]:
    """Where each word starts in the text that the words make, joined by `delimiter`."""
    return list(accumulate((len(word) + len(delimiter) for word in words[:-1]), initial=0))


def _tokens(
    words: list[str], starts: list[int], encoding: Encoding, scores: Rows, unk_token_id: int | None
) -> list[_Token]:
    """The tokens of the words themselves, without special ones. Offsets of the encoding are those in a word; a text is
    one word."""
    columns = zip(encoding.ids, encoding.tokens, encoding.offsets, encoding.special_tokens_mask, strict=True)
    tokens, numbers = [], encoding.word_ids if len(words) > 1 else None
    for place, (token_id, word, (start, end), special) in enumerate(columns):
        if not special:
            owner = numbers[place] or 0 if numbers else 0
            unknown = token_id == unk_token_id
            continues = not unknown and len(word) != end - start
            shown = words[owner][start:end] if unknown else word
            tokens.append(_Token(shown, scores[place], start + starts[owner], end + starts[owner], place, continues))
    return tokens


def _runs(items: Iterable[_Item], continues: Callable[[_Item, _Item], bool]) -> list[list[_Item]]:
    """Neighbours together, as long as each one continues the one before it."""
    runs: list[list[_Item]] = []
    for item in items:
        if runs and continues(runs[-1][-1], item):
            runs[-1].append(item)
        else:
            runs.append([item])
    return runs


def _entity(scores: Rows, labels: list[str], token: _Token) -> Entity:
    best = int(scores.argmax())
    return {
        "entity": labels[best],
        "score": float(scores[best]),
        "index": token.place,
        "word": token.word,
        "start": token.start,
        "end": token.end,
    }


def _word(
    tokenizer: DistilBertTokenizer, pieces: list[_Token], combine: Callable[[Rows], Rows], labels: list[str]
) -> Entity:
    scores = combine(np.stack([piece.scores for piece in pieces]))
    word = tokenizer.convert_tokens_to_string([piece.word for piece in pieces])
    return _entity(scores, labels, pieces[0]) | {"word": word, "end": pieces[-1].end}


def _continues(last: Entity, entity: Entity) -> bool:
    """Whether an entity is of the same kind as the one before; a label "B-…" begins anew."""
    kinds = [label[2:] if label[:2] in ("B-", "I-") else label for label in (last["entity"], entity["entity"])]
    return kinds[0] == kinds[1] and not entity["entity"].startswith("B-")


def _joined(tokenizer: DistilBertTokenizer, group: list[Entity]) -> Entity:
    return {
        "entity_group": group[0]["entity"].split("-", 1)[-1],
        "score": sum(entity["score"] for entity in group) / len(group),
        "word": tokenizer.convert_tokens_to_string([entity["word"] for entity in group]),
        "start": group[0]["start"],
        "end": group[-1]["end"],
    }


def _without_overlaps(entities: list[Entity]) -> list[Entity]:
    """Of entities of different windows that overlap the longest, or else the surest."""
    kept: list[Entity] = []
    for entity in sorted(entities, key=lambda entity: entity["start"]):
        if not kept or not kept[-1]["start"] <= entity["start"] < kept[-1]["end"]:
            kept.append(entity)
        elif _rank(entity) > _rank(kept[-1]):
            kept[-1] = entity
    return kept


def _rank(entity: Entity) -> tuple[int, float]:
    return entity["end"] - entity["start"], entity["score"]

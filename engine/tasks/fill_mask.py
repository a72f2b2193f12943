"""fill-mask: the most likely tokens in the place of each mask token of a text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from distilrt.errors import InvalidInput, InvalidParameter
from distilrt.model.config import DistilBertConfig
from distilrt.tasks.base import (
    CUT,
    MOST_ENTRIES,
    PADDING,
    Param,
    Params,
    Prepared,
    Rows,
    Selection,
    Task,
    Text,
    as_text,
    count,
    softmax,
    strings,
)
from distilrt.text.tokenizer import DistilBertTokenizer


class FillMask(Task):
    """A string with mask tokens to a list of `{"score", "token", "token_str", "sequence"}`, one list a mask if several.

    `top_k`: how many tokens. `targets`: a token of the vocabulary or a list of them, to look at no others.
    `truncation`, `max_length`, `truncation_side`, `add_special_tokens`: as in the tokenizer. `padding`: without effect.
    """

    name = "fill-mask"
    architecture = "DistilBertForMaskedLM"
    params: ClassVar[Mapping[str, Param]] = {
        "top_k": count(5),
        "targets": Param(
            None,
            f"a token or a list of at most {MOST_ENTRIES} tokens",
            lambda value: value is None or isinstance(value, np.ndarray) or 1 <= len(_targets(value)) <= MOST_ENTRIES,
            lambda value: value if value is None or isinstance(value, np.ndarray) else _targets(value),
        ),
        **CUT,
        "padding": PADDING,
    }

    def settle(self, tokenizer: DistilBertTokenizer, config: DistilBertConfig, params: Mapping[str, Any]) -> Params:
        """There must be a mask token, and the targets must be tokens; they become an array of their ids."""
        if tokenizer.mask_token is None:
            raise InvalidParameter("fill-mask needs a tokenizer with a mask token; this one has none")
        settled = super().settle(tokenizer, config, params)
        if isinstance(settled["targets"], list):
            settled["targets"] = np.unique([_target(tokenizer, target) for target in settled["targets"]])
        return settled

    def texts(self, item: Any, params: Params) -> list[Text]:
        """The text."""
        return [as_text(item)]

    def select(self, tokenizer: DistilBertTokenizer, params: Params, ids: list[int]) -> Selection:
        """The rows of the masks."""
        rows = [row for row, token in enumerate(ids) if token == tokenizer.mask_token_id]
        if not rows:
            raise InvalidInput(f"the text has no {tokenizer.mask_token}; put one where a token is to be found")
        return rows

    def answer(self, prepared: Prepared, outputs: Sequence[Rows]) -> list[Any]:
        """The tokens by falling probability."""
        tokenizer, ids, masks = prepared.tokenizer, prepared.sequences[0], prepared.rows[0]
        assert isinstance(masks, list)
        targets, scores = prepared.params["targets"], softmax(outputs[0])
        if targets is not None:
            scores = scores[:, targets]
        answers = []
        for row, probabilities in zip(masks, scores, strict=True):
            found = []
            for place in _largest(probabilities, prepared.params["top_k"]):
                token = place if targets is None else int(targets[place])
                filled = [old for old in [*ids[:row], token, *ids[row + 1 :]] if old != tokenizer.pad_token_id]
                found.append(
                    {
                        "score": float(probabilities[place]),
                        "token": token,
                        "token_str": tokenizer.decode([token]),
                        # The other masks of a text are special tokens too, and worth seeing.
                        "sequence": tokenizer.decode(filled, skip_special_tokens=len(masks) == 1),
                    }
                )
            answers.append(found)
        return answers[0] if len(answers) == 1 else answers


def _target(tokenizer: DistilBertTokenizer, target: str) -> int:
    """The id of a token, or of the one that the tokenizer makes of a text, as of `"Paris"` where it lowers the case."""
    found = tokenizer.backend_tokenizer.token_to_id(target)
    if found is not None:
        return found
    ids = tokenizer(target, add_special_tokens=False, truncation=True, max_length=8)["input_ids"]
    if len(ids) == 1 and ids[0] != tokenizer.unk_token_id:
        return int(ids[0])
    pieces = ", ".join(map(repr, tokenizer.convert_ids_to_tokens(ids))) or "nothing"
    raise InvalidInput(f"target {target!r:.80} is no token of this model, which splits it into {pieces}; "
                       "targets must be single tokens of its vocabulary")  # fmt: skip


def _targets(value: Any) -> list[str]:
    """The tokens in a parameter; none where it is not as it must be."""
    return [value] if isinstance(value, str) else strings(value)


def _largest(values: Rows, number: int) -> list[int]:
    """Indices of the largest values, largest first."""
    number = min(number, len(values))
    places = np.argpartition(-values, number - 1)[:number]
    return [int(place) for place in places[np.argsort(-values[places], kind="stable")]]

"""fill-mask: the most likely tokens in the place of each mask token of a text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from distilrt.config import DistilBertConfig
from distilrt.errors import InvalidInput
from distilrt.tasks.base import (
    CUT,
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
from distilrt.tokenizer import DistilBertTokenizer


class FillMask(Task):
    """A string with mask tokens to a list of `{"score", "token", "token_str", "sequence"}`, one list a mask if several.

    `top_k`: how many tokens. `targets`: a token of the vocabulary or a list of them, to look at no others.
    `truncation`, `max_length`, `truncation_side`: as in the tokenizer. `padding`: without effect.
    """

    name = "fill-mask"
    architecture = "DistilBertForMaskedLM"
    params: ClassVar[Mapping[str, Param]] = {
        "top_k": count(5),
        "targets": Param(None, "a token or a list of tokens", lambda value: value is None or _targets(value) != []),
        **CUT,
        "padding": PADDING,
    }

    def check(self, tokenizer: DistilBertTokenizer, config: DistilBertConfig, params: Params) -> None:
        """There must be a mask token, and the targets must be tokens."""
        if tokenizer.mask_token is None:
            raise ValueError("fill-mask needs a tokenizer with a mask token; this one has none")
        for target in _targets(params["targets"]):
            if tokenizer.backend_tokenizer.token_to_id(target) is None:
                pieces = ", ".join(map(repr, tokenizer.tokenize(target))) or "nothing"
                raise InvalidInput(f"target {target!r} is no token of this model, which splits it into {pieces}; "
                                   "targets must be single tokens of its vocabulary")  # fmt: skip

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
        targets = set(tokenizer.convert_tokens_to_ids(_targets(prepared.params["targets"])))
        allowed = np.array(sorted(targets) or range(outputs[0].shape[1]))
        answers = []
        for row, probabilities in zip(masks, softmax(outputs[0])[:, allowed], strict=True):
            found = []
            for place in _largest(probabilities, prepared.params["top_k"]):
                token = int(allowed[place])
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


def _targets(value: Any) -> list[str]:
    """The tokens in a parameter; none where it is not as it must be."""
    return [value] if isinstance(value, str) else strings(value)


def _largest(values: Rows, number: int) -> list[int]:
    """Indices of the largest values, largest first."""
    number = min(number, len(values))
    places = np.argpartition(-values, number - 1)[:number]
    return [int(place) for place in places[np.argsort(-values[places], kind="stable")]]

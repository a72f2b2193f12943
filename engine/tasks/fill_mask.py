"""fill-mask: the most likely tokens in the place of each mask token of a text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from distilrt.errors import InvalidInput, InvalidParameter
from distilrt.model.functional import softmax
from distilrt.tasks.task import Params, Prepared, Rows, Selection, Task
from distilrt.tasks.task_inputs import Text, as_text
from distilrt.tasks.task_parameters import MOST_ENTRIES, PADDING, TOKENIZING, Param, count, strings
from distilrt.tasks.text_start import start_of

_MOST_PIECES = 8  # of a target that is no single token, for the message


def _targets(value: Any) -> list[str]:
    """The tokens in a parameter; none where it is not as it must be."""
    return [value] if isinstance(value, str) else strings(value)


class FillMask(Task):
    """A text with masks to a list of `{"score", "token", "token_str", "sequence"}`, or to such a list for each mask."""

    name = "fill-mask"
    architecture = "DistilBertForMaskedLM"
    params: ClassVar[Mapping[str, Param]] = {
        "top_k": count("how many tokens, best first", 5),
        "targets": Param(
            "the tokens of the vocabulary to choose from; None: all",
            None,
            f"a token or a list of at most {MOST_ENTRIES} tokens",
            lambda value: value is None or 1 <= len(_targets(value)) <= MOST_ENTRIES,
            lambda value: None if value is None else _targets(value),
        ),
        **TOKENIZING,
        "padding": PADDING,
    }

    def settle(self, params: Mapping[str, Any]) -> Params:
        """As the base class; the targets become an array of their ids."""
        settled = super().settle(params)
        if settled["targets"] is not None:
            settled["targets"] = self._ids(settled["targets"])
        return settled

    def check(self, params: Params) -> None:
        """There must be a mask token."""
        super().check(params)
        if self.tokenizer.mask_token is None:
            raise InvalidParameter("fill-mask needs a tokenizer with a mask token; this one has none")

    def texts(self, item: Any, params: Params) -> list[Text]:
        """The text."""
        return [as_text(item)]

    def select(self, params: Params, ids: list[int]) -> Selection:
        """The rows of the masks."""
        rows = [row for row, token in enumerate(ids) if token == self.tokenizer.mask_token_id]
        if not rows:
            raise InvalidInput(f"the text has no {self.tokenizer.mask_token}; put one where a token is to be found")
        return rows

    def answer(self, prepared: Prepared, outputs: Sequence[Rows]) -> list[Any]:
        """The tokens by falling probability."""
        masks = prepared.rows[0]
        assert isinstance(masks, list)
        scores = softmax(outputs[0])
        if prepared.params["targets"] is not None:
            scores = scores[:, prepared.params["targets"]]
        alone = len(masks) == 1
        answers = [self._candidates(prepared, row, each, alone) for row, each in zip(masks, scores, strict=True)]
        return answers[0] if len(answers) == 1 else answers

    def _candidates(self, prepared: Prepared, row: int, scores: Rows, alone: bool) -> list[dict[str, Any]]:
        """The best tokens for the mask at `row`, by the scores `[tokens]` of all tokens, or of the targets."""
        tokenizer, ids, targets = self.tokenizer, prepared.sequences[0], prepared.params["targets"]
        candidates = []
        for place in _largest(scores, prepared.params["top_k"]):
            token = place if targets is None else int(targets[place])
            filled = [old for old in [*ids[:row], token, *ids[row + 1 :]] if old != tokenizer.pad_token_id]
            candidates.append(
                {
                    "score": float(scores[place]),
                    "token": token,
                    "token_str": tokenizer.decode([token]),
                    # The other masks of a text are special tokens too, and worth seeing.
                    "sequence": tokenizer.decode(filled, skip_special_tokens=alone),
                }
            )
        return candidates

    def _ids(self, targets: list[str]) -> npt.NDArray[np.int64]:
        """The ids of tokens, or of what the tokenizer makes of texts, as of `"Paris"` where it lowers the case."""
        ids = [self.tokenizer.backend_tokenizer.token_to_id(target) for target in targets]
        known = [found for found in ids if found is not None]
        others = [target for target, found in zip(targets, ids, strict=True) if found is None]
        starts = [start_of(self.tokenizer, target, _MOST_PIECES + 1) for target in others]
        encoded = self.tokenizer(starts, add_special_tokens=False, truncation=True, max_length=_MOST_PIECES)
        for target, pieces in zip(others, encoded["input_ids"], strict=True):
            if len(pieces) != 1 or pieces[0] == self.tokenizer.unk_token_id:
                words = ", ".join(map(repr, self.tokenizer.convert_ids_to_tokens(pieces))) or "nothing"
                raise InvalidInput(
                    f"target {target!r:.80} is no token of this model, which splits it into {words}; "
                    "targets must be single tokens of its vocabulary"
                )
        return np.unique(known + [pieces[0] for pieces in encoded["input_ids"]])


def _largest(values: Rows, number: int) -> list[int]:
    """Indices of the largest values, largest first."""
    number = min(number, len(values))
    places = np.argpartition(-values, number - 1)[:number]
    return [int(place) for place in places[np.argsort(-values[places], kind="stable")]]

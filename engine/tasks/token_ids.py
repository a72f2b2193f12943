"""Inputs that are tokenized already: what tasks have in common that take a list of token ids in place of a text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from distilrt.errors import InvalidInput
from distilrt.model.config import DistilBertConfig
from distilrt.tasks.base import Params, Prepared, Task, check_ids, longest, or_error
from distilrt.text.tokenizer import DistilBertTokenizer


class TextOrIds(Task):
    """A task with one sequence an input, which may be a list of token ids: what the model reads, with nothing added.

    Ids are cut as texts are, but bluntly: a special token at the side that is cut goes too.
    """

    def _prepare_each(
        self,
        tokenizer: DistilBertTokenizer,
        config: DistilBertConfig,
        inputs: Sequence[Any],
        params: Params,
        max_tokens: int | None,
    ) -> list[Prepared | InvalidInput]:
        texts = [item for item in inputs if not isinstance(item, list)]
        tokenized = iter(super()._prepare_each(tokenizer, config, texts, params, max_tokens) if texts else [])
        return [
            or_error(self._prepare_ids, tokenizer, config, item, params) if isinstance(item, list) else next(tokenized)
            for item in inputs
        ]

    def _prepare_ids(
        self, tokenizer: DistilBertTokenizer, config: DistilBertConfig, ids: list[Any], params: Params
    ) -> Prepared:
        if set(map(type, ids)) != {int} or min(ids) < 0:  # quick even for a million, as anybody may send
            raise InvalidInput("token ids must be a list of at least one integer, none below 0")
        limit = longest(tokenizer, config)
        cut = self.tokenizing(params, limit)
        most = cut.get("max_length", len(ids))
        if len(ids) > most:
            left = (cut["truncation_side"] or tokenizer.truncation_side) == "left"
            ids = ids[-most:] if left else ids[:most]
        check_ids(ids, config, limit)
        rows = self.select(tokenizer, params | {"prompt": ""}, ids)  # a prompt goes before texts alone
        return Prepared(ids, params, tokenizer, config, [], [ids], [rows])

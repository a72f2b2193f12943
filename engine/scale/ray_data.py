"""Ray Data: a task over the rows of a dataset, by `map_batches`. The module itself needs no Ray."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from distilrt import tasks
from distilrt.errors import InvalidInput
from distilrt.model.sentence_vectors import SentenceVectors
from distilrt.runtime.loading import load
from distilrt.text.encoding import as_lists
from distilrt.text.tokenizer import DistilBertTokenizer

Columns = dict[str, npt.NDArray[Any]]

# Tasks that answer with one mapping: its keys become columns, with what a row gets that has no answer.
_FLAT: dict[str, dict[str, Any]] = {
    "text-classification": {"label": "", "score": np.nan},
    "question-answering": {"answer": "", "score": np.nan, "start": -1, "end": -1},
}
_EMBEDDING = "feature-extraction"


class Predictor:
    """Answers batches of rows: columns in, the same columns and those of the answers out.

    For `dataset.map_batches(Predictor, fn_constructor_kwargs={"task": …, "model": …}, batch_size=1024, concurrency=2)`.
    A row that can't be answered says why in the column `error`, which is "" in others, and the job goes on.

    The columns are, for
    feature-extraction, `embedding`: float32 `[rows, width]`, one vector of each text; NaN on an error;
    text-classification, `label` and `score`; "" and NaN;
    question-answering, `answer`, `score`, `start` and `end`; "", NaN, -1 and -1;
    others, and these two where `top_k` makes a list, `answer`: what `distilrt.pipeline` gives for the row; None on an
    error.

    Args:
        task: as in `distilrt.pipeline`.
        model, tokenizer: folder or hub id of a checkpoint, which every machine must reach, or loaded ones.
        column: the one whose values are the inputs; or several, which together are an input of as many fields:
            `("question", "context")` or `("text", "text_pair")`.
        backend, dtype: how to compute, as in the models' `from_pretrained`.
        num_threads: CPU threads; to be the `num_cpus` of `map_batches`.
        revision: of the checkpoint.
        max_tokens: tokens computed together; answers do not depend on it, nor on the rows of a batch.
        params: the task's. For feature-extraction `pooling` is, where it is not given, what the checkpoint's
            sentence-transformers files say, with `normalize` on, or else "mean".

    Raises:
        OSError, CheckpointError, BackendError, TypeError, ValueError: as `distilrt.pipeline`, and for `pooling=None`.
    """

    def __init__(
        self,
        task: str,
        model: Any,
        tokenizer: DistilBertTokenizer | str | Path | None = None,
        *,
        column: str | Sequence[str] = "text",
        backend: str = "auto",
        dtype: str = "auto",
        num_threads: int | None = 1,
        revision: str | None = None,
        max_tokens: int = tasks.MAX_TOKENS,
        params: Mapping[str, Any] | None = None,
    ) -> None:
        chosen: Any = tasks.find(task)
        self._column, self._max_tokens = column, max_tokens
        if not isinstance(model, str | Path):
            num_threads = None  # the model has its own
        how: dict[str, Any] = {"backend": backend, "dtype": dtype, "num_threads": num_threads, "revision": revision}
        self._model, self._tokenizer, sentence = load(model, tokenizer, chosen.architecture, **how)
        self._task = chosen(self._tokenizer, self._model.config, sentence)
        self._params = dict(params or {})
        if chosen.name == _EMBEDDING:
            self._params = _pooled(self._params, sentence)
            self._width = self._task.width(self._task.settle(self._params))
        self._flat = _FLAT.get(self._task.name, {})
        if "top_k" in self._params and (self._task.name, self._params["top_k"]) != ("question-answering", 1):
            self._flat = {}
        self._run([])

    def __call__(self, batch: Mapping[str, Any]) -> Columns:
        """Answer a batch.

        Args:
            batch: arrays or lists of one length, by column.

        Raises:
            ValueError: a column is missing.
        """
        names = [self._column] if isinstance(self._column, str) else list(self._column)
        for name in names:
            if name not in batch:
                raise ValueError(f"there is no column {name!r}; there are {', '.join(batch)}; choose with column=")
        columns = [list(map(as_lists, batch[name])) for name in names]
        inputs = columns[0]
        if not isinstance(self._column, str):
            inputs = [dict(zip(names, values, strict=True)) for values in zip(*columns, strict=True)]
        answers = self._run(inputs)
        failed = [isinstance(answer, InvalidInput) for answer in answers]
        found = {name: np.asarray(values) for name, values in batch.items()} | self._formed(answers)
        return found | {"error": np.array([str(a) if bad else "" for a, bad in zip(answers, failed, strict=True)])}

    def _run(self, inputs: list[Any]) -> list[Any]:
        options: dict[str, Any] = {"max_tokens": self._max_tokens, "return_errors": True}
        return list(tasks.run(self._model, self._task, inputs, self._params, **options))

    def _formed(self, answers: list[Any]) -> Columns:
        """The columns of the answers, of the same types whatever the answers are."""
        if self._task.name == _EMBEDDING:
            vectors = np.full((len(answers), self._width), np.nan, np.float32)
            for vector, answer in zip(vectors, answers, strict=True):
                if not isinstance(answer, InvalidInput):
                    vector[:] = answer
            return {"embedding": vectors}
        if self._flat:
            rows = [self._flat if isinstance(answer, InvalidInput) else answer for answer in answers]
            return {name: np.array([row[name] for row in rows], type(empty)) for name, empty in self._flat.items()}
        column = np.empty(len(answers), object)
        for i, answer in enumerate(answers):
            column[i] = None if isinstance(answer, InvalidInput) else answer
        return {"answer": column}


def _pooled(params: dict[str, Any], sentence: SentenceVectors | None) -> dict[str, Any]:
    """feature-extraction's parameters with a pooling."""
    if "pooling" not in params:
        own = {"normalize": True} if sentence is not None else {}
        return {**own, **params, "pooling": tasks.SENTENCE}
    if params["pooling"] is None:
        raise ValueError(
            "pooling must be 'sentence' or a mode such as 'mean': a column has one vector of each text; for the "
            "vectors of tokens there is distilrt.pipeline"
        )
    return params

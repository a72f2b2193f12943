"""question-answering: the part of a context that answers a question.

A context that is too long is read in overlapping windows; equal answers of different spans and windows count together.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
from tokenizers import Encoding

from distilrt.errors import InvalidParameter
from distilrt.model.functional import softmax
from distilrt.tasks.task import Params, Prepared, Rows, Task, check_most
from distilrt.tasks.task_inputs import Text, as_fields, as_text
from distilrt.tasks.task_parameters import PADDING, Param, count, one_of

_CONTEXT = 1  # the context is the second text of a pair


class QuestionAnswering(Task):
    """`{"question", "context"}` to `{"score", "start", "end", "answer"}`, or a list of these for a larger `top_k`."""

    name = "question-answering"
    architecture = "DistilBertForQuestionAnswering"
    params: ClassVar[Mapping[str, Param]] = {
        "top_k": count("how many answers, best first", 1),
        "doc_stride": count("context tokens that windows share; None: up to 128 or half a window", None, least=0),
        "max_seq_len": count("tokens of a window, question included; None: 384 or what the model reads", None),
        "max_answer_len": count("tokens of an answer", 15),
        "handle_impossible_answer": one_of("whether the empty answer is allowed", False, True),
        "align_to_words": one_of("whether to answer in whole words", True, False),
        "max_question_len": count("without effect, as with transformers' fast tokenizers", 64),
        "padding": PADDING,
    }
    called: ClassVar[Mapping[str, str]] = {
        "text[0][0]": "question", "text[0][1]": "context", "max_length": "max_seq_len", "stride": "doc_stride",
        "the text that is cut": "the context", "the other text": "the question",
    }  # fmt: skip

    def check(self, params: Params) -> None:
        """The model must be able to read a window, and windows must advance."""
        window, stride = self._window(params)
        check_most("max_seq_len", window, self.limit, "what this model reads")
        if (room := self._room(window)) < 1:
            raise InvalidParameter(f"max_seq_len={window} has no room for a question and a context; raise it")
        check_most("doc_stride", stride, room - 1, f"less than the {room} tokens of a context in max_seq_len={window}")

    def texts(self, item: Any, params: Params) -> list[Text]:
        """Question and context."""
        question, context = as_fields(item, "question", "context")
        return [(as_text(question, "question", empty=False), as_text(context, "context", empty=False))]

    def tokenizing(self, params: Params) -> dict[str, Any]:
        """Cut the context into windows."""
        window, stride = self._window(params)
        return {
            "truncation": "only_second",
            "max_length": window,
            "stride": stride,
            "return_overflowing_tokens": True,
        }

    def answer(self, prepared: Prepared, outputs: Sequence[Rows]) -> dict[str, Any] | list[dict[str, Any]]:
        """Answers by falling score."""
        params, context = prepared.params, prepared.source["context"]
        top_k, align = params["top_k"], params["align_to_words"]
        found: dict[str, dict[str, Any]] = {}
        impossible = 1.0
        for encoding, logits in zip(prepared.encodings, outputs, strict=True):
            starts, ends = _probabilities(encoding, logits, self.tokenizer.cls_token_id)
            impossible = min(impossible, float(starts[0] * ends[0]))
            starts[0] = ends[0] = 0
            # Spans of the same words count together, hence more of them than answers.
            for first, last, score in _best(starts, ends, params["max_answer_len"], 2 * top_k + 10 if align else top_k):
                start, end = _characters(encoding, first, last, align)
                text = context[start:end]
                answer = found.setdefault(text.lower(), {"score": 0.0, "start": start, "end": end, "answer": text})
                answer["score"] += score
        answers = list(found.values())
        if params["handle_impossible_answer"] or not answers:
            score = impossible if params["handle_impossible_answer"] else 0.0
            answers.append({"score": score, "start": 0, "end": 0, "answer": ""})
        answers = sorted(answers, key=lambda answer: -answer["score"])[:top_k]
        return answers[0] if len(answers) == 1 else answers

    def _window(self, params: Params) -> tuple[int, int]:
        """Tokens of a window, and tokens that it shares with the next."""
        window, stride = params["max_seq_len"] or min(self.limit, 384), params["doc_stride"]
        return window, min(window // 2, 128, max(0, self._room(window) - 1)) if stride is None else stride

    def _room(self, window: int) -> int:
        """The most tokens of a context in a window, beside a question of one."""
        return window - self.tokenizer.num_special_tokens_to_add(True) - 1


def _probabilities(encoding: Encoding, logits: Rows, cls_token_id: int | None) -> Rows:
    """Probability of each token to start and to end the answer, `[2, tokens]`: 0 outside context and `[CLS]`."""
    sequences, ids = np.array(encoding.sequence_ids, object), np.array(encoding.ids)
    open_to_answer = (sequences == _CONTEXT) | (ids == cls_token_id)
    return softmax(np.where(open_to_answer, logits.T.astype(np.float64), -np.inf))


def _best(starts: Rows, ends: Rows, max_length: int, number: int) -> Iterator[tuple[int, int, float]]:
    """First token, last token and score of the most likely spans, best first."""
    length = min(max_length, len(ends))
    padded = np.concatenate([ends, np.zeros(length - 1)])
    scores = (starts[:, None] * np.lib.stride_tricks.sliding_window_view(padded, length)).ravel()
    for place in np.argsort(-scores, kind="stable")[:number]:
        if scores[place] > 0:
            first, more = divmod(int(place), length)
            yield first, first + more, float(scores[place])


def _characters(encoding: Encoding, first: int, last: int, align: bool) -> tuple[int, int]:
    """Where a span of tokens starts and ends in the context; `align`: with the words that it touches."""
    if align:
        words = [encoding.token_to_word(token) for token in (first, last)]
        spans = [None if word is None else encoding.word_to_chars(word, _CONTEXT) for word in words]
        if spans[0] and spans[1]:
            return spans[0][0], spans[1][1]
    return encoding.offsets[first][0], encoding.offsets[last][1]

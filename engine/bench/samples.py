"""The texts that a benchmark sends: made to fixed lengths or to a named mix of them, or read from the user's file.

Every target gets the same texts, so that each tokenizes, pads and answers as it does for its users.
"""

from __future__ import annotations

import ast
import re
import sysconfig
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from distilrt import tasks
from distilrt.bench.peer import Ids
from distilrt.checkpoint.calibration import texts_of
from distilrt.checkpoint.source import Source
from distilrt.errors import InvalidInput, InvalidParameter
from distilrt.model.config import DistilBertConfig
from distilrt.runtime.loading import find
from distilrt.text.tokenizer import DistilBertTokenizer

# Tokens of a text are log-normal, as in natural text: exp(normal(mean, deviation)), here of 256 texts.
MIXES = {"queries": (2.3, 0.4), "mixed": (4.0, 0.9), "reviews": (5.3, 0.6)}
MIX_SIZE, MIX_BATCH = 256, 8
_SHORTEST = 4  # tokens, with the two special ones
_SAME_LENGTH = 64  # texts of a fixed shape, at least: answers to one text again and again may come from a cache

IDS = "token ids"  # instead of a task: a classifier's logits of ids

# What each head is asked, with raw scores where there are such: saturated probabilities would hide wrong numbers.
PARAMS: dict[str, dict[str, Any]] = {
    "text-classification": {"top_k": None, "function_to_apply": "none", "truncation": True},
    "feature-extraction": {"pooling": tasks.SENTENCE, "normalize": True, "truncation": True},
    "token-classification": {"ignore_labels": []},
    "question-answering": {},
    "fill-mask": {},
}


@dataclass(frozen=True, slots=True)
class Samples:
    """Inputs of one task.

    Attributes:
        name: of the workload.
        task, params: what is asked of each input; `IDS`: a classifier's logits.
        inputs: as the task takes them; of `IDS`, arrays `[seq_len]`.
        lengths: tokens that the model reads for each.
        batch: how many `multi` sends at a time.
    """

    name: str
    task: str
    params: dict[str, Any]
    inputs: tuple[Any, ...]
    lengths: tuple[int, ...]
    batch: int

    @property
    def padding(self) -> float:
        """Share of padding in batches of `batch`, in order, for an engine that pads them to their longest text."""
        lengths, size = self.lengths, self.batch
        batches = [lengths[i : i + size] for i in range(0, len(lengths), size)]
        return 1 - sum(lengths) / sum(len(batch) * max(batch) for batch in batches)

    @property
    def fixed(self) -> bool:
        """Whether all have one length."""
        return len(set(self.lengths)) == 1

    def describe(self) -> dict[str, Any]:
        """What a report says of it."""
        low, median, high = np.percentile(self.lengths, [5, 50, 95])
        return {"workload": self.name, "task": self.task, "texts": len(self.inputs), "batch": self.batch,
                "mean_tokens": round(float(np.mean(self.lengths)), 1), "p5_tokens": round(low),
                "p50_tokens": round(median), "p95_tokens": round(high), "padding": round(self.padding, 4)}  # fmt: skip


def make(workload: str, model: str, *, file: Path | None = None) -> Samples:
    """The samples of a workload for a checkpoint.

    Args:
        workload: `BATCHxLENGTH`, or a key of `MIXES`. Random words of the vocabulary, the same in every run.
        model: folder or hub id; its head says what is asked.
        file: UTF-8 texts, one a line, in place of made ones; empty lines are left out.

    Raises:
        InvalidParameter: a workload of another name, a length that the model cannot read, or a line that the task does
            not take.
        InvalidInput: the file is empty or not UTF-8.
        OSError: no such model, or no such file.
    """
    place = find(Source.of(model))
    config, tokenizer = DistilBertConfig.from_pretrained(place.source), place.tokenizer()
    task = _task(place.architecture())(tokenizer, config, place.sentence)
    params = dict(PARAMS[task.name])
    if file is not None:
        name, texts, batch = file.name, texts_of(file.read_bytes(), file), MIX_BATCH
    else:
        name = workload
        lengths, batch = lengths_of(workload, tasks.longest(tokenizer, config))
        texts = _texts(tokenizer, lengths)
    inputs = [_input(task.name, text, tokenizer) for text in texts]
    counts = []
    for index, each in enumerate(task.prepare(inputs, task.settle(params))):
        if isinstance(each, InvalidInput):
            raise InvalidParameter(f"{file or workload}: {each.at(index)}") from each
        counts.append(sum(map(len, each.sequences)))
    return Samples(name, task.name, params, tuple(inputs), tuple(counts), batch)


def make_ids(workload: str, checkpoint: Path, seed: int = 0, mix: int = 64) -> Samples:
    """The samples of a workload as token ids, for engines without a tokenizer; of a mix, `mix` sequences.

    They are random, or where the folder of the checkpoint has a vocabulary, those of English sentences.

    Raises:
        InvalidParameter: as `make`.
    """
    config, random = DistilBertConfig.from_pretrained(checkpoint), np.random.default_rng(seed)
    lengths, batch = lengths_of(workload, config.max_position_embeddings)
    chosen = [int(length) for length in (lengths if workload not in MIXES else lengths[:mix])]
    if (checkpoint / "vocab.txt").exists():
        inputs = _english(DistilBertTokenizer.from_pretrained(checkpoint), chosen, random)
    else:
        inputs = [random.integers(1, config.vocab_size, length) for length in chosen]  # 0 is the padding
    return Samples(workload, IDS, {}, tuple(inputs), tuple(chosen), batch)


@cache
def sentences() -> tuple[str, ...]:
    """English sentences of 30 to 400 characters: the standard library's docstrings, so nothing has to be downloaded."""
    found = set()
    for path in sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8", errors="replace"))):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
                text = " ".join((ast.get_docstring(node) or "").split())
                found |= {part for part in re.split(r"(?<=[.!?])\s+", text) if 30 < len(part) < 400}
    return tuple(sorted(found))


def _english(tokenizer: DistilBertTokenizer, lengths: Sequence[int], random: np.random.Generator) -> list[Ids]:
    """Sentences in random order, one after the other, cut into texts of these lengths."""
    texts = [str(text) for text in random.permutation(sentences())]
    words = np.concatenate(tokenizer(texts, add_special_tokens=False)["input_ids"])
    ends = np.cumsum([length - 2 for length in lengths])
    parts = np.split(np.resize(words, ends[-1]), ends[:-1])
    return [np.concatenate([[tokenizer.cls_token_id], part, [tokenizer.sep_token_id]]) for part in parts]


def _task(architecture: str) -> type[tasks.Task]:
    for name in PARAMS:
        if tasks.TASKS[name].architecture == architecture:
            return tasks.TASKS[name]
    raise InvalidParameter(f"no task is benchmarked for a {architecture}; take a checkpoint of another head")


def _input(task: str, text: str, tokenizer: DistilBertTokenizer) -> Any:
    if task == "fill-mask":
        return f"{text.rpartition(' ')[0]} {tokenizer.mask_token}".strip()
    return {"question": "what is it?", "context": text} if task == "question-answering" else text


def lengths_of(workload: str, longest: int) -> tuple[npt.NDArray[np.int64], int]:
    """Tokens of each text of a workload, and texts of a batch.

    Raises:
        InvalidParameter: an unknown workload, or one longer than `longest` tokens.
    """
    if match := re.fullmatch(r"([1-9]\d*)x([1-9]\d*)", workload):
        batch, length = int(match[1]), int(match[2])
        if not _SHORTEST <= length <= longest:
            raise InvalidParameter(f"{workload}: this model takes lengths from {_SHORTEST} to {longest}")
        return np.full(-(-_SAME_LENGTH // batch) * batch, length), batch
    if workload not in MIXES:
        raise InvalidParameter(
            f"a workload is BATCHxLENGTH, as in 8x128, or one of {', '.join(MIXES)}; found {workload!r}"
        )
    mean, deviation = MIXES[workload]
    lengths = np.exp(np.random.default_rng(0).normal(mean, deviation, MIX_SIZE))
    return np.clip(np.round(lengths), _SHORTEST, longest).astype(np.int64), MIX_BATCH


def _texts(tokenizer: DistilBertTokenizer, lengths: Sequence[int] | npt.NDArray[np.int64]) -> list[str]:
    """Random words that are one token each."""
    words = np.array(sorted(word for word in tokenizer.get_vocab() if re.fullmatch("[a-z]{2,}", word)))
    if not len(words):
        raise InvalidParameter("the vocabulary has no whole words to make texts of; give your own: --input FILE")
    random = np.random.default_rng(1)
    return [" ".join(random.choice(words, int(length) - 2)) for length in lengths]

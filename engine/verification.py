"""Compares a checkpoint's answers here with the reference implementation's: transformers if it is installed, else the
NumPy reference. PEFT loads the adapter of transformers' model. It measures numbers, not speed.

The reference runs twice: in float64, taken as exact, and in float32 (transformers in float16 or bfloat16 if the model
computes in that), which shows how far that dtype alone is off. int8 and float8 have no counterpart but own bounds.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from distilrt.checkpoint import packed
from distilrt.checkpoint.source import Source
from distilrt.errors import InvalidInput, InvalidParameter
from distilrt.model.architecture import architecture_of
from distilrt.model.array_kinds import as_numpy
from distilrt.model.bert_config import NEXT_SENTENCE
from distilrt.model.config import DistilBertConfig
from distilrt.model.heads import ENCODER, HEADS, Head
from distilrt.runtime.loading import find
from distilrt.text.auto_tokenizer import load_tokenizer
from distilrt.text.tokenizer import DistilBertTokenizer

Outputs = dict[str, npt.NDArray[Any]]
Mask = npt.NDArray[np.bool_]  # [batch_size, seq_len]

# How far the mean difference may be, relative to the mean size of an output. A sound bfloat16 model is below 0.01 and a
# sound int8 or float8 one below 0.06; a wrong weight, scale or layer shows as several tenths.
NARROW_BOUNDS = {"bfloat16": 0.02, "int8": 0.1, "float8": 0.1}

# Lengths from a few tokens to a few hundred, punctuation, digits, accents and a word that no vocabulary has whole.
TEXTS = (
    "Yes.",
    "The cat sat on the mat.",
    "Stock prices fell sharply today, by 3.75 %, after the central bank's announcement.",
    "Ångström measured wavelengths; his unit, 10⁻¹⁰ m, is still used for the size of atoms.",
    "Antidisestablishmentarianism is a long word. " * 12,
)

# What tokenizers treat differently: case, accents, Chinese, special tokens in a text, long words, odd characters.
TOKEN_TEXTS = (
    "Hello World, HELLO world.",
    "Málaga naïve ÅNGSTRÖM a\u0301 e\u0301 Straße",
    "世界 你好，世界 kanji漢字 한국어",
    "[CLS] in a [MASK] text [SEP] [PAD] [UNK] <mask> <s>",
    "x" * 150 + " antidisestablishmentarianism",
    "don't e-mail U.S.A. $1,000.00 ##ing a_b@example.org \u200b\ufeff\t\n 😀",
    "",
)


@dataclass(frozen=True, slots=True)
class Comparison:
    """One output compared with the exact one."""

    output: str  # its name; of the hidden states also the layer
    max_abs_difference: float
    mean_abs_difference: float
    relative: float  # the largest difference relative to the largest number
    cosine: float  # the smallest between a vector (last axis) and the exact one; 1 for two of zeros
    bound: float  # what the largest difference may be; for a dtype narrower than float32, the mean difference
    ok: bool  # whether that holds


@dataclass(frozen=True, slots=True)
class _Reference:
    """The outputs that are right."""

    name: str  # of the implementation
    narrow: float | None  # bound of the mean difference, relative to the mean size, where `plain` gives none
    exact: Outputs  # in float64
    plain: Outputs  # in the dtype whose own error is allowed twice


@dataclass(frozen=True, slots=True)
class Report:
    """What `verify` found.

    `agreement` is the share of texts, or of tokens where each has a label, with the exact model's best label (of
    question-answering: its first and last token of the answer; of fill-mask: its best token); None of a bare encoder.
    `other_tokens` are the texts, a pair as one with a line break, whose token ids are not those of transformers'
    AutoTokenizer; None where it was not asked.
    """

    model: str
    architecture: str
    reference: str
    backend: Mapping[str, Any]
    rows: tuple[Comparison, ...]
    agreement: float | None = None
    other_tokens: tuple[str, ...] | None = None

    @property
    def ok(self) -> bool:
        """Whether every row is within its bound, and no text has other token ids."""
        return all(row.ok for row in self.rows) and not self.other_tokens

    @property
    def largest(self) -> Comparison:
        """The row that is relatively worst."""
        return max(self.rows, key=lambda row: row.relative)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return asdict(self) | {"rows": [asdict(row) for row in self.rows], "ok": self.ok}


def verify(
    model: str | Path,
    texts: Sequence[str] | None = None,
    *,
    backend: str = "auto",
    dtype: str = "auto",
    num_threads: int | None = None,
    against: str | Path | None = None,
) -> Report:
    """Run `texts` through the checkpoint here and in the reference implementation.

    A row holds if its largest difference from float64 is at most 1e-5 of the largest output, or twice the reference's
    own difference where that is more; that is of float32, or of transformers in the model's own float16 or bfloat16. In
    int8 and float8, and in bfloat16 without transformers, it holds if its mean difference is at most 0.1 and 0.02 of
    the mean size of the output. Masked positions are not compared. Of a packed folder, which has no weights for the
    reference, the checksum is compared, and all else only with `against`: without it the report has no rows. If
    transformers is there, token ids of the texts and of built-in ones and pairs must be those of its AutoTokenizer. An
    adapter of the right checkpoint is then loaded by PEFT and not merged.

    Args:
        model: folder or hub id, of any head.
        texts: sentences; None: a few of different lengths.
        backend, dtype, num_threads: as in `from_pretrained`.
        against: the checkpoint whose outputs are right; None: `model` itself.

    Raises:
        InvalidInput: no texts.
        InvalidParameter: `against` is packed, or of another architecture or shape.
        OSError, CheckpointError: as in `from_pretrained`.
        ImportError: the right checkpoint has an adapter, and transformers is there without PEFT.
    """
    texts = list(TEXTS if texts is None else texts)
    if not texts:
        raise InvalidInput("verify needs at least one text; leave texts out for the built-in ones")
    # transformers reads an old sentence encoder only from the transformer's own folder.
    place = find(Source.of(model))
    architecture, right = place.architecture(), place.source if against is None else find(Source.of(against)).source
    folder = packed.find(place.source)
    if folder is not None and place.source.adapter is None:
        index = packed.check(folder)
        if against is None:
            checksum = f"the checksum of when it was packed for backend {index['backend']!r}"
            return Report(str(place.source), architecture, checksum, index, ())
    if against is not None:
        _check_against(right, DistilBertConfig.from_pretrained(place.source))
    tokenizer = load_tokenizer(place.source)
    ours = place.model(architecture, backend=backend, dtype=dtype, num_threads=num_threads)
    inputs, mask = _padded(tokenizer, texts, ours)
    actual = _flat(ours(**inputs, output_hidden_states=True), mask)
    has_transformers = importlib.util.find_spec("transformers") is not None
    if has_transformers and importlib.util.find_spec("torch"):
        reference = _transformers(right, architecture, inputs, mask, ours.dtype)
    else:
        other = ours if against is None else type(ours).from_pretrained(right, backend="reference")
        reference = _numpy(other, inputs, mask, ours.dtype)
    return Report(
        str(place.source),
        architecture,
        reference.name,
        ours.backend.describe(),
        tuple(_compare(name, array, reference) for name, array in actual.items()),
        _agreement(HEADS[architecture], actual, reference.exact, mask),
        _other_tokens(tokenizer, right, texts) if has_transformers else None,
    )


def _padded(
    tokenizer: DistilBertTokenizer, texts: Sequence[str], model: Any
) -> tuple[dict[str, npt.NDArray[np.int64]], Mask]:
    """The model's arguments, padded by hand, as not every tokenizer has a token to pad with; and the mask
    `[batch_size, seq_len]`."""
    config, most = model.config, model.config.max_position_embeddings
    pairs = list(itertools.pairwise(texts)) if config.type_vocab_size > 1 else []
    encoded = tokenizer([*texts, *pairs], truncation=True, max_length=most, return_token_type_ids=config.is_bert)
    rows = encoded["input_ids"]
    mask = np.arange(max(map(len, rows))) < np.array([[len(row)] for row in rows])
    inputs = {"attention_mask": mask.astype(np.int64)}
    for name in ("input_ids", "token_type_ids") if pairs else ("input_ids",):
        inputs[name] = np.zeros(mask.shape, np.int64)
        inputs[name][mask] = np.concatenate(encoded[name])
    if HEADS[model.architecture].has_choices:
        inputs = {name: array[None] for name, array in inputs.items()}  # the texts as the choices of one question
    return inputs, mask


def _other_tokens(tokenizer: DistilBertTokenizer, source: Source, texts: Sequence[str]) -> tuple[str, ...]:
    """The texts, and pairs of the built-in ones, that transformers' tokenizer of `source` gives other ids."""
    from transformers import AutoTokenizer

    adapter = source.adapter
    own = adapter is not None and any(map(adapter.file, ("tokenizer.json", "vocab.txt", "tokenizer_config.json")))
    name, where = _in_transformers(adapter if adapter is not None and own else source)
    reference = AutoTokenizer.from_pretrained(name, **where)
    pairs = [(text, None) for text in (*TOKEN_TEXTS, *texts)] + list(itertools.pairwise(TOKEN_TEXTS))
    return tuple(
        "\n".join(filter(None, pair))
        for pair in pairs
        if tokenizer(*pair)["input_ids"] != reference(*pair)["input_ids"]
    )


def _compare(name: str, actual: npt.NDArray[Any], reference: _Reference) -> Comparison:
    exact, plain = reference.exact[name], reference.plain[name]
    largest, mean = _largest(actual - exact), float(np.abs(actual - exact).mean())
    size = _largest(exact)
    if reference.narrow is None:
        bound = max(1e-5 * size, 2 * _largest(plain - exact))
        ok = largest <= bound
    else:
        bound = reference.narrow * float(np.abs(exact).mean())
        ok = mean <= bound
    return Comparison(name, largest, mean, largest / size if size else 0.0, smallest_cosine(actual, exact), bound, ok)


def _check_against(against: Source, config: DistilBertConfig) -> None:
    if packed.find(against) is not None:
        raise InvalidParameter(f"{against} is packed and has no float weights to compare with; give the checkpoint")
    ours, theirs = _shape(config), _shape(DistilBertConfig.from_pretrained(against))
    if ours != theirs:
        raise InvalidParameter(f"{against} is another model: {theirs}, not {ours}")


def _shape(config: DistilBertConfig) -> str:
    architecture = architecture_of(config) or ENCODER.architecture
    return f"{architecture} with {config.num_layers} layers of {config.hidden_size} and {config.vocab_size} tokens"


def _agreement(head: Head, actual: Outputs, exact: Outputs, mask: Mask) -> float | None:
    """Share of equal best labels, along the last axis of a head's scores; the tokens of a text where that has these."""
    same: Any = True
    for name, dimensions in head.fields.items():
        if dimensions[-1] == "hidden_size" or exact[name].shape[-1] == 1:  # vectors, numbers, or one label by itself
            return None
        ours, theirs = (
            _best_tokens(each[name], mask) if dimensions[-1] == "seq_len" else each[name].argmax(axis=-1)
            for each in (actual, exact)
        )
        same = same & (ours == theirs)
    return float(np.mean(same))


def _best_tokens(scores: npt.NDArray[Any], mask: Mask) -> npt.NDArray[np.intp]:
    """The place of the largest score of each text, from those of all tokens that are not masked."""
    padded = np.full(mask.shape, -np.inf)
    padded[mask] = scores
    return np.asarray(padded.argmax(axis=1))


def smallest_cosine(actual: npt.NDArray[Any], exact: npt.NDArray[Any]) -> float:
    """Of the vectors along the last axis; that of two of zeros is 1, of one 0."""
    ours, theirs = (np.atleast_2d(array).astype(np.float64) for array in (actual, exact))
    length, exact_length = np.linalg.norm(ours, axis=-1), np.linalg.norm(theirs, axis=-1)
    both = length * exact_length
    cosines = np.divide((ours * theirs).sum(axis=-1), both, out=(length == exact_length) * 1.0, where=both > 0)
    return float(cosines.min())


def _largest(array: npt.NDArray[Any]) -> float:
    return float(np.abs(array).max())


def _flat(output: Any, mask: Mask) -> Outputs:
    """Every output and layer by name, without masked positions."""
    found: Outputs = {}
    for name, value in output.items():
        layers = {f"{name}[{i}]": layer for i, layer in enumerate(value)} if isinstance(value, tuple) else {name: value}
        for key, array in layers.items():
            array = np.asarray(as_numpy(array))
            found[key] = array[mask] if array.shape[:2] == mask.shape else array
    return found


def _numpy(model: Any, inputs: Mapping[str, Any], mask: Mask, dtype: str) -> _Reference:
    """The NumPy reference of a model."""
    outputs = []
    for precision in ("float64", "float32"):
        reference = type(model)(model.config, model.weights, backend="reference", dtype=precision)
        outputs.append(_flat(reference(**inputs, output_hidden_states=True), mask))
    return _Reference("NumPy float64", NARROW_BOUNDS.get(dtype), *outputs)


def _transformers(source: Source, architecture: str, inputs: Mapping[str, Any], mask: Mask, dtype: str) -> _Reference:
    """transformers' model of a checkpoint, in float64, and in float32 or the narrower dtype of ours."""
    import torch
    import transformers

    config = DistilBertConfig.from_pretrained(source)
    name = HEADS[architecture].bert if config.is_bert else architecture
    if config.predicts_next_sentence:
        name = NEXT_SENTENCE
    bars: Any = transformers.utils.logging
    shown = bars.is_progress_bar_enabled()
    bars.disable_progress_bar()
    theirs = _loaded(source, getattr(transformers, name), config).eval()
    if shown:
        bars.enable_progress_bar()
    tensors = {key: torch.from_numpy(array) for key, array in inputs.items()}
    outputs = []
    plain = getattr(torch, dtype) if dtype in ("float16", "bfloat16") else torch.float32
    for precision in (torch.float64, plain):  # in this order: what a narrow dtype rounds off is gone
        with torch.inference_mode():
            result = theirs.to(precision)(**tensors, output_hidden_states=True)
        outputs.append(_flat(result, mask))
    narrow = NARROW_BOUNDS[dtype] if dtype in ("int8", "float8") else None
    tuned = f" with PEFT {importlib.metadata.version('peft')}" if source.adapter is not None else ""
    return _Reference(f"transformers {transformers.__version__} {name}{tuned} float64", narrow, *outputs)


def _loaded(source: Source, model_class: Any, config: DistilBertConfig) -> Any:
    """transformers' model of a checkpoint, in float32, in which PEFT has put the adapter, if there is one."""
    import torch

    folder, where = _in_transformers(source)
    if source.adapter is None:
        return model_class.from_pretrained(folder, dtype=torch.float32, **where)
    if importlib.util.find_spec("peft") is None:
        raise ImportError(f"to verify {source}, its adapter must be loaded by PEFT: pip install peft")
    import peft

    adapter, place = _in_transformers(source.adapter)
    labels = {"num_labels": config.num_labels, "ignore_mismatched_sizes": True}
    theirs = model_class.from_pretrained(folder, dtype=torch.float32, **labels, **where)
    if adapter == folder:  # then transformers had PEFT load it
        return theirs
    return peft.PeftModel.from_pretrained(theirs, adapter, **place).get_base_model()


def _in_transformers(source: Source) -> tuple[str, dict[str, Any]]:
    """The first argument and the others of transformers' `from_pretrained` for a source without its adapter."""
    if source.folder is not None:
        return str(source.folder), {}
    return str(source.model), {"revision": source.revision, "subfolder": source.subfolder}

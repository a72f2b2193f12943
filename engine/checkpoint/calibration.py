"""What example texts say about linear layers: int8 weights that suit their inputs, and where int8 will not do.

The texts go through the float32 reference once, layer by layer; each linear layer's inputs settle its column scales
and its rounding (`distilrt.checkpoint.quantization`), and show how far int8 is off there. Backends pack the outcome.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from distilrt.batch import pack
from distilrt.checkpoint import quantization
from distilrt.checkpoint.quantization import FloatArray
from distilrt.checkpoint.source import Source
from distilrt.errors import InvalidInput
from distilrt.model import reference
from distilrt.model.architecture import linears
from distilrt.model.config import DistilBertConfig
from distilrt.text.auto_tokenizer import load_tokenizer
from distilrt.text.tokenizer import DistilBertTokenizer

BUILT_IN = Path(__file__).with_name("calibration.txt")
# A linear layer whose output is off by more than this, relative to how it varies over the texts, stays in higher
# precision. Eight bits on both sides cost about 0.01 of well-behaved rows, so this is where int8 does not fit a layer.
THRESHOLD = 0.02
MAX_TOKENS = 8192  # more change little and take longer


@dataclass(frozen=True, slots=True)
class Int8Linear:
    """An int8 weight `codes * column_scales[:, None]` `[n, k]`, for inputs multiplied by `input_scales` `[k]`."""

    codes: npt.NDArray[np.int8]
    column_scales: FloatArray
    input_scales: FloatArray

    def weight(self) -> FloatArray:
        """`[n, k]`, whole multiples of `column_scales`."""
        return self.codes * self.column_scales[:, None]


@dataclass(frozen=True, slots=True)
class Calibration:
    """The outcome, by the native encoder's names of the linear layers (`distilrt.model.architecture.linears`).

    Attributes:
        source: which texts, in words.
        errors: of each layer's outputs in int8, root mean square, relative to their variation over the texts.
        linears: the layers that can be int8.
    """

    source: str
    errors: Mapping[str, float]
    linears: Mapping[str, Int8Linear]

    @property
    def kept(self) -> tuple[str, ...]:
        """The layers that stay in higher precision."""
        return tuple(name for name in self.errors if name not in self.linears)


def read_texts(path: str | Path) -> list[str]:
    """The lines of a UTF-8 file that are not blank.

    Raises:
        InvalidInput: it has none, or is not UTF-8.
        OSError: it can't be read.
    """
    try:
        texts = [line.strip() for line in Path(path).read_text(encoding="utf-8").splitlines() if line.strip()]
    except UnicodeDecodeError as error:
        raise InvalidInput(f"{path} must be UTF-8 text, one calibration text a line: {error}") from error
    if not texts:
        raise InvalidInput(f"{path} has no calibration text; write one a line, some hundred lines like real inputs")
    return texts


def calibrate(
    config: DistilBertConfig,
    weights: Mapping[str, npt.NDArray[Any]],
    tokenizer: DistilBertTokenizer,
    path: str | Path | None = None,
) -> Calibration:
    """Quantize every linear layer of the encoder for the inputs that texts give it. The same texts, the same outcome.

    Args:
        weights: canonical names.
        tokenizer: the model's own.
        path: file of texts, one a line, read up to `MAX_TOKENS` tokens; None: the built-in ones, English of all sorts.

    Raises:
        InvalidInput: a bad file, or a tokenizer with ids that the model has no embedding for.
        OSError: the file can't be read.
    """
    texts = read_texts(path or BUILT_IN)
    ids = tokenizer(texts, truncation=True, max_length=config.max_position_embeddings)["input_ids"]
    ids = [each for each, total in zip(ids, accumulate(map(len, ids)), strict=True) if total <= MAX_TOKENS] or ids[:1]
    errors: dict[str, float] = {}
    found: dict[str, Int8Linear] = {}
    with np.errstate(over="ignore", invalid="ignore"):  # what overflows in a broken model stays in higher precision
        for name, rows, weight, product in _progress(_linears(config, weights, ids), 4 * config.num_layers):
            errors[name], linear = _quantize(rows, weight, product)
            if errors[name] <= THRESHOLD and linear is not None:
                found[name] = linear
    source = f"{len(ids)} built-in texts" if path is None else f"{len(ids)} of {len(texts)} texts of {Path(path).name}"
    return Calibration(source, errors, found)


def of_checkpoint(
    source: Source,
    config: DistilBertConfig,
    weights: Mapping[str, npt.NDArray[Any]],
    path: str | Path | None = None,
) -> Calibration | None:
    """`calibrate` with the tokenizer that lies beside the weights; None where there is none, and no `path`.

    Raises:
        InvalidInput, OSError: as `calibrate`; texts of a file need a tokenizer.
        ValueError: the tokenizer's files are damaged, or not a DistilBERT's.
    """
    if path is None and not (source.file("tokenizer.json") or source.file("vocab.txt")):
        return None
    return calibrate(config, weights, load_tokenizer(source), path)


def _quantize(rows: FloatArray, weight: FloatArray, product: FloatArray) -> tuple[float, Int8Linear | None]:
    scales = quantization.column_scales(rows, weight)
    scaled = rows * scales
    gram = scaled.T @ scaled
    if not (np.isfinite(product).all() and np.isfinite(gram).all()):
        return float("inf"), None
    codes, column_scales = quantization.round_weight(weight / scales, gram)
    linear = Int8Linear(codes, column_scales, scales)
    lost = np.linalg.norm(quantization.round_rows(scaled) @ linear.weight().T - product)
    spread = np.linalg.norm(product - product.mean(axis=0))
    return (float(lost / spread) if spread > 0 else float("inf") if lost > 0 else 0.0), linear


def _linears(
    config: DistilBertConfig, weights: Mapping[str, npt.NDArray[Any]], ids: Sequence[Sequence[int]]
) -> Iterator[tuple[str, FloatArray, FloatArray, FloatArray]]:
    """Each linear layer's name, inputs `[m, k]`, weight `[n, k]` and their product, in the order of a forward."""
    batch = pack(config, ids)
    sources = linears(config.num_layers, (), "int8")

    def parts(name: str) -> tuple[FloatArray, FloatArray]:
        both = ([weights[f"{source}.{part}"] for source in sources[name][1]] for part in ("weight", "bias"))
        weight, bias = (np.concatenate(arrays).astype(np.float32, copy=False) for arrays in both)
        return weight, bias

    def norm(name: str, x: FloatArray) -> FloatArray:
        return reference.layer_norm(x, weights[f"{name}.weight"], weights[f"{name}.bias"])

    x = reference.embed(weights, batch.input_ids, None, batch.position_ids, np.float32)
    for index in range(config.num_layers):
        at, source = f"layer.{index}", f"transformer.layer.{index}"
        weight, bias = parts(f"{at}.qkv")
        product = x @ weight.T
        yield f"{at}.qkv", x, weight, product
        query, key, value = np.split(product + bias, 3, axis=1)
        context = reference.attention(query, key, value, batch.cu_seqlens, batch.key_lengths, config.num_heads)
        weight, bias = parts(f"{at}.out_proj")
        product = context @ weight.T
        yield f"{at}.out_proj", context, weight, product
        x = norm(f"{source}.sa_layer_norm", x + product + bias)
        weight, bias = parts(f"{at}.ffn_in")
        product = x @ weight.T
        yield f"{at}.ffn_in", x, weight, product
        inner = product + bias
        for start, end in zip(batch.cu_seqlens[:-1], batch.cu_seqlens[1:], strict=True):  # few rows stay in the cache
            inner[start:end] = reference.activation(config.activation, inner[start:end])
        weight, bias = parts(f"{at}.ffn_out")
        product = inner @ weight.T
        yield f"{at}.ffn_out", inner, weight, product
        x = norm(f"{source}.output_layer_norm", x + product + bias)


def _progress(items: Iterator[Any], total: int) -> Iterator[Any]:
    """The items, with a bar on a terminal where they take longer than two seconds and tqdm is there."""
    try:
        from tqdm import tqdm
    except ImportError:
        return items
    return iter(tqdm(items, desc="calibrating int8", total=total, unit=" layers", disable=None, delay=2, leave=False))

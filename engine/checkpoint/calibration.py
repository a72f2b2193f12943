"""8-bit weights of linear layers, int8 or float8: calibration with example texts, and rounding.

The texts go through the float32 reference once, layer by layer. Each linear layer's inputs settle its column scales and
how its weight is rounded, and show how far 8 bits are off there; where too far, the layer stays in higher precision.
Where a coding bounds what the whole encoder may lose, some of the texts go through it once more for each layer, with
that layer alone in 8 bits, and the layers that lose most stay in higher precision, too. Backends pack the outcome,
which costs nothing at run time but one multiplication of each input column.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from distilrt.batch import Batch, pack
from distilrt.checkpoint.codings import CODINGS, Coding
from distilrt.checkpoint.source import Source
from distilrt.checkpoint.tensor_files import FloatArray
from distilrt.errors import InvalidInput
from distilrt.model import functional
from distilrt.model.architecture import linears
from distilrt.model.config import DistilBertConfig
from distilrt.text.auto_tokenizer import load_tokenizer
from distilrt.text.tokenizer import DistilBertTokenizer

BUILT_IN = Path(__file__).with_name("calibration.txt")
MAX_TOKENS = 8192  # more change little and take longer
_LOSS_TOKENS = 512  # likewise, of the texts that show what each layer alone loses
# The ridge term, as a share of the Gram matrix's mean diagonal. With less, rounding fits the few example rows alone.
_DAMPING = 0.3
_BLOCK = 64  # columns rounded before what they leave is carried to all others, in one product


@dataclass(frozen=True, slots=True)
class CodedLinear:
    """A weight `codes * column_scales[:, None]` `[n, k]`, for inputs multiplied by `input_scales` `[k]`."""

    codes: npt.NDArray[Any]  # numbers that the coding has
    column_scales: FloatArray
    input_scales: FloatArray

    def weight(self) -> FloatArray:
        """`[n, k]`, codes times `column_scales`."""
        return self.codes * self.column_scales[:, None]


@dataclass(frozen=True, slots=True)
class Calibration:
    """What came of calibration, by the native encoder's names of the linear layers."""

    source: str  # which texts were used, in words
    errors: Mapping[str, float]  # root mean square of outputs in 8 bits, relative to their variation over the texts
    linears: Mapping[str, CodedLinear]  # the layers that can be held in them

    @property
    def kept(self) -> tuple[str, ...]:
        """The layers that stay in higher precision."""
        return tuple(name for name in self.errors if name not in self.linears)


def column_scales(rows: FloatArray, weight: FloatArray) -> FloatArray:
    """What to multiply each input column by so that rows and weights lose equally little to rounding.

    SmoothQuant with an even split, `sqrt(max|w| / max|x|)` over each column, normalized to a geometric mean of 1 (Xiao
    et al. 2022, arXiv:2211.10438). A column of zeros on either side keeps 1. From rows `[m, k]` and weight `[n, k]` to
    `[k]`, by which the weight is to be divided.
    """
    largest_input, largest_weight = (np.abs(array).max(axis=0).astype(np.float64) for array in (rows, weight))
    used = (largest_input > 0) & (largest_weight > 0)
    logs = np.log(largest_weight, where=used, out=np.zeros(len(used)))
    logs -= np.log(largest_input, where=used, out=np.zeros(len(used)))
    logs[used] -= logs[used].mean() if used.any() else 0
    scales: FloatArray = np.exp(logs / 2).astype(np.float32)
    return scales


def round_weight(
    weight: FloatArray, gram: FloatArray, coding: Coding = CODINGS["cpu", "int8"]
) -> tuple[npt.NDArray[Any], FloatArray]:
    """A weight as codes times a scale for each of its rows, with the error in outputs made small, not that in weights.

    Columns are rounded one after another, each after what the columns before it lost was carried over to it in the
    proportion that makes `(w - q) gram (w - q)` smallest: GPTQ (Frantar et al. 2022, arXiv:2210.17323), in the order of
    falling diagonal, written as back substitution with the Cholesky factor, which needs no inverse.

    From a weight `[n, k]` and `gram = rowsᵀ rows` `[k, k]` of example inputs to codes `[n, k]` and scales `[n]`.
    """
    scales: FloatArray = np.abs(weight).max(axis=1) / np.float32(coding.largest)
    order = np.argsort(np.diag(gram), kind="stable")
    damped = gram[np.ix_(order, order)]
    damped[np.diag_indices_from(damped)] += _DAMPING * np.diag(gram).mean() or 1.0
    upper = np.linalg.cholesky(damped).T
    carry: FloatArray = upper / np.diag(upper)[:, None]  # [j, i]: what column j takes over of column i's loss
    exact: FloatArray = weight.T[order] / np.where(scales > 0, scales, 1)  # [k, n]
    target, codes = exact.copy(), np.empty_like(exact)
    for end in range(len(order), 0, -_BLOCK):
        start = max(end - _BLOCK, 0)
        lost: FloatArray = np.zeros((end - start, len(weight)), np.float32)
        for j in range(end - 1, start - 1, -1):
            codes[j] = coding.nearest(target[j] + carry[j, start:end] @ lost)
            lost[j - start] = exact[j] - codes[j]
        target[:start] += carry[:start, start:end] @ lost
    columns = np.empty(codes.shape, coding.held)
    columns[order] = codes
    return np.ascontiguousarray(columns.T), scales


def texts_of(content: bytes, path: str | Path) -> list[str]:
    """The lines of a UTF-8 file that are not blank.

    Raises:
        InvalidInput: it has none, or is not UTF-8.
    """
    try:
        texts = [line.strip() for line in content.decode().splitlines() if line.strip()]
    except UnicodeDecodeError as error:
        raise InvalidInput(f"{path} must be UTF-8, one text a line: {error}") from error
    if not texts:
        raise InvalidInput(f"{path} has no text; write one a line, like real inputs")
    return texts


def calibrate(
    config: DistilBertConfig,
    weights: Mapping[str, npt.NDArray[Any]],
    tokenizer: DistilBertTokenizer,
    path: str | Path | None = None,
    coding: Coding = CODINGS["cpu", "int8"],
) -> Calibration:
    """Quantize every linear layer of the encoder for the inputs that texts give it. The same texts, the same outcome.

    Args:
        weights: canonical names.
        tokenizer: the model's own.
        path: file of texts, one a line, read up to `MAX_TOKENS` tokens; None: the built-in ones, English of all sorts.
        coding: of the backend and dtype that the model will run in.

    Raises:
        InvalidInput: a bad file, or a tokenizer with ids that the model has no embedding for.
        OSError: the file can't be read.
    """
    file = Path(path or BUILT_IN)
    texts = texts_of(file.read_bytes(), file)
    ids = tokenizer(texts, truncation=True, max_length=config.max_position_embeddings)["input_ids"]
    ids = _within(ids, MAX_TOKENS)
    errors: dict[str, float] = {}
    found: dict[str, CodedLinear] = {}

    def quantize(name: str, rows: FloatArray, weight: FloatArray) -> FloatArray:
        product: FloatArray = rows @ weight.T
        errors[name], linear = _quantize(rows, weight, product, coding)
        if errors[name] <= coding.threshold and linear is not None:
            found[name] = linear
        progress.update()
        return product

    with np.errstate(over="ignore", invalid="ignore"):  # what overflows in a broken model stays in higher precision
        with _progress(f"calibrating {coding.dtype}", 4 * config.num_layers) as progress:
            _forward(config, weights, pack(config, ids), quantize)
        if np.isfinite(coding.loss):
            losses = _losses(config, weights, _within(ids, _LOSS_TOKENS), coding, found)
            for name in _most_lossy(losses, found, coding.loss):
                del found[name]
    source = f"{len(ids)} built-in texts" if path is None else f"{len(ids)} of {len(texts)} texts of {Path(path).name}"
    return Calibration(source, errors, found)


def calibration_of(
    source: Source,
    config: DistilBertConfig,
    weights: Mapping[str, npt.NDArray[Any]],
    path: str | Path | None = None,
    coding: Coding = CODINGS["cpu", "int8"],
) -> Calibration | None:
    """`calibrate` with the tokenizer of a checkpoint; None where it has none and no `path` is given.

    Raises:
        InvalidInput, OSError: as `calibrate`; the texts of a file need a tokenizer.
        ValueError: the tokenizer's files are damaged, or not a DistilBERT's.
    """
    if path is None and not (source.file("tokenizer.json") or source.file("vocab.txt")):
        return None
    return calibrate(config, weights, load_tokenizer(source), path, coding)


def _quantize(
    rows: FloatArray, weight: FloatArray, product: FloatArray, coding: Coding
) -> tuple[float, CodedLinear | None]:
    """The relative error of a layer in 8 bits, and the layer; None where its numbers overflow."""
    input_scales = column_scales(rows, weight)
    scaled = rows * input_scales
    gram = scaled.T @ scaled
    if not (np.isfinite(product).all() and np.isfinite(gram).all()):
        return float("inf"), None
    linear = CodedLinear(*round_weight(weight / input_scales, gram, coding), input_scales)
    lost = np.linalg.norm(coding.rounded_rows(scaled) @ linear.weight().T - product)
    spread = np.linalg.norm(product - product.mean(axis=0))
    if spread > 0:
        return float(lost / spread), linear
    return (float("inf") if lost > 0 else 0.0), linear


def _progress(doing: str, layers: int) -> Any:
    from tqdm import tqdm  # The package is there, because huggingface_hub needs it.

    # `disable=None` shows it on a terminal only.
    return tqdm(desc=doing, total=layers, unit=" layers", disable=None, delay=2, leave=False)


def _within(ids: Sequence[Sequence[int]], tokens: int) -> Sequence[Sequence[int]]:
    """The first texts, up to a number of tokens, and at least one."""
    return [each for each, total in zip(ids, accumulate(map(len, ids)), strict=True) if total <= tokens] or ids[:1]


def _losses(
    config: DistilBertConfig,
    weights: Mapping[str, npt.NDArray[Any]],
    ids: Sequence[Sequence[int]],
    coding: Coding,
    found: Mapping[str, CodedLinear],
) -> dict[str, float]:
    """How far each layer alone in 8 bits turns the mean vectors of texts: the mean of 1 - cosine."""
    batch = pack(config, ids)

    def vectors(coded: str) -> npt.NDArray[np.float64]:
        def product(name: str, rows: FloatArray, weight: FloatArray) -> FloatArray:
            if name == coded:
                rows, weight = coding.rounded_rows(rows * found[name].input_scales), found[name].weight()
            multiplied: FloatArray = rows @ weight.T
            return multiplied

        states = _forward(config, weights, batch, product)
        sums = np.add.reduceat(states, batch.cu_seqlens[:-1], axis=0, dtype=np.float64)
        unit: npt.NDArray[np.float64] = sums / np.linalg.norm(sums, axis=1, keepdims=True)
        return unit

    exact = vectors("")
    losses = {}
    with _progress(f"judging {coding.dtype}", len(found)) as progress:
        for name in found:
            losses[name] = 1 - float((vectors(name) * exact).sum(axis=1).mean())
            progress.update()
    return losses


def _most_lossy(losses: Mapping[str, float], found: Mapping[str, CodedLinear], bound: float) -> list[str]:
    """Layers that lose most an operation, as many as it takes for all others to lose no more than `bound` together."""
    rest = sum(losses.values())
    kept = []
    for name in sorted(losses, key=lambda name: losses[name] / found[name].codes.size, reverse=True):
        if rest <= bound:
            break
        rest -= losses[name]
        kept.append(name)
    return kept


def _forward(
    config: DistilBertConfig,
    weights: Mapping[str, npt.NDArray[Any]],
    batch: Batch,
    product: Callable[[str, FloatArray, FloatArray], FloatArray],
) -> FloatArray:
    """The encoder's last states; `product` multiplies rows `[m, k]` by the weight `[n, k]` of a name."""
    sources = linears(config.num_layers, (), "int8")

    def linear(name: str, x: FloatArray) -> FloatArray:
        both = ([weights[f"{source}.{part}"] for source in sources[name][1]] for part in ("weight", "bias"))
        weight, bias = (np.concatenate(arrays).astype(np.float32, copy=False) for arrays in both)
        return product(name, x, weight) + bias

    def norm(name: str, x: FloatArray) -> FloatArray:
        return functional.layer_norm(x, weights[f"{name}.weight"], weights[f"{name}.bias"])

    x = functional.embed(weights, batch.input_ids, None, batch.position_ids, np.float32)
    for index in range(config.num_layers):
        at, source = f"layer.{index}", f"transformer.layer.{index}"
        query, key, value = np.split(linear(f"{at}.qkv", x), 3, axis=1)
        context = functional.attention(query, key, value, batch.cu_seqlens, batch.key_lengths, config.num_heads)
        x = norm(f"{source}.sa_layer_norm", x + linear(f"{at}.out_proj", context))
        inner = linear(f"{at}.ffn_in", x)
        for start, end in zip(batch.cu_seqlens[:-1], batch.cu_seqlens[1:], strict=True):  # few rows stay in the cache
            inner[start:end] = functional.activation(config.activation, inner[start:end])
        x = norm(f"{source}.output_layer_norm", x + linear(f"{at}.ffn_out", inner))
    return x

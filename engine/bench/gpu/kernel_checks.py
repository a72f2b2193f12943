"""Every kernel on the device against float64, before anything is timed.

The bound is twice the error of plain torch in the same dtype on the same device, and a rounding of the largest output
(float32, where sums matter more: eight), for torch can be right by luck where numbers are few. Outputs hold NaN before,
inputs are new in every run, and each kernel runs three times: an error that moves between runs is a race.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
import torch.nn.functional as functional

from distilrt.batch import pack_padded
from distilrt.kernels import (
    attention,
    embedding,
    layer_norm,
    linear,
    narrow_linear,
    packing,
    pooling,
    row_attention,
    tiles,
)
from distilrt.kernels.launch import DTYPE_NAMES
from distilrt.model import reference
from distilrt.model.config import ACTIVATIONS, LAYER_NORM_EPS, DistilBertConfig
from distilrt.model.heads import HEADS

DTYPES = (torch.float32, torch.float16, torch.bfloat16)
Check = dict[str, Any]  # name, error, bound, ok


@dataclass(frozen=True, slots=True)
class Scale:
    """Sizes of the checks."""

    width: int
    inner: int
    tokens: tuple[int, ...]
    lengths: tuple[int, ...]
    head_dims: tuple[int, ...]
    layers: int  # of the whole models
    dtypes: tuple[torch.dtype, ...]  # likewise
    architectures: tuple[str, ...]


REAL = Scale(768, 3072, (1, 2, 16, 17, 63, 64, 65, 127, 511, 512), (1, 2, 63, 64, 65, 127, 511, 512),
             (16, 18, 32, 64, 80, 100, 128), 2, DTYPES, tuple(HEADS))  # fmt: skip
TINY = Scale(32, 64, (1, 5), (1, 2, 6), (16,), 1, (torch.bfloat16,),
             ("DistilBertForTokenClassification", "DistilBertForMultipleChoice"))  # fmt: skip


class KernelChecks:
    """The checks of one dtype. Each yields as it goes, so that a time limit loses only what is left.

    Args:
        device: where kernels and plain torch run.
        dtype: of rows and matrices; vectors are float32, as in the model.
        scale: sizes.
        seed: of the inputs.
    """

    def __init__(self, device: torch.device, dtype: torch.dtype, scale: Scale, seed: int) -> None:
        self._device, self._dtype, self._scale = device, dtype, scale
        self._name = DTYPE_NAMES[dtype]
        self._rng = np.random.default_rng(seed)

    def all(self) -> Iterator[Check]:
        """Every kernel but the packing ones, which know no dtype."""
        width, inner, tokens = self._scale.width, self._scale.inner, self._scale.tokens
        shapes = [(t, width, width, "") for t in tokens] + [(t, inner, width, "") for t in tokens]
        shapes += [(tokens[-1], width, inner, "gelu"), (5, 36, 51, ""), (33, 100, 2, "relu")]
        shapes += [(tokens[1], 48, 80, activation) for activation in ACTIVATIONS]
        for shape in shapes:
            yield self._linear(*shape)
        if self._dtype == torch.float32:
            for count in tokens:
                yield self._tf32(count, width, 3 * width)
        for count in tokens:
            yield self._split(count, inner, width)
            if tiles.is_narrow(count, self._name):
                yield from self._norm_linear(count, width, inner)
            yield self._embed(count, width)
            yield self._embed(count, 36)
        yield from self._pooling(width)
        longest = max(self._scale.lengths)
        for head_dim in self._scale.head_dims:
            for limit in sorted({min(length, longest) for length in (16, 128, 512)}):
                yield from self._attention(head_dim, limit)

    def _linear(self, tokens: int, k: int, n: int, activation: str) -> Check:
        x, weight = self._random(tokens + 3, k), self._random(n, k, scale=k**-0.5)
        bias, residual = self._vector(n), self._random(tokens + 3, n)
        count, out = self._count(tokens), self._nan(tokens + 3, n)
        exact = reference.linear(_double(x[:tokens]), _double(weight), _double(bias))
        plain = functional.linear(x[:tokens], weight, bias.to(self._dtype))
        if activation:
            exact, plain = reference.activation(activation, exact), _activation(activation, plain)
        return self._check(
            f"linear {tokens}x{k}x{n} {activation}".rstrip(), out,
            lambda: linear.linear(out, x, weight, bias, residual, activation=activation, num_tokens=count),
            exact + _double(residual[:tokens]), plain + residual[:tokens],
        )  # fmt: skip

    def _tf32(self, tokens: int, k: int, n: int) -> Check:
        """Each factor may lose 2^-10 of its size, so a product 2^-9; sums of k of them in float32 lose k 2^-23 more."""
        x, weight, out = self._random(tokens, k), self._random(n, k, scale=k**-0.5), self._nan(tokens, n)
        linear.linear(out, x, weight, tf32=True)
        bound = float((x.double().abs() @ weight.double().abs().T).max()) * (2**-9 + k * 2**-23)
        error = float((out.double() - x.double() @ weight.double().T).abs().max())
        return {"name": f"linear {tokens}x{k}x{n} tf32", "error": error, "bound": bound, "ok": error <= bound}

    def _split(self, tokens: int, k: int, n: int) -> Check:
        x, weight = self._random(tokens, k), self._random(n, k, scale=k**-0.5)
        bias, gamma, beta = (self._vector(n) for _ in range(3))
        residual, out = self._random(tokens, n), self._nan(tokens, n)
        parts = self._nan(2, tokens, n, dtype=torch.float32)

        def launch() -> None:
            linear.linear_split(parts, x, weight)
            layer_norm.residual_layer_norm(out, parts, residual, gamma, beta, bias, eps=LAYER_NORM_EPS)

        exact = reference.linear(_double(x), _double(weight), _double(bias)) + _double(residual)
        plain = functional.linear(x, weight, bias.to(self._dtype)) + residual
        exact = reference.layer_norm(exact, _double(gamma), _double(beta))
        return self._check(f"linear_split, layer norm {tokens}x{k}x{n}", out, launch, exact, _norm(plain, gamma, beta))

    def _norm_linear(self, tokens: int, k: int, n: int) -> Iterator[Check]:
        x, gamma, beta = self._random(tokens, k, dtype=torch.float32, scale=3), self._vector(k), self._vector(k)
        weight, bias = self._random(n, k, scale=k**-0.5), self._vector(n)
        normed, out = self._nan(tokens, k), self._nan(tokens, n)

        def launch() -> None:
            narrow_linear.norm_linear(out, normed, x, gamma, beta, weight, bias, eps=LAYER_NORM_EPS, activation="gelu")

        exact_norm = reference.layer_norm(_double(x), _double(gamma), _double(beta))
        exact = reference.activation("gelu", reference.linear(exact_norm, _double(weight), _double(bias)))
        plain_norm = _norm(x.to(self._dtype), gamma, beta)
        plain = functional.gelu(functional.linear(plain_norm, weight, bias.to(self._dtype)))
        yield self._check(f"norm_linear {tokens}x{k}x{n}", out, launch, exact, plain)
        yield self._check(f"norm_linear's norm {tokens}x{k}", normed, launch, exact_norm, plain_norm)

    def _embed(self, tokens: int, width: int) -> Check:
        words, positions = self._random(50, width), self._random(40, width)
        gamma, beta = self._vector(width), self._vector(width)
        ids, numbers = (torch.from_numpy(self._rng.integers(0, most, tokens + 2, np.int32)).to(self._device)
                        for most in (50, 40))  # fmt: skip
        count, out = self._count(tokens), self._nan(tokens + 2, width)
        chosen = words[ids[:tokens].long()], positions[numbers[:tokens].long()]
        return self._check(
            f"embed {tokens}x{width}", out,
            lambda: embedding.embed(out, ids, numbers, words, positions, gamma, beta, eps=LAYER_NORM_EPS,
                                    num_tokens=count),
            reference.layer_norm(_double(chosen[0]) + _double(chosen[1]), _double(gamma), _double(beta)),
            _norm(chosen[0] + chosen[1], gamma, beta),
        )  # fmt: skip

    def _pooling(self, width: int) -> Iterator[Check]:
        ends = np.cumsum([0, *self._scale.lengths])
        x = self._random(int(ends[-1]), width)
        cu_seqlens = torch.tensor(ends, dtype=torch.int32, device=self._device)
        key_lengths, index = cu_seqlens.diff(), cu_seqlens[:-1].contiguous()
        out, exact, firsts = self._nan(len(index), width), _double(x), ends[:-1]
        yield self._check("first_rows", out, lambda: pooling.first_rows(out, x, cu_seqlens), exact[firsts], x[firsts])
        yield self._check("gather", out, lambda: pooling.gather(out, x, index), exact[firsts], x[firsts])
        means = self._nan(len(index), width, dtype=torch.float32)
        yield self._check(
            "mean", means, lambda: pooling.mean(means, x, cu_seqlens, key_lengths),
            np.stack([exact[a:b].mean(0) for a, b in pairwise(ends)]),
            torch.stack([x[a:b].float().mean(0) for a, b in pairwise(ends)]),
        )  # fmt: skip

    def _attention(self, head_dim: int, longest: int) -> Iterator[Check]:
        """Odd lengths beside each other, of which the last row only asks; empty sequences behind them. All rows, and
        the first row of each sequence alone."""
        lengths = np.array([length for length in self._scale.lengths if length <= longest])
        ends, keys = np.cumsum([0, *lengths]), np.where(lengths > 2, lengths - 1, lengths)
        qkv = self._random(int(ends[-1]) + 4, 6 * head_dim)
        out = self._nan(len(qkv), 2 * head_dim)
        cu_seqlens = torch.tensor([*ends, ends[-1], ends[-1]], dtype=torch.int32, device=self._device)
        key_lengths = torch.tensor([*keys, 0, 0], dtype=torch.int32, device=self._device)
        query, key, value = np.split(_double(qkv[: ends[-1]]), 3, axis=1)
        exact = reference.attention(query, key, value, ends.astype(np.int32), keys.astype(np.int32), 2)
        plain = torch.cat([_attention(qkv[a:b], k, head_dim) for (a, b), k in zip(pairwise(ends), keys, strict=True)])
        yield self._check(
            f"attention head_dim {head_dim} up to {longest}", out,
            lambda: attention.attention(out, qkv, cu_seqlens, key_lengths, 2, max_seqlen=longest), exact, plain,
        )  # fmt: skip
        index = torch.tensor([*ends[:-1], 0, len(lengths)], dtype=torch.int32, device=self._device)
        few, picked = (self._nan(len(lengths) + 1, 2 * head_dim) for _ in range(2))
        yield self._check(
            f"row_attention head_dim {head_dim} up to {longest}", few,
            lambda: row_attention.row_attention(few, picked, qkv, out, index, cu_seqlens, key_lengths, 2,
                                                max_seqlen=longest),
            exact[ends[:-1]], plain[ends[:-1]],
        )  # fmt: skip

    def _check(
        self, name: str, out: torch.Tensor, launch: Callable[[], None], exact: Any, plain: torch.Tensor
    ) -> Check:
        """Launch three times into `out` and compare the first rows of it, those that `exact` has."""
        wanted = torch.as_tensor(exact, device=self._device)
        runs = []
        for _ in range(3):
            out.fill_(torch.nan)
            launch()
            runs.append(out[: len(wanted)].clone())
        size = float(wanted.abs().max())
        error = float((runs[0].double() - wanted).abs().max())
        roundings = 8 if out.dtype == torch.float32 else 1
        bound = 2 * float((plain.double() - wanted).abs().max()) + roundings * torch.finfo(out.dtype).eps * size
        steady = all(torch.equal(run, runs[0]) for run in runs)
        untouched = bool(out[len(wanted) :].isnan().all())
        return {"name": f"{name} {self._name}", "error": error, "bound": bound, "steady": steady,
                "untouched": untouched, "ok": error <= bound and steady and untouched}  # fmt: skip

    def _random(self, *shape: int, dtype: torch.dtype | None = None, scale: float = 1.0) -> torch.Tensor:
        return torch.from_numpy(self._rng.normal(0, scale, shape)).to(self._device, dtype or self._dtype)

    def _vector(self, size: int) -> torch.Tensor:
        return self._random(size, dtype=torch.float32)

    def _nan(self, *shape: int, dtype: torch.dtype | None = None) -> torch.Tensor:
        return torch.full(shape, torch.nan, dtype=dtype or self._dtype, device=self._device)

    def _count(self, tokens: int) -> torch.Tensor:
        return torch.tensor([tokens], dtype=torch.int32, device=self._device)


def packings(device: torch.device, scale: Scale, seed: int) -> Iterator[Check]:
    """`pack` and `unpack` against `distilrt.batch`, exactly, for any mask and both choices of rows that only ask."""
    rng = np.random.default_rng(seed)
    config = DistilBertConfig(vocab_size=1000)
    for batch_size, seq_len in ((1, 1), (3, max(scale.lengths)), (17, 7)):
        mask = rng.random((batch_size, seq_len)) < 0.7
        mask[:, -1] |= ~mask.any(axis=1)
        ids = rng.integers(0, config.vocab_size, mask.shape)
        for keep in ("keys", "first"):
            wrong = _packing_errors(device, config, ids, mask, keep)
            yield {
                "name": f"pack and unpack {batch_size}x{seq_len} {keep}",
                "error": wrong,
                "bound": 0,
                "ok": not wrong,
            }


def _packing_errors(device: torch.device, config: DistilBertConfig, ids: Any, mask: Any, keep: str) -> int:
    """How many of the arrays differ."""
    batch, layout = pack_padded(config, ids, mask, keep_first=keep == "first")
    size, seqs, total = mask.size, len(mask), batch.total_tokens
    sizes = {"input_ids": size, "position_ids": size, "index": size, "cu_seqlens": seqs + 3, "key_lengths": seqs + 2,
             "first_rows": seqs + 3, "errors": 1}  # fmt: skip
    packed: dict[str, Any] = {
        name: torch.zeros(length, dtype=torch.int32, device=device) for name, length in sizes.items()
    }
    on_device = torch.from_numpy(mask).to(device)
    packing.pack(
        **packed, padded_shape=mask.shape, padded_ids=torch.from_numpy(ids).to(device), attention_mask=on_device,
        keep=keep, vocab_size=config.vocab_size, max_positions=config.max_position_embeddings,
    )  # fmt: skip
    wanted: dict[str, Any] = {
        "input_ids": batch.input_ids, "position_ids": batch.position_ids, "key_lengths": batch.key_lengths,
        "index": np.arange(size) if layout.index is None else layout.index, "first_rows": layout.first_rows,
        "cu_seqlens": [*batch.cu_seqlens, total, total], "errors": [0],
    }  # fmt: skip
    found = {name: tensor.cpu().numpy()[: len(wanted[name])] for name, tensor in packed.items()}
    rows = torch.randn(size, 5, device=device)
    out = torch.full((*mask.shape, 5), torch.nan, device=device)
    packing.unpack(out, rows, packed["index"], attention_mask=on_device, num_tokens=packed["cu_seqlens"][-1:])
    different = sum(not np.array_equal(found[name], values) for name, values in wanted.items())
    return different + (not np.array_equal(out.cpu().numpy(), layout.unpack(rows.cpu().numpy()[:total])))


def _double(tensor: torch.Tensor) -> Any:
    return tensor.double().cpu().numpy()


def _activation(name: str, x: torch.Tensor) -> torch.Tensor:
    if name in ("gelu_new", "gelu_pytorch_tanh"):
        return functional.gelu(x, approximate="tanh")
    result: torch.Tensor = getattr(functional, name)(x)
    return result


def _norm(x: torch.Tensor, gamma: torch.Tensor, beta: torch.Tensor) -> torch.Tensor:
    return functional.layer_norm(x, x.shape[-1:], gamma.to(x.dtype), beta.to(x.dtype), LAYER_NORM_EPS)


def _attention(qkv: torch.Tensor, num_keys: int, head_dim: int) -> torch.Tensor:
    query, key, value = qkv.reshape(len(qkv), 3, -1, head_dim).permute(1, 2, 0, 3)[:, None]
    out = functional.scaled_dot_product_attention(query, key[:, :, :num_keys], value[:, :, :num_keys])
    return out[0].transpose(0, 1).reshape(len(qkv), -1)

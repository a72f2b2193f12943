"""The record of a GPU op, which ends its kernel file. Checks, ahead-of-time compiles, the tuner and benches loop over
`all_ops()`, so none of them knows an op by name.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy.typing as npt
import torch

import distilrt.kernels
from distilrt.kernels import tiles
from distilrt.kernels.launch import PRECISIONS
from distilrt.model.config import DistilBertConfig

Arguments = dict[str, Any]  # of an op's `example`, without the arrays
Entries = dict[tiles.Key, dict[int, tiles.Tile]]  # of `tiles.MEASURED`


@dataclass(frozen=True, slots=True)
class OpOutput:
    """A tensor that an op writes, and what must be in its first rows; the rows behind stay as they were.

    `plain` is torch's result in the same dtype, whose error is the measure; without one, every number must be exact.
    `bound` is the allowed error where torch is no measure.
    """

    tensor: torch.Tensor
    exact: Callable[[], npt.NDArray[Any]]  # in float64, or whole numbers
    plain: Callable[[], torch.Tensor] | None = None
    bound: Callable[[], float] | None = None


@dataclass(frozen=True, slots=True)
class Example:
    """An op with its tensors: `launch` writes the outputs, of which the first is the main one.

    `nbytes` and `flops` are those of one of its `count` launches: inputs and outputs once each, and products with their
    sums as two operations.
    """

    label: str
    launch: Callable[[], None]
    outputs: dict[str, OpOutput]
    nbytes: int
    flops: float = 0.0
    count: int = 1


@dataclass(frozen=True, slots=True)
class Choice:
    """An entry of `tiles.MEASURED` that decides an example's tile, and what may stand there: the usual tile first."""

    key: tiles.Key
    size: int
    candidates: tuple[tiles.Tile, ...]


@dataclass(frozen=True, slots=True)
class Sizes:
    """Sizes of the checks."""

    width: int
    inner: int
    tokens: tuple[int, ...]
    lengths: tuple[int, ...]
    head_dims: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Op:
    """An op by the name of its launcher.

    Attributes:
        example: makes the tensors and the launch for arguments of the next three.
        in_model: arguments for a batch of so many tokens, by config, tokens and dtype as `tiles` calls it.
        odd: arguments that a check should cover, by `Sizes` and dtype.
        variants: what a model may launch beside `in_model`, each with entries of `tiles.MEASURED` that hold meanwhile.
        choice: which tile it may have, by arguments, dtype and chip; None: there is no choice.
        has_codes: whether "float8" and "int8" differ from bfloat16.
    """

    name: str
    example: Callable[..., Example]
    in_model: Callable[[DistilBertConfig, int, str], Iterable[Arguments]]
    odd: Callable[[Sizes, str], Iterable[Arguments]]
    variants: Callable[[DistilBertConfig, str, tiles.Chip], Iterable[tuple[Arguments, Entries]]] = lambda *_: ()
    choice: Callable[[Arguments, str, tiles.Chip], Choice | None] = lambda *_: None
    has_codes: bool = False


class Arrays:
    """Makes the tensors of examples, the same ones for the same seed.

    Args:
        device: where they lie; on torch's "meta" they have a shape but no data.
        dtype: of rows and matrices, as `tiles` calls it: "tf32x3" and "tf32" are float32; with "float8" or "int8"
            factors of products are codes and all other rows bfloat16.
        seed: of the random numbers.
        weight_bytes: weights are copied until they take so much, and launches take turns with the copies.
        pdl: what launchers are told.
    """

    def __init__(
        self, device: torch.device, dtype: str, *, seed: int = 0, weight_bytes: int = 0, pdl: bool = False
    ) -> None:
        self.device, self.precision, self.pdl = device, dtype if dtype in PRECISIONS else "ieee", pdl
        self.codes = tiles.CODES.get(dtype)  # what torch calls the dtype of codes; None: there are none
        self.dtype: torch.dtype = getattr(
            torch, "float32" if dtype in PRECISIONS else "bfloat16" if self.codes else dtype
        )
        self._weight_bytes = weight_bytes
        self._generator = None if device.type == "meta" else torch.Generator(device).manual_seed(seed)

    def random(self, *shape: int, dtype: torch.dtype | None = None, scale: float = 1.0) -> torch.Tensor:
        """Normal numbers."""
        values = torch.randn(shape, generator=self._generator, device=self.device)
        return values.mul_(scale).to(dtype or self.dtype)

    def vector(self, size: int) -> torch.Tensor:
        """Normal numbers in float32, as biases and gains are."""
        return self.random(size, dtype=torch.float32)

    def weights(self, n: int, k: int) -> torch.Tensor:
        """Copies of a weight, `[copies, n, k]`."""
        copies = max(1, self._weight_bytes // (n * k * self.dtype.itemsize))
        return self.random(copies, n, k, scale=k**-0.5)

    def ints(self, *values: int) -> torch.Tensor:
        """These numbers in int32."""
        return torch.tensor(values, dtype=torch.int32, device=self.device)

    def below(self, limit: int, *shape: int) -> torch.Tensor:
        """Whole numbers below a limit in int32."""
        return torch.randint(limit, shape, generator=self._generator, dtype=torch.int32, device=self.device)

    def empty(self, *shape: int, dtype: torch.dtype | None = None) -> torch.Tensor:
        """NaN, so that what is not written is seen; of integers -77."""
        kind = dtype or self.dtype
        return torch.full(shape, torch.nan if kind.is_floating_point else -77, dtype=kind, device=self.device)


def given(**arguments: Any) -> Arguments:
    """Arguments of an example."""
    return arguments


def double(tensor: torch.Tensor) -> npt.NDArray[Any]:
    """The exact values as NumPy float64."""
    array: npt.NDArray[Any] = tensor.double().cpu().numpy()
    return array


def nbytes(*tensors: Any) -> int:
    """Bytes of all of them together."""
    return sum(int(tensor.nbytes) for tensor in tensors)


def all_ops(dtype: str = "") -> Iterator[Op]:
    """The records `OPS` of every module of this folder; of a dtype of 8 bits, those that differ from bfloat16's."""
    for module in pkgutil.iter_modules(distilrt.kernels.__path__, "distilrt.kernels."):
        ops = getattr(importlib.import_module(module.name), "OPS", ())
        yield from (op for op in ops if op.has_codes or dtype not in tiles.CODES)

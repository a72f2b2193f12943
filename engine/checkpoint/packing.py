"""How a model is packed: the tensors that a backend computes with, by name, as it holds them.

Linear layers have the native encoder's names and all other tensors their canonical ones. The CPU reads a linear layer
in panels, which are the same for every instruction set; a GPU reads matrices `[n, k]` in its own dtype. The table of
positions has those of each token type, with that type's embedding added, one type behind another: so a token's type
costs nothing. Weights of 8 bits have scales. On the CPU, linear layers of an int8 model that are kept in higher
precision are among the other tensors, in bfloat16, and packed when the model is opened: for bfloat16 where the
instruction set has it, else for float32.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from distilrt.checkpoint.tensor_files import FloatArray, Spec, TensorFile
from distilrt.errors import BackendError, CheckpointError
from distilrt.model.architecture import POSITIONS, PROJECTOR, TOKEN_TYPES, expected_shapes, linears
from distilrt.model.config import DistilBertConfig

if TYPE_CHECKING:  # it loads the tokenizer, which a packed folder answers without
    from distilrt.checkpoint.calibration import Calibration

# The dtypes in which a model can be packed for each backend.
DTYPES = {"cpu": ("float32", "bfloat16", "int8"), "cuda": ("float32", "float16", "bfloat16", "float8", "int8")}
CODES = ("float8", "int8")  # of 8 bits
# How many numbers of a row lie side by side in the panels: 4 bytes of them.
_LANES = {"float32": 1, "bfloat16": 2, "int8": 4}
_PANEL_WIDTH = 64  # kPanel of csrc/vec.h


@dataclass(frozen=True, slots=True)
class PackedLinear:
    """A linear layer as it is packed."""

    dtype: str
    sources: tuple[str, ...]  # the canonical layers that it is made of, one under another
    k: int
    parts: dict[str, Spec]  # its tensors by their last names


@dataclass(frozen=True, slots=True)
class Packing:
    """How a model is packed, which settles all tensors."""

    architecture: str
    dtype: str  # what the encoder's linear layers are packed for
    backend: str = "cpu"
    kept: tuple[str, ...] = ()  # those that are not, in higher precision
    calibration: str | None = None  # what texts 8 bits were calibrated with, in words; None: none
    tied: bool = False  # the vocabulary's projection has no matrix of its own, but the word embeddings; not on the CPU

    @classmethod
    def chosen(
        cls, architecture: str, dtype: str, backend: str, calibration: Calibration | None, *, tied: bool = False
    ) -> Packing:
        """How float weights are packed: those of 8 bits as a calibration says, if there is one."""
        if calibration is None or dtype not in CODES:
            return cls(architecture, dtype, backend, tied=tied)
        return cls(architecture, dtype, backend, calibration.kept, calibration.source, tied)

    def describe(self) -> dict[str, Any]:
        """Of 8 bits how they were calibrated, and which layers are kept in higher precision."""
        return {"calibration": self.calibration, "kept": list(self.kept)} if self.dtype in CODES else {}

    @property
    def float_dtype(self) -> str:
        """The dtype of matrices that are not in 8 bits."""
        return "bfloat16" if self.dtype in CODES else self.dtype

    def linears(self, config: DistilBertConfig) -> dict[str, PackedLinear]:
        """The linear layers that are packed; on the CPU all but the kept ones."""
        shapes = expected_shapes(config, self.architecture)
        found = {}
        for name, (dtype, sources) in linears(config.num_layers, shapes, self.dtype).items():
            if self.backend == "cpu" and name in self.kept:
                continue
            if self.backend == "cuda" and (name in self.kept or dtype != self.dtype):  # a head's
                dtype = self.float_dtype
            n, k = sum(shapes[f"{source}.weight"][0] for source in sources), shapes[f"{sources[0]}.weight"][1]
            parts = self._matrix(dtype, n, k)
            if self.tied and f"{name}.weight" == PROJECTOR:
                parts = {}
            found[name] = PackedLinear(dtype, sources, k, {**parts, "bias": ("float32", (n,))})
        return found

    def _matrix(self, dtype: str, n: int, k: int) -> dict[str, Spec]:
        inputs: dict[str, Spec] = {} if self.calibration is None else {"input_scales": ("float32", (k,))}
        scales: dict[str, Spec] = {"column_scales": ("float32", (n,)), **inputs} if dtype in CODES else {}
        if self.backend == "cuda":
            return {"codes" if scales else "weight": (dtype, (n, k)), **scales}
        offsets: dict[str, Spec] = {"offsets": ("int32", (n,))} if scales else {}
        size = -(-n // _PANEL_WIDTH) * _PANEL_WIDTH * -(-k // _LANES[dtype]) * 4
        return {"panels": ("uint8", (size,)), **scales, **offsets}

    def specs(self, config: DistilBertConfig) -> dict[str, Spec]:
        """Dtype and shape of every tensor."""
        shapes = _shapes(config, self.architecture)
        specs: dict[str, Spec] = {}
        for name, linear in self.linears(config).items():
            specs |= {f"{name}.{part}": spec for part, spec in linear.parts.items()}
            for source in linear.sources:
                del shapes[f"{source}.weight"], shapes[f"{source}.bias"]
        return specs | {
            name: (self.float_dtype if len(shape) > 1 else "float32", shape) for name, shape in shapes.items()
        }


def tensor(weights: Mapping[str, FloatArray], name: str) -> FloatArray:
    """A tensor that is not of a packed linear layer, in float32, as it is packed."""
    if name != POSITIONS or TOKEN_TYPES not in weights:
        return weights[name]
    types, positions = weights[TOKEN_TYPES], weights[POSITIONS]
    return (types[:, None] + positions).reshape(-1, positions.shape[1])


def _shapes(config: DistilBertConfig, architecture: str) -> dict[str, tuple[int, ...]]:
    """`expected_shapes`, with token types and positions in one table."""
    shapes = expected_shapes(config, architecture)
    shapes.pop(TOKEN_TYPES, None)
    return shapes | {POSITIONS: (config.num_position_rows, config.hidden_size)}


class PackedWeights(Mapping[str, FloatArray]):
    """A packed model's tensors; by canonical name as float32 those that are not of packed linear layers.

    Attributes:
        source: the file, or "memory".
        config: the model's shape.
        file: the tensors as they are stored.
        packing, dtype: how it is packed, and in what.
        linears: its linear layers that are packed.
    """

    def __init__(self, source: str, file: TensorFile, config: DistilBertConfig, packing: Packing) -> None:
        self.source, self.config, self.packing, self.dtype = source, config, packing, packing.dtype
        self.linears = packing.linears(config)
        self.file = file
        self._shapes = _shapes(config, packing.architecture)

    def raw(self, name: str) -> tuple[str, npt.NDArray[Any]]:
        """Dtype and numbers of a tensor as it is stored, where possible without a copy."""
        return self.file.specs[name][0], self.file.raw(name)

    def parts(self, name: str) -> dict[str, tuple[str, npt.NDArray[Any]]]:
        """`raw` of the tensors of a packed linear layer by their last names."""
        return {part: self.raw(f"{name}.{part}") for part in self.linears[name].parts}

    def native_linear(self, name: str) -> dict[str, Any]:
        """Arguments of `_C.Encoder.add_packed_linear` for a packed linear layer: views of the memory map."""
        linear = self.linears[name]
        none = {"column_scales": np.zeros(0, np.float32), "offsets": np.zeros(0, np.int32)}
        parts = {part: array for part, (_, array) in self.parts(name).items()}
        return {"name": name, "dtype": linear.dtype, "k": linear.k, **none, **parts}

    def check_use(self, backend: str, dtype: str) -> str:
        """The dtype that `dtype` means on a backend for this packed model.

        Raises:
            CheckpointError: it is packed for another backend.
            BackendError: it is packed in another dtype.
        """
        if backend != self.packing.backend:
            advice = f"pack the checkpoint with --backend {backend}" if backend in DTYPES else "load the checkpoint"
            raise CheckpointError(f"{self._in_words()}, found backend {backend!r}; use 'auto', or {advice}")
        if dtype not in ("auto", self.dtype):
            raise BackendError(f"{self._in_words()}, found dtype {dtype!r}; use 'auto', or pack the checkpoint in that")
        return self.dtype

    def _in_words(self) -> str:
        return f"{self.source} is packed for backend={self.packing.backend!r} in {self.dtype}"

    def __getitem__(self, name: str) -> FloatArray:
        if name not in self._shapes:
            raise KeyError(name)
        if name not in self.file.specs:
            raise CheckpointError(
                f"{self._in_words()} and has {name} in no other form: attentions, state_dict and save_pretrained need "
                "the checkpoint that it was packed from"
            )
        return self.file.load(name)

    def __contains__(self, name: object) -> bool:
        return name in self._shapes

    def __iter__(self) -> Iterator[str]:
        return iter(self._shapes)

    def __len__(self) -> int:
        return len(self._shapes)

"""Types of the native module; see csrc/bindings.cpp. Unless a function says otherwise, every array must be
C-contiguous and of exactly this dtype."""

from collections.abc import Sequence
from typing import Any, TypedDict

import numpy as np
import numpy.typing as npt

_Floats = npt.NDArray[np.float32]
_Ints = npt.NDArray[np.int32]

class _LinearParts(TypedDict):
    k: int
    panels: npt.NDArray[np.uint8]
    column_scales: _Floats
    offsets: _Ints
    bias: _Floats
    dtype: str
    input_scales: _Floats | None

def available_isas() -> list[str]: ...
def missing_features() -> dict[str, list[str]]:
    """The other instruction sets of this build, best first, each with the CPU features that it needs and that are not
    here."""

def schedule(cu_seqlens: _Ints, num_threads: int, run_rows: int, panels: list[int]) -> tuple[list[int], int, list[int]]:
    """Rows of each run that one thread computes alone, the longest first; rows that all threads compute together; for
    each number of panels, the blocks of at most `run_rows` rows that a product of the latter is divided into."""

def dtypes(isa: str = "") -> list[str]: ...
def attention(
    query: npt.NDArray[Any],
    key: npt.NDArray[Any],
    value: npt.NDArray[Any],
    *,
    out: npt.NDArray[Any],
    scale: float,
    key_mask: npt.NDArray[np.bool_] | None = None,
    isa: str = "",
    num_threads: int = 1,
    cpus: Sequence[int] = (),
) -> None:
    """`softmax(scale * query keyᵀ) value` of every sequence and head, into `out`, on the process's threads.

    Args:
        query, out: `[batch_size, num_heads, queries, head_dim]`, float32, or bfloat16 as uint16 where the instruction
            set has it; all arrays alike. Any strides, but contiguous in the last dimension; `out` must not overlap
            others.
        key, value: `[batch_size, num_heads, keys, head_dim]`.
        scale: at least 0.
        key_mask: `[batch_size, keys]`, C-contiguous; which keys are attended to, at least one in each row. None: all.
        isa: instruction set; "": the best.
        num_threads: how many at most, 1 to 256; the result does not depend on it.
        cpus: where more than one of them run, of the CPUs that the caller may run on; none: on all of those.

    Raises:
        TypeError: something else than arrays.
        ValueError: a wrong shape, dtype, stride, scale, mask, thread count, CPU or instruction set.
    """

def table_states(sized: tuple[dict[Any, Any], ...], held: tuple[dict[Any, Any], ...]) -> bytes:
    """The length of each dict in `sized`, then which keys and values those in `held` have, in order.

    Objects are told apart by their addresses, hence somebody must keep those of the first time alive.
    """

def tensor_states(tensors: tuple[Any, ...], kind: type) -> bytes:
    """Of each tensor how often it was written to, its memory, dtype, shape and strides.

    Args:
        tensors: of torch.
        kind: torch.Tensor, which from torch 2.10 on offers what this needs.

    Raises:
        AttributeError: an older torch.
        BufferError, RuntimeError: a tensor for which torch does not tell all this.
        TypeError: something else than tensors.
    """

class Encoder:
    def __init__(
        self,
        *,
        hidden_size: int,
        num_heads: int,
        num_layers: int,
        intermediate_size: int,
        activation: str,
        eps: float,
        word_embeddings: _Floats | npt.NDArray[np.uint16],
        position_embeddings: _Floats | npt.NDArray[np.uint16],
        isa: str = "",
        dtype: str = "float32",
        num_threads: int = 1,
        cpus: Sequence[int] = (),
    ) -> None: ...
    def add_linear(
        self,
        name: str,
        weights: list[_Floats],
        biases: list[_Floats],
        dtype: str = "float32",
        input_scales: _Floats | None = None,
        column_scales: _Floats | None = None,
    ) -> None: ...
    def add_packed_linear(
        self,
        name: str,
        k: int,
        panels: npt.NDArray[np.uint8],
        column_scales: _Floats,
        offsets: _Ints,
        bias: _Floats,
        dtype: str = "float32",
        input_scales: _Floats | None = None,
    ) -> None: ...
    def linear_parts(self, name: str) -> _LinearParts: ...
    def add_layer_norm(self, name: str, gamma: _Floats, beta: _Floats) -> None: ...
    def finish(self) -> None: ...
    def forward(
        self,
        input_ids: _Ints | None,
        inputs_embeds: _Floats | None,
        position_ids: _Ints,
        cu_seqlens: _Ints,
        key_lengths: _Ints,
        all_layers: bool = False,
        wanted: _Ints | None = None,
    ) -> _Floats: ...
    def linear(self, name: str, rows: _Floats, activation: str = "") -> _Floats: ...
    def layer_norm(self, name: str, rows: _Floats) -> _Floats: ...
    def set_threads(self, num_threads: int, cpus: Sequence[int] = ()) -> None:
        """What forwards that begin from now on run on; see `attention`."""

    def poison_workspace(self) -> None: ...
    @property
    def isa(self) -> str: ...
    @property
    def dtype(self) -> str: ...
    @property
    def num_threads(self) -> int: ...
    @property
    def weight_bits(self) -> float: ...
    @property
    def packed_bytes(self) -> int: ...
    @property
    def workspace_bytes(self) -> int: ...

def pack_lists(sequences: Any, vocab_size: int) -> tuple[_Ints, _Ints, _Ints, _Ints, int] | None:
    """Token ids, position ids, cu_seqlens, key_lengths and the longest length of lists laid end to end; None where
    `sequences` is no list or tuple of lists of at least one int of the vocabulary each, or has over 2^31 - 1 ints."""

class BucketIntegers:
    """The pinned memory of one GPU bucket: `distilrt.backends.cuda.encoder.INTEGERS`, in this order."""

    def __init__(self, *fields: _Ints, block_rows: int) -> None: ...
    def fill(
        self,
        cu_seqlens: _Ints,
        key_lengths: _Ints,
        position_ids: _Ints,
        input_ids: _Ints | None,
        wanted: npt.NDArray[np.integer[Any]] | None,
        first: int,
        end: int,
        low: int,
        high: int,
        few: bool,
    ) -> None:
        """Write the integers of sequences `first` to `end - 1` of a packed batch.

        Of the batch's `wanted` rows, those from `low` to `high - 1` go into `wanted` with their number if `few`, else
        into `index`.
        """

class Kernels:
    def __init__(self, isa: str, dtype: str = "float32") -> None: ...
    def linear(
        self,
        x: _Floats,
        weight: _Floats,
        bias: _Floats,
        activation: str = "",
        *,
        residual: _Floats | None = None,
        narrow: bool = False,
        input_scales: _Floats | None = None,
        out: _Floats,
    ) -> None: ...
    def attention(self, q: _Floats, k: _Floats, v: _Floats, *, out: _Floats) -> None: ...
    def layer_norm(self, x: _Floats, gamma: _Floats, beta: _Floats, eps: float, *, out: _Floats) -> None: ...

"""What a backend is, and how one is chosen.

A backend owns the weights in its own layout and computes on packed rows; it knows nothing of padding, heads or text.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol

import numpy.typing as npt

from distilrt import env
from distilrt.batch import Batch, IndexArray
from distilrt.config import DistilBertConfig
from distilrt.errors import BackendError

if TYPE_CHECKING:
    from distilrt.calibration import Calibration

NAMES = ("reference", "cpu", "cuda")


class Backend(Protocol):
    """One loaded model on one device. Safe to call from many threads."""

    name: str
    dtype: str

    def forward(self, batch: Batch, all_layers: bool = False, wanted: IndexArray | None = None) -> npt.NDArray[Any]:
        """Run the encoder.

        Args:
            batch: packed rows.
            all_layers: return every layer's hidden states.
            wanted: `[n]` rising row numbers that a head reads; the others are not returned, and the last layer need
                not finish them. Not with `all_layers`.

        Returns:
            The last layer's hidden states `[total_tokens, hidden_size]`, or `[n, hidden_size]` of the wanted rows;
            with `all_layers`, the embedding output and every layer's, `[num_layers + 1, total_tokens, hidden_size]`.
        """
        ...

    def linear(self, name: str, rows: npt.NDArray[Any], activation: str | None = None) -> npt.NDArray[Any]:
        """`activation(rows @ weight.T + bias)` with a head's layer, e.g. `name="pre_classifier"`; rows `[n, in]`."""
        ...

    def layer_norm(self, name: str, rows: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Layer norm of rows `[n, hidden_size]` with a head's parameters, e.g. `name="vocab_layer_norm"`."""
        ...

    def describe(self) -> Mapping[str, Any]:
        """What is in use, for `info`: device or instruction set, threads, bytes of weights and workspace."""
        ...


def chosen(name: str) -> str:
    """The backend that `name` means: "auto" is `DISTILRT_BACKEND` if set and else the CPU.

    Raises:
        ValueError: an unknown name.
    """
    if name == "auto":
        name = env.backend() or "cpu"
    if name not in NAMES:
        raise ValueError(f"backend must be one of auto, {', '.join(NAMES)}, found {name!r}")
    return name


def create(
    name: str,
    config: DistilBertConfig,
    weights: Mapping[str, npt.NDArray[Any]],
    *,
    dtype: str = "auto",
    num_threads: int | None = None,
    calibration: Calibration | None = None,
) -> Backend:
    """Load `weights` (canonical names, see `distilrt.checkpoint`) into the backend called `name`.

    Args:
        name: "reference", "cpu", "cuda" or "auto", see `chosen`.
        dtype: "auto" or a dtype that the backend has.
        num_threads: CPU threads; None: `DISTILRT_NUM_THREADS`, else what affinity and cgroup allow.
        calibration: how the CPU quantizes for int8; None: without example texts.

    Raises:
        ValueError: an unknown name, dtype or thread count.
        BackendError: the backend or dtype is not available on this machine.
    """
    name = chosen(name)
    if name == "reference":
        from distilrt.backends.reference import ReferenceBackend

        return ReferenceBackend(config, weights, dtype=dtype)
    if name == "cpu":
        from distilrt.backends.cpu import CpuBackend

        return CpuBackend(config, weights, dtype=dtype, num_threads=num_threads, calibration=calibration)
    raise BackendError("backend 'cuda' is not built yet; use backend='cpu'")

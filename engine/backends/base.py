"""What a backend is, and how one is chosen.

A backend owns the weights of an encoder and its head in its own layout and computes on packed rows; it knows nothing
of padding or text.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NoReturn, Protocol

import numpy.typing as npt

from distilrt import env
from distilrt.backends.cuda.devices import cuda_device, why_not_cuda
from distilrt.batch import Batch, IndexArray, PaddedInputs
from distilrt.checkpoint.packing import PackedWeights
from distilrt.errors import InvalidParameter
from distilrt.model.config import DistilBertConfig
from distilrt.model.heads import ENCODER, Head

if TYPE_CHECKING:
    from distilrt.checkpoint.calibration import Calibration

NAMES = ("reference", "cpu", "cuda")


class Backend(Protocol):
    """One loaded model on one device. Safe to call from many threads.

    `rows` are of the backend's own kind: NumPy arrays where it computes on the host, tensors where it does not. All of
    `forward`, `linear` and `layer_norm` speak that kind, so that a head runs where its rows are; `to_numpy` ends it.
    """

    name: str
    dtype: str
    device: str  # "cpu" or torch's name of the device
    config: DistilBertConfig
    head: Head

    def forward(self, batch: Batch, all_layers: bool = False, wanted: IndexArray | None = None) -> Any:
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

    def answer(self, batch: Batch, wanted: IndexArray | None = None) -> npt.NDArray[Any]:
        """Encoder and head: `to_numpy` of the head's output for the rows that `forward` returns."""
        ...

    def packs(self, inputs: PaddedInputs) -> bool:
        """Whether `run_padded` takes a padded batch: it lies where the backend computes, and is not on the host."""
        ...

    def run_padded(
        self,
        inputs: PaddedInputs,
        *,
        with_head: bool = True,
        first_only: bool = False,
        all_layers: bool = False,
    ) -> tuple[Any, tuple[Any, ...]]:
        """Encoder and head over a padded batch that `packs`, whose values never come to the host.

        Args:
            inputs: as `distilrt.batch.pack_padded` takes them.
            with_head: False: the hidden states.
            first_only: only position 0 of each sequence is wanted; so it is for a head that reads only those.
            all_layers: return hidden states too.

        Returns:
            The head's output `[batch_size, seq_len, width]`, or `[batch_size, width]` of the first rows; and the
            padded hidden states of embeddings and layers, none unless `all_layers`.
        """
        ...

    def linear(self, name: str, rows: Any, activation: str | None = None) -> Any:
        """`activation(rows @ weight.T + bias)` with a head's layer, e.g. `name="pre_classifier"`; rows `[n, in]`."""
        ...

    def layer_norm(self, name: str, rows: Any) -> Any:
        """Layer norm of rows `[n, hidden_size]` with a head's parameters, e.g. `name="vocab_layer_norm"`."""
        ...

    def to_numpy(self, rows: Any) -> npt.NDArray[Any]:
        """Rows of the backend's own kind as an array, float32 (float64 where the backend computes in that)."""
        ...

    def describe(self) -> Mapping[str, Any]:
        """What is in use, for `info`: device or instruction set, threads, bytes of weights and workspace."""
        ...


class HostBackend:
    """What backends on NumPy rows have in common."""

    device = "cpu"
    config: DistilBertConfig
    head: Head
    forward: Callable[..., npt.NDArray[Any]]
    linear: Callable[..., npt.NDArray[Any]]
    layer_norm: Callable[..., npt.NDArray[Any]]

    def answer(self, batch: Batch, wanted: IndexArray | None = None) -> npt.NDArray[Any]:
        """The head's output for what `forward` returns."""
        output: npt.NDArray[Any] = self.head.compute(self, self.forward(batch, wanted=wanted))
        return output

    def packs(self, inputs: PaddedInputs) -> bool:
        """Never: packing is done by `distilrt.batch`."""
        return False

    def run_padded(self, inputs: PaddedInputs, **options: Any) -> NoReturn:
        """Refused, see `packs`."""
        raise TypeError("this backend computes batches that are packed on the host; give a Batch to forward or answer")

    def to_numpy(self, rows: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """The rows themselves."""
        return rows


def chosen(name: str, weights: Mapping[str, npt.NDArray[Any]]) -> str:
    """The backend that `name` means: "auto" is `DISTILRT_BACKEND` if set, else "cuda" where there is a device that it
    runs on, else "cpu"; of a packed folder the one that it was packed for.

    Raises:
        InvalidParameter: an unknown name.
    """
    if name == "auto":
        packed = weights.packing.backend if isinstance(weights, PackedWeights) else None
        name = env.backend() or packed or ("cpu" if why_not_cuda() else "cuda")
    if name not in NAMES:
        raise InvalidParameter(f"backend must be one of auto, {', '.join(NAMES)}, found {name!r}")
    return name


def create(
    name: str,
    config: DistilBertConfig,
    weights: Mapping[str, npt.NDArray[Any]],
    *,
    dtype: str = "auto",
    num_threads: int | None = None,
    calibration: Calibration | None = None,
    head: Head = ENCODER,
) -> Backend:
    """Load `weights` (canonical names, see `distilrt.checkpoint.names`) into the backend called `name`.

    Args:
        name, dtype: "auto", see `chosen`, or one of the backends and a dtype that it has.
        num_threads: CPU threads; None: `DISTILRT_NUM_THREADS`, else what affinity and cgroup allow.
        calibration: how int8 and float8 quantize; None: without example texts.
        head: the model's, whose tensors are among the weights; a GPU runs it with the encoder as one.

    Raises:
        InvalidParameter: an unknown name or thread count.
        BackendError: the backend or dtype is not available on this machine, or weights are packed in another dtype.
        CheckpointError: they are packed for another backend.
    """
    name = chosen(name, weights)
    if isinstance(weights, PackedWeights):
        dtype = weights.check_use(name, dtype)
    if name == "reference":
        from distilrt.backends.reference import ReferenceBackend

        return ReferenceBackend(config, weights, dtype=dtype, head=head)
    if name == "cpu":
        from distilrt.backends.cpu import CpuBackend

        return CpuBackend(config, weights, dtype=dtype, num_threads=num_threads, calibration=calibration, head=head)
    otherwise = "pack the checkpoint with --backend cpu" if isinstance(weights, PackedWeights) else "use backend='cpu'"
    device = cuda_device(otherwise)  # says what is missing before the import of what needs it
    from distilrt.backends.cuda.backend import CudaBackend

    return CudaBackend(config, weights, device, dtype=dtype, calibration=calibration, head=head)

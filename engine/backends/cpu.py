"""The CPU backend: weights packed once into the native encoder, one native call a batch.

Which linear layers make one packed GEMM, `distilrt.model.architecture` knows; arithmetic, threads and workspace are in
csrc/.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from distilrt import _C, env
from distilrt.backends.base import HostBackend
from distilrt.batch import Batch, IndexArray
from distilrt.checkpoint.packing import PackedWeights, Packing, tensor
from distilrt.checkpoint.tensor_files import as_float32, as_stored, to_bfloat16
from distilrt.checkpoint.weights import Weights
from distilrt.errors import BackendError, InvalidParameter
from distilrt.model.architecture import POSITIONS, WORDS, linears
from distilrt.model.config import LAYER_NORM_EPS, DistilBertConfig
from distilrt.model.heads import ENCODER, Head, Norm
from distilrt.placement import Placement

if TYPE_CHECKING:  # it loads the tokenizer, which a packed folder answers without
    from distilrt.checkpoint.calibration import Calibration

FloatArray = npt.NDArray[np.float32]


class CpuBackend(HostBackend):
    """DistilBERT on the native encoder. Safe to call from many threads; forwards follow one another."""

    name = "cpu"

    def __init__(
        self,
        config: DistilBertConfig,
        weights: Mapping[str, npt.NDArray[Any]],
        *,
        dtype: str = "auto",
        num_threads: int | None = None,
        calibration: Calibration | None = None,
        head: Head = ENCODER,
    ) -> None:
        """Pack `weights` (canonical names), or borrow those of a packed folder.

        int8 rounds weights as `calibration` says, and keeps in bfloat16 what that keeps (in float32 where the
        instruction set has no bfloat16, from the same weights); without one, every weight by itself to the nearest.

        Raises:
            InvalidParameter: `num_threads` is not an integer of at least 1.
            BackendError: a dtype or a forced instruction set that is not available here.
        """
        self.config, self.head = config, head
        if num_threads is not None and (type(num_threads) is not int or num_threads < 1):
            raise InvalidParameter(f"num_threads must be an integer of at least 1, found {num_threads!r}")
        self._placement = Placement(num_threads)
        self._threads = self._placement()
        isa = env.force_isa() or ""
        self.dtype = dtype = _dtype(dtype, isa)
        if isinstance(weights, PackedWeights):
            self.packing = weights.packing
        else:
            self.packing = Packing.chosen(head.architecture, dtype, self.name, calibration)
        # Borrowed by the encoder: a memory-mapped file's pages load as tokens need them.
        self._encoder = _C.Encoder(
            hidden_size=config.hidden_size,
            num_heads=config.num_heads,
            num_layers=config.num_layers,
            intermediate_size=config.intermediate_size,
            activation=config.activation,
            eps=LAYER_NORM_EPS,
            word_embeddings=self._table(weights, WORDS),
            position_embeddings=self._table(weights, POSITIONS),
            isa=isa,
            dtype=self.dtype,
            num_threads=self._threads.num_threads,
            cpus=self._threads.cpus,
        )
        self._pack(config, weights, calibration if dtype == "int8" else None)

    def _table(self, weights: Mapping[str, npt.NDArray[Any]], name: str) -> npt.NDArray[Any]:
        """An embedding table as a packed folder has it: rounded to bfloat16 in the narrower dtypes."""
        if isinstance(weights, PackedWeights):
            return weights.raw(name)[1]
        return np.ascontiguousarray(as_stored(tensor(weights, name), self.packing.float_dtype))

    def _pack(
        self, config: DistilBertConfig, weights: Mapping[str, npt.NDArray[Any]], calibration: Calibration | None
    ) -> None:
        higher = "bfloat16" if "bfloat16" in _C.dtypes(self._encoder.isa) else "float32"
        for name, (dtype, sources) in linears(config.num_layers, weights, self.dtype).items():
            kept = name in self.packing.kept
            if isinstance(weights, PackedWeights) and not kept:
                self._encoder.add_packed_linear(**weights.native_linear(name))
                continue
            biases = [_plain(weights[f"{source}.bias"]) for source in sources]
            if calibration is not None and name in calibration.linears:
                given, bias = calibration.linears[name], np.concatenate(biases)
                self._encoder.add_linear(name, [given.weight()], [bias], dtype, given.input_scales, given.column_scales)
            else:
                rows = [_plain(weights[f"{source}.weight"]) for source in sources]
                if kept:
                    rows = [as_float32(to_bfloat16(each), "bfloat16") for each in rows]
                self._encoder.add_linear(name, rows, biases, higher if kept else dtype)
            if isinstance(weights, Weights):
                weights.release()  # pages of a file that were read stay, and count as this process's memory
        if isinstance(weights, PackedWeights) and self._encoder.weight_bits < 8:  # The encoder copied all.
            weights.file.release()

        def layer_norm(name: str, source: str) -> None:
            self._encoder.add_layer_norm(name, _plain(weights[f"{source}.weight"]), _plain(weights[f"{source}.bias"]))

        layer_norm("embeddings", "embeddings.LayerNorm")
        for i in range(config.num_layers):
            source = f"transformer.layer.{i}"
            layer_norm(f"layer.{i}.attn_layer_norm", f"{source}.sa_layer_norm")
            layer_norm(f"layer.{i}.ffn_layer_norm", f"{source}.output_layer_norm")
        self._encoder.finish()
        for layer in self.head.layers:
            if isinstance(layer, Norm):
                layer_norm(layer.name, layer.name)

    def forward(self, batch: Batch, all_layers: bool = False, wanted: IndexArray | None = None) -> FloatArray:
        """The last hidden states `[total_tokens, hidden_size]`, all layers' with one axis more, or the wanted rows."""
        if (threads := self._placement()) != self._threads:
            self._encoder.set_threads(threads.num_threads, threads.cpus)
            self._threads = threads
        return self._encoder.forward(
            batch.input_ids,
            batch.inputs_embeds,
            batch.position_ids,
            batch.cu_seqlens,
            batch.key_lengths,
            all_layers,
            None if wanted is None else np.ascontiguousarray(wanted, np.int32),
        )

    def linear(self, name: str, rows: npt.NDArray[Any], activation: str | None = None) -> FloatArray:
        """`activation(rows @ weight.T + bias)` with a head's layer."""
        if activation == "tanh":  # a pooler's, of one row a sequence
            return np.tanh(self._encoder.linear(name, _plain(rows), ""))
        return self._encoder.linear(name, _plain(rows), activation or "")

    def layer_norm(self, name: str, rows: npt.NDArray[Any]) -> FloatArray:
        """Layer norm of rows with a head's parameters."""
        return self._encoder.layer_norm(name, _plain(rows))

    def linear_parts(self, name: str) -> Mapping[str, Any]:
        """Views of a packed linear layer by the native encoder's name: its parts, and more."""
        return self._encoder.linear_parts(name)

    def describe(self) -> dict[str, Any]:
        """Instruction set, threads, bytes of packed weights and workspace; of int8, how it was calibrated, which linear
        layers are kept in higher precision, and how many bits the instruction set leaves the others' weights."""
        bits = {"weight_bits": round(self._encoder.weight_bits, 2)} if self.dtype == "int8" else {}
        return {
            "backend": self.name,
            "dtype": self.dtype,
            **self.packing.describe(),
            **bits,
            "isa": self._encoder.isa,
            "num_threads": self._encoder.num_threads,
            "packed_bytes": self._encoder.packed_bytes,
            "workspace_bytes": self._encoder.workspace_bytes,
        }


def dtypes_of(isa: str) -> list[str]:
    """The dtypes of an instruction set ("": the best); BackendError if DISTILRT_FORCE_ISA names one that is missing."""
    try:
        return _C.dtypes(isa)
    except ValueError as error:
        raise BackendError(f"DISTILRT_FORCE_ISA: {error}") from None


def _dtype(wanted: str, isa: str) -> str:
    """The dtype that `wanted` means with an instruction set ("": the best)."""
    dtypes = dtypes_of(isa)
    dtype = "float32" if wanted == "auto" else wanted
    if dtype not in dtypes:
        used = isa or _C.available_isas()[0]
        raise BackendError(
            f"backend 'cpu' has dtype {', '.join(dtypes)} (auto: float32) with instruction set {used}, found {dtype!r}"
        )
    return dtype


def _plain(array: npt.NDArray[Any]) -> FloatArray:
    return np.ascontiguousarray(array, np.float32)

"""The CPU backend: weights packed once into the native encoder, one native call a batch.

Which linear layers make one packed GEMM, `distilrt.packed` knows; arithmetic, threads and workspace are in csrc/.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from distilrt import _C, env
from distilrt.backends import HostBackend
from distilrt.batch import Batch, IndexArray
from distilrt.config import LAYER_NORM_EPS, DistilBertConfig
from distilrt.cpu_count import usable_cores
from distilrt.errors import BackendError
from distilrt.packed import PackedWeights, linears

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
    ) -> None:
        """Pack `weights` (canonical names), or borrow those of a packed folder.

        Raises:
            ValueError: `num_threads` is not an integer of at least 1.
            BackendError: a dtype or a forced instruction set that is not available here.
        """
        if num_threads is None:
            num_threads = env.num_threads() or usable_cores()
        if isinstance(num_threads, bool) or not isinstance(num_threads, int) or num_threads < 1:
            raise ValueError(f"num_threads must be an integer of at least 1, found {num_threads!r}")
        isa = env.force_isa() or ""
        if isa and isa not in _C.available_isas():
            raise BackendError(
                f"DISTILRT_FORCE_ISA={isa} is not available; this machine and build have "
                f"{', '.join(_C.available_isas())}"
            )
        own = weights.dtype if isinstance(weights, PackedWeights) else None
        self.dtype = own or "float32" if dtype == "auto" else dtype
        if own not in (None, self.dtype):
            raise BackendError(f"the folder is packed in {own}, found dtype {dtype!r}; use 'auto', or pack it in that")
        if self.dtype not in _C.dtypes(isa):
            raise BackendError(
                f"backend 'cpu' has dtype {', '.join(_C.dtypes(isa))} (auto: float32) with instruction set "
                f"{isa or _C.available_isas()[0]}, found {self.dtype!r}"
            )
        # Borrowed by the encoder: a memory-mapped file's pages load as tokens need them.
        words, positions = (_plain(weights[f"embeddings.{kind}_embeddings.weight"]) for kind in ("word", "position"))
        self._encoder = _C.Encoder(
            hidden_size=config.hidden_size,
            num_heads=config.num_heads,
            num_layers=config.num_layers,
            intermediate_size=config.intermediate_size,
            activation=config.activation,
            eps=LAYER_NORM_EPS,
            word_embeddings=words,
            position_embeddings=positions,
            isa=isa,
            dtype=self.dtype,
            num_threads=num_threads,
        )
        self._pack(config, weights)

    def _pack(self, config: DistilBertConfig, weights: Mapping[str, npt.NDArray[Any]]) -> None:
        for name, (dtype, sources) in linears(config.num_layers, weights, self.dtype).items():
            if isinstance(weights, PackedWeights):
                self._encoder.add_packed_linear(**weights.linear(name))
                continue
            rows = [_plain(weights[f"{source}.weight"]) for source in sources]
            biases = [_plain(weights[f"{source}.bias"]) for source in sources]
            self._encoder.add_linear(name, rows, biases, dtype)

        def layer_norm(name: str, source: str) -> None:
            self._encoder.add_layer_norm(name, _plain(weights[f"{source}.weight"]), _plain(weights[f"{source}.bias"]))

        layer_norm("embeddings", "embeddings.LayerNorm")
        for i in range(config.num_layers):
            source = f"transformer.layer.{i}"
            layer_norm(f"layer.{i}.attn_layer_norm", f"{source}.sa_layer_norm")
            layer_norm(f"layer.{i}.ffn_layer_norm", f"{source}.output_layer_norm")
        self._encoder.finish()
        if "vocab_layer_norm.weight" in weights:
            layer_norm("vocab_layer_norm", "vocab_layer_norm")

    def forward(self, batch: Batch, all_layers: bool = False, wanted: IndexArray | None = None) -> FloatArray:
        """The last hidden states `[total_tokens, hidden_size]`, all layers' with one axis more, or the wanted rows."""
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
        return self._encoder.linear(name, _plain(rows), activation or "")

    def layer_norm(self, name: str, rows: npt.NDArray[Any]) -> FloatArray:
        """Layer norm of rows with a head's parameters."""
        return self._encoder.layer_norm(name, _plain(rows))

    def linear_parts(self, name: str) -> Mapping[str, Any]:
        """Views of a packed linear layer by the native encoder's name, for `distilrt.packed`."""
        return self._encoder.linear_parts(name)

    def describe(self) -> dict[str, Any]:
        """Instruction set, threads, bytes of packed weights and workspace."""
        return {
            "backend": self.name,
            "dtype": self.dtype,
            "isa": self._encoder.isa,
            "num_threads": self._encoder.num_threads,
            "packed_bytes": self._encoder.packed_bytes,
            "workspace_bytes": self._encoder.workspace_bytes,
        }


def _plain(array: npt.NDArray[Any]) -> FloatArray:
    return np.ascontiguousarray(array, np.float32)

"""What a GPU holds of a model, made of float weights on the host: so a model can be packed for one where there is none.

Matrices and tables are rounded to the dtype, Q, K and V are joined to one matrix, and weights of 8 bits are the codes
that calibration found, or the nearest ones.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from distilrt.checkpoint.codings import CODINGS
from distilrt.checkpoint.packing import PackedWeights, Packing, tensor
from distilrt.checkpoint.tensor_files import FloatArray, TensorFile, as_stored
from distilrt.model.architecture import PROJECTOR, WORDS, expected_shapes, with_pooler
from distilrt.model.config import DistilBertConfig

if TYPE_CHECKING:  # it loads the tokenizer
    from distilrt.checkpoint.calibration import Calibration


class GpuTensors(TensorFile):
    """The tensors of a packing for a GPU, each made anew at every access, so that a loop never holds two of them.

    Args:
        config: the model's shape.
        weights: canonical names to float32 arrays.
        packing: for backend "cuda".
        calibration: of 8 bits, whose kept layers are the packing's; None: weights go to the nearest.
    """

    def __init__(
        self,
        config: DistilBertConfig,
        weights: Mapping[str, npt.NDArray[Any]],
        packing: Packing,
        calibration: Calibration | None,
    ) -> None:
        self.specs = packing.specs(config)
        self._weights, self._calibration = weights, calibration
        self._linears = packing.linears(config)

    def raw(self, name: str) -> npt.NDArray[Any]:
        """The numbers in the tensor's dtype."""
        dtype, _ = self.specs[name]
        layer, _, part = name.rpartition(".")
        if layer not in self._linears:
            return as_stored(tensor(self._weights, name), dtype)
        if part in ("weight", "bias"):
            return as_stored(self._joined(layer, part), dtype)
        if self._calibration is not None:
            return as_stored(getattr(self._calibration.linears[layer], part), dtype)
        codes, scales = CODINGS["cuda", self._linears[layer].dtype].nearest_codes(self._joined(layer, "weight"))
        return as_stored(codes if part == "codes" else scales, dtype)

    def _joined(self, layer: str, part: str) -> FloatArray:
        arrays = [self._weights[f"{source}.{part}"] for source in self._linears[layer].sources]
        return arrays[0] if len(arrays) == 1 else np.concatenate(arrays)


def packed_for_gpu(
    config: DistilBertConfig,
    weights: Mapping[str, npt.NDArray[Any]],
    architecture: str,
    dtype: str,
    calibration: Calibration | None = None,
) -> PackedWeights:
    """A model packed for backend "cuda", of which nothing is computed until it is read.

    Args:
        config: the model's shape.
        weights: canonical names to float32 arrays.
        architecture: a key of `HEADS`.
        dtype: one of `DTYPES["cuda"]`.
        calibration: for dtypes of 8 bits; others leave it unused.
    """
    config = with_pooler(config, architecture, weights)
    # A checkpoint may hold both matrices, and then they need not be the same.
    tied = config.tie_word_embeddings and PROJECTOR in expected_shapes(config, architecture)
    tied = tied and np.array_equal(weights[PROJECTOR], weights[WORDS])
    packing = Packing.chosen(architecture, dtype, "cuda", calibration, tied=tied)
    return PackedWeights("memory", GpuTensors(config, weights, packing, calibration), config, packing)

"""`backend="reference"`: the NumPy model behind the Backend protocol, in float32 or float64.

Slow and exact: what the other backends are measured against. All arithmetic is in `distilrt.model.functional`; this
module only holds the weights.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from distilrt.backends.base import HostBackend
from distilrt.batch import Batch, IndexArray
from distilrt.errors import BackendError
from distilrt.model import functional
from distilrt.model.config import DistilBertConfig
from distilrt.model.heads import ENCODER, Head

DTYPES = ("float32", "float64")


class ReferenceBackend(HostBackend):
    """One model in NumPy. Stateless after construction, hence safe to call from many threads.

    Args:
        config: the model's shape.
        weights: canonical names to float32 arrays; float32 keeps them as they are, float64 makes copies.
        dtype: "auto" (float32), "float32" or "float64".
        head: the model's.

    Raises:
        BackendError: another dtype.
    """

    name = "reference"

    def __init__(
        self,
        config: DistilBertConfig,
        weights: Mapping[str, npt.NDArray[Any]],
        *,
        dtype: str = "auto",
        head: Head = ENCODER,
    ) -> None:
        self.dtype = "float32" if dtype == "auto" else dtype
        if self.dtype not in DTYPES:
            raise BackendError(f"backend 'reference' has dtype {' and '.join(DTYPES)} (auto: float32), found {dtype!r}")
        self.config, self.head = config, head
        self._weights = {name: np.asarray(array, self.dtype) for name, array in weights.items()}

    def forward(self, batch: Batch, all_layers: bool = False, wanted: IndexArray | None = None) -> npt.NDArray[Any]:
        """Last hidden states `[total_tokens, hidden_size]`, all layers' with one axis more, or the wanted rows."""
        states = functional.encoder_forward(self.config, self._weights, batch, self.dtype)
        if all_layers:
            return states
        last: npt.NDArray[Any] = states[-1]
        return last.copy() if wanted is None else last[wanted]  # a view would keep the other layers alive

    def linear(self, name: str, rows: npt.NDArray[Any], activation: str | None = None) -> npt.NDArray[Any]:
        """`activation(rows @ weight.T + bias)`, `[n, in]` to `[n, out]`, one matrix-vector product a row.

        Rows may belong to different sequences, and a product over all of them would round by their number.
        """
        weight, bias = self._weights[f"{name}.weight"], self._weights[f"{name}.bias"]
        out = functional.linear(rows[:, None, :], weight, bias)[:, 0]
        return out if activation is None else functional.activation(activation, out)

    def layer_norm(self, name: str, rows: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Layer norm of rows `[n, hidden_size]`."""
        return functional.layer_norm(rows, self._weights[f"{name}.weight"], self._weights[f"{name}.bias"])

    def describe(self) -> Mapping[str, Any]:
        """Name, dtype and bytes of weights."""
        size = sum(array.nbytes for array in self._weights.values())
        return {"backend": self.name, "dtype": self.dtype, "weight_bytes": size}

"""What `get_input_embeddings` returns: the table of a model's word embeddings."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from distilrt.errors import InvalidInput
from distilrt.model.array_kinds import as_numpy, as_tensor, is_tensor


@dataclass(frozen=True, slots=True)
class InputEmbeddings:
    """`embeddings(input_ids)` is what a model takes as `inputs_embeds`.

    Attributes:
        weight: `[num_embeddings, embedding_dim]`, read-only.
        padding_idx: the id that the config pads with; None: none.
    """

    weight: npt.NDArray[Any]
    padding_idx: int | None

    @property
    def num_embeddings(self) -> int:
        """How many words there are."""
        return int(self.weight.shape[0])

    @property
    def embedding_dim(self) -> int:
        """The width of the model."""
        return int(self.weight.shape[1])

    def __call__(self, input_ids: Any) -> Any:
        """Rows of ids of any shape, `[…, embedding_dim]`, of the ids' own kind.

        Raises:
            InvalidInput: an id that is no integer, or that the table does not have.
        """
        ids = np.asarray(as_numpy(input_ids))
        if ids.dtype.kind not in "iu" or (ids.size and (ids.min() < 0 or ids.max() >= self.num_embeddings)):
            raise InvalidInput(f"input_ids must be integers of 0 to {self.num_embeddings - 1}")
        rows = self.weight[ids]
        return as_tensor(rows, input_ids.device) if is_tensor(input_ids) else rows

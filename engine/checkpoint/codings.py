"""How a number is held in 8 bits: what backends round weights and rows to, for calibration to follow.

The CPU rounds a row in 255 steps from its smallest value to its largest. A GPU has one scale a row and codes on both
sides of 0, of int8 or of E4M3 (Micikevicius et al. 2022, arXiv:2209.05433), of which three digits are behind the first.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from distilrt.checkpoint.tensor_files import FloatArray


@dataclass(frozen=True, slots=True)
class Coding:
    """A dtype of 8 bits on a backend.

    Attributes:
        dtype: its name, as `from_pretrained` takes it.
        held: a NumPy dtype that holds every code.
        largest: a weight's code, either way.
        nearest: the code of each number, at most the largest.
        threshold: the error of a layer, relative to how its outputs vary, beyond which it stays in higher precision:
            twice what the coding costs where it fits.
        rows_have_range: rows are rounded in steps over their own range, and not to codes as weights are.
        loss: how far all layers together may turn a text's mean vector, as 1 - cosine, before those that turn it most
            stay in higher precision.
    """

    dtype: str
    held: npt.DTypeLike
    largest: float
    nearest: Callable[[FloatArray], FloatArray]
    threshold: float
    rows_have_range: bool = False
    loss: float = float("inf")

    def nearest_codes(self, rows: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Codes and scales `[m]` of rows `[m, k]` as kernels/quantize.py rounds them, each by itself.

        A row with NaN or infinity has NaN for its scale.
        """
        largest: FloatArray = np.maximum(np.abs(rows).max(axis=1), np.float32(1e-30))
        finite = np.isfinite(largest)
        codes = self.nearest(np.where(finite[:, None], rows, 0) * (np.float32(self.largest) / largest)[:, None])
        return codes, np.where(finite, largest / np.float32(self.largest), np.float32(np.nan))

    def rounded_rows(self, rows: FloatArray) -> FloatArray:
        """Rows `[m, k]` as the backend rounds them, each by itself."""
        if self.rows_have_range:
            return round_rows(rows)
        codes, scales = self.nearest_codes(rows)
        return codes * scales[:, None]


def nearest_int8(x: FloatArray) -> FloatArray:
    """Whole numbers of at most 127 either way."""
    whole: FloatArray = np.clip(np.rint(x), -127, 127)
    return whole


def nearest_e4m3(x: FloatArray) -> FloatArray:
    """Numbers of E4M3, to nearest even: 1 of 16 to 8 of 16 times a power of two, or below 2^-6 whole times 2^-9."""
    x = np.clip(x, -448, 448)
    step = np.maximum(np.frexp(x)[1], -5) - 4
    rounded: FloatArray = np.ldexp(np.rint(np.ldexp(x, -step)), step)
    return rounded


def round_rows(rows: FloatArray) -> FloatArray:
    """Rows `[m, k]` as csrc/ rounds them: each in 255 steps from its smallest value to its largest."""
    low = rows.min(axis=1, keepdims=True)
    step = (rows.max(axis=1, keepdims=True) - low) / np.float32(255)
    rounded: FloatArray = np.rint((rows - low) / np.where(step > 0, step, 1)) * step + low
    return rounded


# By backend and dtype. float8 may lose two thirds of 0.002 on the mean, so that most texts have a cosine above 0.998.
CODINGS = {
    ("cpu", "int8"): Coding("int8", np.int8, 127, nearest_int8, 0.02, rows_have_range=True),
    ("cuda", "int8"): Coding("int8", np.int8, 127, nearest_int8, 0.02),
    ("cuda", "float8"): Coding("float8", np.float16, 448, nearest_e4m3, 0.06, loss=0.00133),
}

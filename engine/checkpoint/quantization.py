"""int8 arithmetic of one linear layer in NumPy: column scales, rounding of weights and rows.

It knows numbers only: not which layers there are, nor where example rows come from (`distilrt.checkpoint.calibration`),
nor how the results are laid out (csrc/). What it chooses costs nothing at run time but one multiplication of each input
column.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float32]

STEPS = 127  # of a weight each way; the steps of a row are 255
# Of the Gram matrix's mean diagonal, added to it. Example rows are few: with less, rounding fits them and not others.
_DAMPING = 0.3
_BLOCK = 64  # columns rounded before what they leave is carried to all others, in one product


def column_scales(rows: FloatArray, weight: FloatArray) -> FloatArray:
    """What to multiply each input column by so that rows and weights lose equally little to rounding.

    SmoothQuant with an even split, `sqrt(max|w| / max|x|)` over each column, normalized to a geometric mean of 1 (Xiao
    et al. 2022, arXiv:2211.10438). A column of zeros on either side keeps 1.

    Args:
        rows: `[m, k]` example inputs.
        weight: `[n, k]`.

    Returns:
        `[k]`, positive; the weight is to be divided by them.
    """
    largest_input, largest_weight = (np.abs(array).max(axis=0).astype(np.float64) for array in (rows, weight))
    used = (largest_input > 0) & (largest_weight > 0)
    logs = np.log(largest_weight, where=used, out=np.zeros(len(used)))
    logs -= np.log(largest_input, where=used, out=np.zeros(len(used)))
    logs[used] -= logs[used].mean() if used.any() else 0
    scales: FloatArray = np.exp(logs / 2).astype(np.float32)
    return scales


def round_rows(rows: FloatArray) -> FloatArray:
    """Rows `[m, k]` as csrc/ rounds them: each in 255 steps from its smallest value to its largest."""
    low = rows.min(axis=1, keepdims=True)
    step = (rows.max(axis=1, keepdims=True) - low) / np.float32(255)
    rounded: FloatArray = np.rint((rows - low) / np.where(step > 0, step, 1)) * step + low
    return rounded


def round_weight(weight: FloatArray, gram: FloatArray) -> tuple[npt.NDArray[np.int8], FloatArray]:
    """A weight as int8 times a scale for each of its rows, with the error in outputs made small, not that in weights.

    Columns are rounded one after another, each after what the columns before it lost was carried over to it in the
    proportion that makes `(w - q) gram (w - q)` smallest: GPTQ (Frantar et al. 2022, arXiv:2210.17323), in the order of
    falling diagonal, written as back substitution with the Cholesky factor, which needs no inverse.

    Args:
        weight: `[n, k]`, finite.
        gram: `[k, k]`, `rowsᵀ rows` of example inputs.

    Returns:
        Integers `[n, k]` of at most 127 each way, and scales `[n]`.
    """
    scales: FloatArray = np.abs(weight).max(axis=1) / np.float32(STEPS)
    order = np.argsort(np.diag(gram), kind="stable")
    damped = gram[np.ix_(order, order)]
    damped[np.diag_indices_from(damped)] += _DAMPING * np.diag(gram).mean() or 1.0
    upper = np.linalg.cholesky(damped).T
    carry: FloatArray = upper / np.diag(upper)[:, None]  # [j, i]: what column j takes over of column i's loss
    exact: FloatArray = weight.T[order] / np.where(scales > 0, scales, 1)  # [k, n]
    target, codes = exact.copy(), np.empty_like(exact)
    for end in range(len(order), 0, -_BLOCK):
        start = max(end - _BLOCK, 0)
        lost: FloatArray = np.zeros((end - start, len(weight)), np.float32)
        for j in range(end - 1, start - 1, -1):
            codes[j] = np.clip(np.rint(target[j] + carry[j, start:end] @ lost), -STEPS, STEPS)
            lost[j - start] = exact[j] - codes[j]
        target[:start] += carry[:start, start:end] @ lost
    columns = np.empty(codes.shape, np.int8)
    columns[order] = codes
    return np.ascontiguousarray(columns.T), scales

"""`attn_implementation="distilrt"`: only the attention of a transformers model by this engine's CPU kernels.

Importing this module registers the name with transformers 5, for attention and for its masks; nothing else does. For a
whole DistilBERT there is `distilrt.accelerate`: here padding is computed, and all but the attention is torch's.
"""

from __future__ import annotations

import math
from functools import cache
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt
import torch
import transformers
from transformers import AttentionInterface, AttentionMaskInterface, masking_utils

from distilrt import _C, env
from distilrt.errors import InvalidInput
from distilrt.model.config import HEAD_DIM_RANGE
from distilrt.placement import Placement

if int(transformers.__version__.split(".")[0]) < 5:
    raise ImportError(f"attn_implementation='distilrt' needs transformers 5, found {transformers.__version__}, whose "
                      "DistilBERT chooses among its own attentions only; use distilrt.accelerate")  # fmt: skip

NAME = "distilrt"
_WAY_OUT = "use attn_implementation='sdpa', or 'eager' to see attentions, e.g. by model.set_attn_implementation('sdpa')"
_HARMLESS = frozenset({"position_ids", "cache_position", "use_cache", "output_hidden_states", "return_dict"})


def attention_forward(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    is_causal: bool | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Attention as transformers' AttentionInterface calls it.

    Computed in bfloat16 for such tensors where the CPU has it, else in float32.

    Args:
        module: the caller.
        query: `[batch_size, num_heads, queries, head_dim]`.
        key, value: `[batch_size, num_heads, keys, head_dim]`.
        attention_mask: what `padding_mask` made, `[batch_size, keys]`; None: all keys are attended to.
        dropout: must be 0.
        scaling: of the scores, at least 0; None: `head_dim ** -0.5`.
        is_causal: must not be True; None: what `module` says.

    Returns:
        `[batch_size, queries, num_heads, head_dim]` in the dtype of `query`, and None for the probabilities.

    Raises:
        TypeError: what only other attentions can do; the message names it.
        InvalidInput: a row of the mask without a 1.
    """
    causal = getattr(module, "is_causal", False) if is_causal is None else is_causal
    asked = {name for name, given in kwargs.items() if given is not None and given is not False} - _HARMLESS
    for problem, found in (
        (f"the argument {min(asked)!r}" if asked else "", asked),
        ("causal attention", causal),
        ("dropout in training; call eval() first", dropout),
        (f"tensors on {query.device}, only on the CPU", query.device.type != "cpu"),
        ("masks of pairs of positions, only 2-D masks", attention_mask is not None and attention_mask.ndim != 2),
        ("fewer key heads than query heads", key.shape[1] != query.shape[1]),
        (f"head_dim {query.shape[-1]}, only {HEAD_DIM_RANGE[0]} to {HEAD_DIM_RANGE[1]}",
         not HEAD_DIM_RANGE[0] <= query.shape[-1] <= HEAD_DIM_RANGE[1]),
        ("a scaling that is negative or not finite", scaling is not None and not 0 <= scaling < math.inf),
        ("values of another width than keys", value.shape != key.shape),
    ):  # fmt: skip
        if found:
            raise TypeError(f"attn_implementation='distilrt' does not support {problem}; {_WAY_OUT}")
    scale = query.shape[-1] ** -0.5 if scaling is None else float(scaling)
    return attention(query, key, value, attention_mask, scale), None


def padding_mask(
    *, mask_function: Any, attention_mask: torch.Tensor | None, kv_length: int, kv_offset: int = 0, **kwargs: Any
) -> torch.Tensor | None:
    """The mask as transformers' AttentionMaskInterface asks for it: the caller's, `[batch_size, keys]`.

    Raises:
        TypeError: a mask that is causal or made by a function of its own.
    """
    if mask_function is not masking_utils.bidirectional_mask_function:
        raise TypeError("attn_implementation='distilrt' supports only bidirectional attention with a padding mask; "
                        f"{_WAY_OUT}")  # fmt: skip
    return None if attention_mask is None else attention_mask[:, kv_offset : kv_offset + kv_length]


@torch.library.custom_op("distilrt::attention", mutates_args=())
def attention(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor | None, scale: float
) -> torch.Tensor:
    """`softmax(scale Q Kᵀ) V` over the keys whose `mask` is not 0; shapes as in `attention_forward`."""
    batch_size, num_heads, num_queries, head_dim = query.shape
    isa, placement = _machine()
    threads = placement()
    dtype = query.dtype if query.dtype == torch.bfloat16 and "bfloat16" in _C.dtypes(isa) else torch.float32
    out = query.new_empty(batch_size, num_queries, num_heads, head_dim, dtype=dtype)
    keep = None if mask is None else (mask != 0).contiguous()
    if keep is not None and not bool((rows := keep.any(1)).all()):
        row = rows.tolist().index(False)
        raise InvalidInput(
            f"attention_mask row {row} is all zeros; every sequence needs at least one unmasked position"
        )
    _C.attention(
        *(_array(tensor.to(dtype)) for tensor in (query, key, value)),
        out=_array(out.transpose(1, 2)),
        scale=scale,
        key_mask=None if keep is None else keep.numpy(),
        isa=isa,
        num_threads=threads.num_threads,
        cpus=threads.cpus,
    )
    return out.to(query.dtype)


def _array(tensor: torch.Tensor) -> npt.NDArray[Any]:
    """A view of a tensor's memory, bfloat16 as uint16; a copy where the last dimension is not contiguous."""
    tensor = tensor.detach()
    if tensor.stride(-1) != 1:
        tensor = tensor.contiguous()
    if tensor.dtype == torch.bfloat16:
        narrow: npt.NDArray[Any] = tensor.view(torch.int16).numpy().view(np.uint16)
        return narrow
    array: npt.NDArray[Any] = tensor.numpy()
    return array


@attention.register_fake
def _(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor | None, scale: float
) -> torch.Tensor:
    batch_size, num_heads, num_queries, head_dim = query.shape
    return query.new_empty(batch_size, num_queries, num_heads, head_dim)


def _no_gradient(context: Any, gradient: torch.Tensor) -> NoReturn:
    raise TypeError(f"attn_implementation='distilrt' only infers and has no gradients; {_WAY_OUT}")


attention.register_autograd(_no_gradient)


@cache
def _machine() -> tuple[str, Placement]:
    """Instruction set ("": the best) and threads."""
    return env.force_isa() or "", Placement(None)


AttentionInterface.register(NAME, attention_forward)
AttentionMaskInterface.register(NAME, padding_mask)

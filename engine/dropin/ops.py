"""The engine as an opaque torch operator, so that a compiled program can hold it without a graph break.

The operator gets its model by a number, for a graph can hold no object. What its outputs look like follows from its
other arguments alone: compiled programs are cached on disk by their text, and the number may then be another model's.
Registers `torch.ops.distilrt.compute` on import.
"""

from __future__ import annotations

import itertools
import math
import threading
import weakref
from collections.abc import Callable, Mapping
from typing import Any

import torch

from distilrt.dropin.output_fields import Shapes

_number = itertools.count(1).__next__
_lock = threading.Lock()  # held while a model gets its number
_registered: weakref.WeakValueDictionary[int, Callable[..., list[torch.Tensor]]] = weakref.WeakValueDictionary()

# The GPU backend replays CUDA graphs of its own, which can't be captured into those of `mode="reduce-overhead"`.
_NO_GRAPH: dict[str, Any] = {"tags": [torch.Tag.cudagraph_unsafe]} if hasattr(torch.Tag, "cudagraph_unsafe") else {}


def register(model: Any) -> int:
    """The number by which the operator finds `model`, for as long as somebody else holds it.

    Args:
        model: its `compute` takes tensors by name and the names of the outputs, and returns these.
    """
    with _lock:
        number = _number()
        _registered[number] = model
    return number


def operands(number: int, tensors: Mapping[str, Any], outputs: Shapes) -> tuple[int, str, list[Any], str]:
    """The operator's arguments.

    Args:
        number: from `register`.
        tensors: tensors by name, or nodes of them; among them `input_ids` `[batch_size, (num_choices,) seq_len]` or
            `inputs_embeds`, which has one dimension more.
        outputs: name and dimensions of every output, in order, see `output_fields.output_shapes`.
    """
    shapes = (f"{name}:{','.join(map(str, dims))}" for name, dims in outputs.items())
    return number, " ".join(tensors), list(tensors.values()), " ".join(shapes)


@torch.library.custom_op("distilrt::compute", mutates_args=(), **_NO_GRAPH)
def compute(number: int, names: str, tensors: list[torch.Tensor], outputs: str) -> list[torch.Tensor]:
    """What a model computes, float32 tensors; see `operands` for the arguments.

    Raises:
        RuntimeError: the model is gone.
    """
    model: Any = _registered.get(number)
    if model is None:
        raise RuntimeError("the model of this compiled program is gone; compile the program again")
    flat = model.compute(dict(zip(names.split(), tensors, strict=True)), list(_parsed(outputs)))
    # An operator's outputs must not share memory, and the last hidden state is also the last of the hidden states.
    first = {tensor.data_ptr(): i for i, tensor in reversed(list(enumerate(flat)))}
    return [tensor if first[tensor.data_ptr()] == i else tensor.clone() for i, tensor in enumerate(flat)]


@compute.register_fake
def _(number: int, names: str, tensors: list[torch.Tensor], outputs: str) -> list[torch.Tensor]:
    given = dict(zip(names.split(), tensors, strict=True))
    shape = given["input_ids"].shape if "input_ids" in given else given["inputs_embeds"].shape[:-1]
    sizes: dict[str, Any] = {"batch_size": shape[0], "num_choices": shape[1], "seq_len": shape[-1]}
    sizes["sequences"] = math.prod(shape[:-1])
    return [
        tensors[0].new_empty([sizes[dim] if dim in sizes else int(dim) for dim in dims], dtype=torch.float32)
        for dims in _parsed(outputs).values()
    ]


def _parsed(outputs: str) -> dict[str, list[str]]:
    pairs = (output.split(":") for output in outputs.split())
    return {name: dims.split(",") if dims else [] for name, dims in pairs}

"""The modules that a transformers model is made of: what they compute, whether they changed, and their parameters."""

from __future__ import annotations

import copy
from typing import Any

import numpy.typing as npt
import torch

from distilrt import _C
from distilrt.checkpoint.pickle_file import stored_numbers
from distilrt.checkpoint.tensor_files import TensorFile
from distilrt.dropin.copies import HOOKS, notes_outputs


class Structure:
    """Says which parameters a module has, as long as its submodules are the same objects as when this object was made.

    A hook on a submodule, and an attribute that a submodule gained or lost, count as changes.

    Attributes:
        tensors: the parameters at that time.
        names: of these.
    """

    def __init__(self, module: torch.nn.Module) -> None:
        inner = list(module.modules())[1:]
        every = [module, *inner]
        self.names = [
            f"{prefix}.{name}" if prefix else name
            for prefix, each in module.named_modules()
            for name, tensor in each._parameters.items()
            if tensor is not None
        ]
        self._children = tuple(each._modules for each in every if each._modules)
        self._parameters = tuple(each._parameters for each in every if each._parameters)
        self._tables = self._children + self._parameters
        self._kept = [dict(table) for table in self._tables]  # so that no other object takes an address
        self._sizes = tuple(table for each in inner for table in (vars(each), *(vars(each)[kind] for kind in HOOKS)))
        self.tensors = self._held()
        self._all = _C.table_states(self._sizes, self._tables)
        self._modules = _C.table_states(self._sizes, self._children)

    def parameters(self) -> tuple[torch.Tensor, ...] | None:
        """The parameters that the module's modules hold now, or None if these differ from what they were.

        They come in a fixed order; one that several modules share comes several times.
        """
        now = _C.table_states(self._sizes, self._tables)
        if now == self._all:
            return self.tensors
        return self._held() if now.startswith(self._modules) else None

    def _held(self) -> tuple[torch.Tensor, ...]:
        return tuple(tensor for table in self._parameters for tensor in table.values() if tensor is not None)


def check(model: Any, reference: Any) -> None:
    """Refuse a model whose submodules compute something else than those of its class.

    Args:
        reference: the class.

    Raises:
        TypeError: names the first such submodule.
    """
    with torch.device("meta"):
        plain = reference(copy.deepcopy(model.config))
    expected = {name: type(module).forward for name, module in plain.named_modules()}
    for name, module in model.named_modules():
        if not name:
            continue
        kind = f"{type(module).__module__}.{type(module).__qualname__}"
        found = ""
        if "forward" in vars(module):
            found = "has a forward of its own"
        elif type(module).forward is not expected.get(name, type(module).forward):
            found = f"is a {kind}, which computes another thing than what belongs there"
        elif any(not notes_outputs(hook) for hooks in HOOKS for hook in vars(module)[hooks].values()):
            found = "has a hook, which would not run"
        elif hasattr(module, "parametrizations"):
            found = "has a parametrization"
        if found:
            raise TypeError(
                f"{name} of this {reference.__name__} {found}; merge an adapter (PEFT: merge_and_unload()), take away "
                "what was added, or call the transformers model itself"
            )


class ModuleFile(TensorFile):
    """A module's `state_dict()` as an open file of tensors, so that a live model loads like a checkpoint."""

    def __init__(self, module: torch.nn.Module) -> None:
        self._state = module.state_dict()
        self.specs = {
            name: (str(tensor.dtype).removeprefix("torch."), tuple(tensor.shape))
            for name, tensor in self._state.items()
        }

    def raw(self, name: str) -> npt.NDArray[Any]:
        """A read-only view of the tensor, or of its copy where it is on a device; bfloat16 as uint16."""
        return stored_numbers(self._state[name].cpu())

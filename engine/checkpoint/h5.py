"""Tensors of a `tf_model.h5`, by PyTorch's names and in PyTorch's shapes; TensorFlow is not needed.

It knows how Keras lays weights out in HDF5 and how TensorFlow's variables of a transformers model are called, but no
model. Sources: the HDF5 weights format of Keras 2 (`layer_names`, `weight_names`), and the files that transformers 4
writes, of which tests/golden has examples.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from distilrt.errors import CheckpointError

if TYPE_CHECKING:
    from distilrt.checkpoint.tensor_files import Spec, TensorFile

# The last part of a variable's name, and what PyTorch calls the same.
_PARTS = {"kernel": "weight", "embeddings": "weight", "gamma": "weight", "beta": "bias"}


class H5File:
    """The variables of a Keras weights file, by their names below the model's own: `distilbert/…/kernel:0`."""

    def __init__(self, path: Path) -> None:
        try:
            import h5py
        except ImportError as error:
            raise ImportError(f"reading {path} needs h5py: pip install 'distilrt[h5]', or convert the checkpoint to "
                              "safetensors, which needs nothing more") from error  # fmt: skip
        self._path = path
        self._datasets: dict[str, Any] = {}
        try:
            self._file = h5py.File(path, "r")
            for layer in self._file.values():
                # Keras spreads a long list of names over weight_names0, weight_names1, …
                if isinstance(layer, h5py.Group) and any(name.startswith("weight_names") for name in layer.attrs):
                    layer.visititems(self._add)  # which does not follow links, least of all into other files
        except CheckpointError:
            raise
        except Exception as error:  # a damaged file fails anywhere in the library
            raise CheckpointError(f"{path} is not a whole HDF5 file: {error}. It is truncated or damaged; fetch it "
                                  "again") from error  # fmt: skip
        if not self._datasets:
            raise CheckpointError(f"{path} holds no Keras weights: expected groups with weight_names, as transformers' "
                                  "TensorFlow classes save them")  # fmt: skip
        self.specs: dict[str, Spec] = {
            name: (item.dtype.name, tuple(item.shape)) for name, item in self._datasets.items()
        }

    def _add(self, path: str, item: Any) -> None:
        if not hasattr(item, "shape"):
            return
        if item.external or item.is_virtual:
            raise CheckpointError(f"{self._path} was refused: {path} takes its numbers from another file")
        # A variable that two layers share, as the projection shares the word embeddings, is written under both.
        self._datasets.setdefault(path.partition("/")[2], item)

    def raw(self, name: str) -> npt.NDArray[Any]:
        """The stored numbers, read anew at every call."""
        try:
            array: npt.NDArray[Any] = self._datasets[name][...]
        except Exception as error:
            raise CheckpointError(f"tensor {name} of {self._path} can't be read: {error}. The file is truncated or "
                                  "damaged; fetch it again") from error  # fmt: skip
        array.flags.writeable = False
        return array

    def load(self, name: str) -> npt.NDArray[np.float32]:
        """The numbers as float32, read anew at every call."""
        return self.raw(name).astype(np.float32, copy=False)

    def release(self) -> None:
        """Nothing is kept that could be given back."""


class TorchNames:
    """A file of TensorFlow variables with PyTorch's names and shapes: dots, `weight` and `bias`, kernels transposed.

    `distilbert/transformer/layer_._0/ffn/lin1/kernel:0` is `distilbert.transformer.layer.0.ffn.lin1.weight`.
    """

    def __init__(self, file: TensorFile) -> None:
        self._file = file
        self._variables = {torch_name(variable): variable for variable in file.specs}
        self.specs: dict[str, Spec] = {}
        for name, variable in self._variables.items():
            dtype, shape = file.specs[variable]
            self.specs[name] = dtype, shape[::-1] if _is_kernel(variable) else shape

    def raw(self, name: str) -> npt.NDArray[Any]:
        """The stored numbers, see `TensorFile.raw`."""
        variable = self._variables[name]
        array = self._file.raw(variable)
        return array.T if _is_kernel(variable) else array

    def load(self, name: str) -> npt.NDArray[np.float32]:
        """The numbers as float32, see `TensorFile.load`."""
        variable = self._variables[name]
        array = self._file.load(variable)
        return np.ascontiguousarray(array.T) if _is_kernel(variable) else array

    def release(self) -> None:
        """See `TensorFile.release`."""
        self._file.release()


def torch_name(variable: str) -> str:
    """PyTorch's name of a TensorFlow variable of a transformers model.

    There `a___b` is a layer called a in TensorFlow and b in PyTorch, and `layer_._0` is item 0 of a list.
    """
    path = re.sub(r"(?:^|(?<=/))[^/]*___(?=[^/]*/)", "", variable.removesuffix(":0")).replace("_._", "/")
    *scopes, last = path.split("/")
    return ".".join([*scopes, _PARTS.get(last, last)])


def _is_kernel(variable: str) -> bool:
    return variable.removesuffix(":0").endswith("/kernel")

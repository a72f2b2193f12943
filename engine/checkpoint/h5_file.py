"""Keras's `tf_model.h5`, and TensorFlow's variables by PyTorch's names and in PyTorch's shapes.

Sources: the HDF5 weights format of Keras 2 (`layer_names`, `weight_names`), and the files that transformers 4 writes;
tests/golden has examples. TensorFlow is not needed, and h5py only to read such a file.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy.typing as npt

from distilrt.checkpoint.tensor_files import Stored, TensorFile, refuse_impostor
from distilrt.errors import CheckpointError

# The last part of a variable's name, and what PyTorch calls the same.
_PARTS = {"kernel": "weight", "embeddings": "weight", "gamma": "weight", "beta": "bias"}


class H5File(TensorFile):
    """The variables of a Keras weights file, by their names below the model's own: `distilbert/…/kernel:0`."""

    written_by = "tf"

    def __init__(self, path: Path) -> None:
        refuse_impostor(path)
        try:
            import h5py
        except ImportError as error:
            raise ImportError(
                f"reading {path} needs h5py: pip install 'distilrt[h5]', or convert the checkpoint to safetensors, "
                "which needs nothing more"
            ) from error
        self._path = path
        self._datasets: dict[str, Any] = {}
        try:
            self._file = h5py.File(path, "r")
            for layer in self._file.values():
                # Keras spreads a long list of names over weight_names0, weight_names1, …
                if isinstance(layer, h5py.Group) and any(name.startswith("weight_names") for name in layer.attrs):
                    layer.visititems(self._add)  # It does not follow links, which may lead into other files.
        except CheckpointError:
            raise
        except Exception as error:  # a damaged file fails anywhere in the library
            raise CheckpointError(
                f"{path} is not a whole HDF5 file: {error}. It is truncated or damaged; fetch it again"
            ) from error
        if not self._datasets:
            raise CheckpointError(
                f"{path} holds no Keras weights: expected groups with weight_names, as transformers' TensorFlow "
                "classes save them"
            )
        self.specs = {name: (item.dtype.name, tuple(item.shape)) for name, item in self._datasets.items()}

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
            raise CheckpointError(
                f"tensor {name} of {self._path} can't be read: {error}. The file is truncated or damaged; fetch it "
                "again"
            ) from error
        array.flags.writeable = False
        return array


def torch_tensors(file: TensorFile) -> dict[str, Stored]:
    """TensorFlow's variables with PyTorch's names and shapes: dots, `weight` and `bias`, kernels transposed."""
    found = {}
    for variable, (dtype, shape) in file.specs.items():
        kernel = variable.removesuffix(":0").endswith("/kernel")
        found[torch_name(variable)] = Stored(file, variable, dtype, shape[::-1] if kernel else shape, kernel)
    return found


def torch_name(variable: str) -> str:
    """PyTorch's name of a TensorFlow variable of a transformers model.

    `distilbert/transformer/layer_._0/ffn/lin1/kernel:0` is `distilbert.transformer.layer.0.ffn.lin1.weight`. There
    `layer_._0` is item 0 of a list, and `a___b` is a layer called a in TensorFlow and b in PyTorch.
    """
    path = re.sub(r"(?:^|(?<=/))[^/]*___(?=[^/]*/)", "", variable.removesuffix(":0")).replace("_._", "/")
    *scopes, last = path.split("/")
    return ".".join([*scopes, _PARTS.get(last, last)])

"""The modules that a sentence-transformers folder lists, and the fields of their JSON files.

Modules are known by the names of their classes, old and new ones. A field that is not as it must be is an error that
names the file.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distilrt.checkpoint.files import read_object, read_value
from distilrt.checkpoint.source import Source
from distilrt.checkpoint.tensor_files import FloatArray
from distilrt.checkpoint.weight_files import open_tensors
from distilrt.checkpoint.weights import Weights, check_tensor
from distilrt.errors import CheckpointError

# The class of a transformer module, and the task that it has where its settings name none.
TRANSFORMERS = {
    "Transformer": "feature-extraction",
    "DistilBERT": "feature-extraction",
    "BERT": "feature-extraction",
    "MLMTransformer": "fill-mask",
}
_KNOWN = ("Transformer", "Pooling", "Dense", "Normalize", "LayerNorm", "Dropout", "SpladePooling")
ALONE = (
    "to compute without these modules, load the transformer with distilrt.DistilBertModel.from_pretrained and give it "
    "with its tokenizer"
)


@dataclass(frozen=True, slots=True)
class Fields:
    """A JSON object, and the name of the file that it is from."""

    values: Mapping[str, Any]
    file: str | Path

    def get(self, name: str, default: Any, allowed: str, accepts: Callable[[Any], bool]) -> Any:
        """A field's value if `accepts` takes it; `allowed` says in words what it may be."""
        value = self.values.get(name, default)
        if not accepts(value):
            raise CheckpointError(f"{self.file}: {name} must be {allowed}, found {value!r:.80}")
        return value

    def choice(self, name: str, default: Any, *values: Any) -> Any:
        """A field that must be one of some values."""
        return self.get(name, default, f"one of {', '.join(map(repr, values))}", lambda value: value in [*values])

    def flag(self, name: str, default: bool) -> bool:
        """A field that is true or false."""
        return bool(self.get(name, default, "true or false", lambda value: isinstance(value, bool)))

    def count(self, name: str) -> int | None:
        """A field that is a positive integer or null."""
        value: int | None = self.get(
            name,
            None,
            "null or an integer of at least 1",
            lambda value: value is None or (type(value) is int and value >= 1),
        )
        return value

    def group(self, name: str) -> Fields:
        """A field that is an object itself; an empty one where it is missing or null."""
        value = self.get(name, None, "an object", lambda value: value is None or isinstance(value, dict))
        return Fields(value or {}, f"{self.file}: {name}")

    def refuse_others(self, *known: str) -> None:
        """Refuse fields that are not `known`."""
        if others := [name for name in self.values if name not in known]:
            raise CheckpointError(
                f"{self.file}: {others[0]} is not supported; known are {', '.join(known) or 'none'}; {ALONE}"
            )


@dataclass(frozen=True, slots=True)
class Module:
    """An entry of `modules.json`.

    Attributes:
        kind: the name of its class.
        folder: its folder within the whole one.
        whole: the source of the whole folder.
    """

    kind: str
    folder: str
    whole: Source

    def __str__(self) -> str:
        return f"{self.folder or '(root)'} of type {self.kind}"

    def path(self, name: str) -> str:
        """The path of one of its files within the whole folder."""
        return f"{self.folder}/{name}" if self.folder else name

    def fields(self, name: str = "config.json", *, needed: bool = False) -> Fields:
        """A JSON file of the module; an empty object where it has none.

        Raises:
            CheckpointError: the file is needed and not there.
        """
        path = self.path(name)
        found = self.whole.file(path)
        if found is None and needed:
            raise CheckpointError(
                f"modules.json names the module {self}, and {path} is not there; fetch the whole folder"
            )
        return Fields({}, path) if found is None else Fields(read_object(found), found)

    def tensors(self, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, FloatArray]:
        """The module's weights by name, which must be these, of these shapes.

        Raises:
            CheckpointError: a tensor is missing, of another shape, or not of finite numbers.
        """
        try:
            stored, path = open_tensors(self.whole.within(self.folder))
        except FileNotFoundError as error:
            raise CheckpointError(f"modules.json: module {self} has no weights: {error}") from error
        if stored.keys() != shapes.keys():
            raise CheckpointError(
                f"{path}: module {self} must have the tensors {', '.join(shapes)}, found {', '.join(stored) or 'none'}"
            )
        for name, shape in shapes.items():
            check_tensor(name, stored[name], shape, path)
        return dict(Weights(stored, str(path)))


def listed(path: Path, source: Source) -> list[Module]:
    """The modules that the `modules.json` at `path` lists, at least one.

    Raises:
        CheckpointError: it lists none, or one that is not supported.
    """
    entries = read_value(path)
    if not isinstance(entries, list) or not entries:
        raise CheckpointError(f"{path} must hold a list of at least one module, found {entries!r:.80}")
    found = []
    for index, entry in enumerate(entries):
        kind, folder = (entry.get("type"), entry.get("path")) if isinstance(entry, dict) else (None, None)
        if not isinstance(kind, str) or not isinstance(folder, str):
            raise CheckpointError(
                f"{path}: module {index} must be an object with the strings type and path, found {entry!r:.80}"
            )
        parts = folder.replace("\\", "/").strip("/").split("/")
        if Path(folder).is_absolute() or ".." in parts:
            raise CheckpointError(f"{path}: path of module {index} must lie within the folder, found {folder!r:.80}")
        library, _, name = kind.partition(".")
        name = name.rpartition(".")[2]
        if library != "sentence_transformers" or name not in (*_KNOWN, *TRANSFORMERS):
            raise CheckpointError(
                f"{path}: module {index} is of type {kind!r:.80}, which is not supported; known are those of "
                f"sentence_transformers called {', '.join(_KNOWN)}; {ALONE}"
            )
        found.append(Module(name, "/".join(part for part in parts if part not in ("", ".")), source))
    return found

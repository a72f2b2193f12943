"""Models and files: loading and saving, the weights of a model, and all arguments of `from_pretrained`.

What transformers' `from_pretrained` takes is in one table: followed, meaningless here, or refused with advice.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

import numpy.typing as npt

from distilrt.backends import base as backends
from distilrt.checkpoint import packed
from distilrt.checkpoint import upload as hub_upload
from distilrt.checkpoint.codings import CODINGS
from distilrt.checkpoint.names import named_in_files
from distilrt.checkpoint.packing import CODES, PackedWeights
from distilrt.checkpoint.source import Source
from distilrt.checkpoint.weights import load_weights, random_weights, save_checkpoint
from distilrt.errors import CheckpointError
from distilrt.model import bert_config
from distilrt.model.architecture import expected_shapes, with_pooler
from distilrt.model.config import DistilBertConfig
from distilrt.model.heads import HEADS
from distilrt.model.input_embeddings import InputEmbeddings
from distilrt.model.placement import Placed, device_of

if TYPE_CHECKING:
    from typing_extensions import Self

    from distilrt.checkpoint.calibration import Calibration

Array = npt.NDArray[Any]
_Model = TypeVar("_Model", bound="Pretrained")

# Whatever they say, the same model computes the same numbers: there is one implementation, which runs no code from
# checkpoints, maps files instead of reading them, and takes every format.
_MEANINGLESS = frozenset(
    ("low_cpu_mem_usage", "trust_remote_code", "code_revision", "attn_implementation", "experts_implementation",
     "use_kernels", "resume_download", "weights_only", "from_pt", "from_tf", "max_memory", "offload_folder",
     "offload_state_dict", "offload_buffers", "generation_config", "adapter_kwargs", "user_agent", "_fast_init",
     "_from_auto", "_from_pipeline", "_commit_hash")
)  # fmt: skip
# Accepted only where they say nothing.
_REFUSED = {
    "ignore_mismatched_sizes": "no tensor is ever made up at random; give the number of labels that the checkpoint "
    "has, or train the new head with transformers",
    "state_dict": "give the weights to the class itself, as its second argument, by the names of state_dict() without "
    "'distilbert.'",
    "output_loading_info": "a missing tensor is always an error, and an extra one warns, or is refused by strict=True",
    **dict.fromkeys(("quantization_config", "load_in_8bit"), "dtype='int8' quantizes, and on a GPU 'float8'"),
    "load_in_4bit": "the narrowest dtype is int8: dtype='int8'",
    **dict.fromkeys(("from_flax", "gguf_file"), "convert the checkpoint to safetensors"),
    "variant": "rename the file of this variant to model.safetensors, in a folder of its own",
    "adapter_name": "name the model as BASE@ADAPTER",
    "key_mapping": "rename the tensors and save them",
    **dict.fromkeys(("tp_plan", "tp_size", "device_mesh", "distributed_config"), "a model computes on one device"),
    "force_download": "fetch the files anew with `hf download --force-download`, and load them then",
    "proxies": "set the environment variable HTTPS_PROXY",
    "mirror": "set the environment variable HF_ENDPOINT",
}
_CONFIG_FIELDS = {field.name for field in dataclasses.fields(DistilBertConfig)} | bert_config.ALIASES.keys()
_CONFIG_FIELDS -= {"extra", "dtype", *bert_config.OWN_FIELDS}


class Pretrained(Placed):
    """A config, weights, and the backend that holds them; loading and saving.

    Args:
        config: the model's shape; transformers' `DistilBertConfig` too.
        weights: canonical names to float32 arrays; None: random, as in the reference.
        backend: "auto", "reference", "cpu" or "cuda".
        dtype: "auto", the checkpoint's own, or one that the backend has.
        num_threads: CPU threads; None: one for each core of a memory node that the process may use.
        calibration: how int8 and float8 quantize (`distilrt.checkpoint.calibration`); None: without example texts.

    Raises:
        BackendError: the backend or dtype is not available here.
    """

    architecture: ClassVar[str]

    def __init__(
        self,
        config: DistilBertConfig | Any,
        weights: Mapping[str, Array] | None = None,
        *,
        backend: str = "auto",
        dtype: str = "auto",
        num_threads: int | None = None,
        calibration: Calibration | None = None,
    ) -> None:
        config = DistilBertConfig.of(config)
        self.weights = random_weights(config, self.architecture) if weights is None else weights
        self.config = config = with_pooler(config, self.architecture, self.weights)
        self._head = head = HEADS[self.architecture]
        self.backend = backends.create(
            backend, config, self.weights, dtype=dtype, num_threads=num_threads, calibration=calibration, head=head
        )

    @classmethod
    def from_pretrained(
        cls,
        model: str | Path | Source | None = None,
        backend: str = "auto",
        dtype: Any = "auto",
        num_threads: int | None = None,
        revision: str | None = None,
        subfolder: str = "",
        token: str | bool | None = None,
        cache_dir: str | Path | None = None,
        local_files_only: bool = False,
        *,
        config: Any = None,
        use_safetensors: bool | None = None,
        strict: bool = False,
        **arguments: Any,
    ) -> Self:
        """Load a folder or a hub id, or open a packed folder.

        Args:
            model: the folder or id; "BASE@ADAPTER", or the folder of an adapter alone, merges a LoRA adapter of PEFT.
            dtype: "auto", a name, or a dtype of torch.
            config: in place of the folder's: one of ours or of transformers, a dict, or a folder or hub id.
            use_safetensors: True: of the formats of weights only safetensors; False: only the others.
            strict: refuse a checkpoint with tensors that the model does not use, instead of warning.
            arguments: fields of the config to be otherwise (`num_labels`, `id2label`, `output_hidden_states` and so
                on), and what else transformers takes, see `settled`.

        `dtype="int8"` or `"float8"` of a float checkpoint calibrates first, with built-in texts and the tokenizer
        beside the weights, which takes seconds; without a tokenizer it does not. A packed folder has that done.

        Raises:
            OSError: the folder, the repository or a file of it is not there.
            CheckpointError: the files do not hold this model, or a packed folder is to serve another backend.
            BackendError: the backend or dtype is not available here.
            TypeError, ValueError: an argument that there is not, or that can't be followed.
        """
        model, backend, dtype, token, changes = settled(model, backend, dtype, token, arguments)
        source = Source.of(model, revision, subfolder, token, cache_dir, local_files_only)
        config = DistilBertConfig.of(source if config is None else config)
        if changes:
            config = config.replace(**changes)
        weights: Mapping[str, Array]
        folder, calibration = packed.find(source), None
        if folder is None:
            weights = load_weights(source, cls.architecture, config, use_safetensors=use_safetensors, strict=strict)
            if coding := CODINGS.get((backends.chosen(backend, weights), dtype)):
                # Loads the tokenizer, which no other dtype needs.
                from distilrt.checkpoint.calibration import calibration_of

                calibration = calibration_of(source, config, weights, coding=coding)
        elif source.adapter is not None:
            raise CheckpointError(
                f"{folder} is packed, and an adapter is merged into float weights; give the checkpoint that was packed"
            )
        else:
            config, weights = packed.load(folder, cls.architecture, config)
        return cls(config, weights, backend=backend, dtype=dtype, num_threads=num_threads, calibration=calibration)

    def save_pretrained(self, folder: str | Path) -> None:
        """Write config and weights where the reference and `from_pretrained` can read them."""
        save_checkpoint(folder, self.config, self.weights, self.architecture)

    def push_to_hub(self, repo_id: str, **options: Any) -> str:
        """Upload what `save_pretrained` writes, and a section of the model card; see `hub_upload.upload`."""
        return hub_upload.upload(self.save_pretrained, repo_id, architecture=self.architecture, **options)

    def num_parameters(self, only_trainable: bool = False, exclude_embeddings: bool = False) -> int:
        """How many numbers the model has, as transformers counts them; a tied vocabulary projection counts once.

        `only_trainable` makes no difference; `exclude_embeddings` leaves the tables of words and positions out.
        """
        shapes = expected_shapes(self.config, self.architecture)
        if self.config.tie_word_embeddings:
            shapes.pop("vocab_projector.weight", None)
        named = named_in_files(shapes, self._head, self.config).items()
        left_out = "_embeddings.weight" if exclude_embeddings else ()
        return sum(math.prod(shape) for name, shape in named if not name.endswith(left_out))

    def state_dict(self) -> dict[str, Array]:
        """The weights as float32 arrays by the reference's names."""
        weights = {name: self.weights[name] for name in expected_shapes(self.config, self.architecture)}
        return named_in_files(weights, self._head, self.config)

    def get_input_embeddings(self) -> InputEmbeddings:
        """The word embeddings, which look up what the model takes as `inputs_embeds`."""
        return InputEmbeddings(self.weights["embeddings.word_embeddings.weight"], self.config.pad_token_id)

    def __deepcopy__(self, memo: Any) -> Self:
        return self._shared_as(type(self))  # nothing of it can change, so that copies may share everything

    def __reduce__(self) -> Any:
        """With the numbers it computes with, for a process that may lack the checkpoint, and makes its own threads."""
        weights = self.weights
        if isinstance(weights, PackedWeights) or self.dtype in CODES:
            weights = packed.of(self)  # rounding anew would take the calibration's texts
        threads = self.backend.describe().get("num_threads")
        made = partial(type(self), backend=self.backend.name, dtype=self.backend.dtype, num_threads=threads)
        return made, (self.config, weights)

    def _shared_as(self, cls: type[_Model]) -> _Model:
        """A model of another class on the same backend, hence the same memory and threads."""
        made = object.__new__(cls)
        vars(made).update(vars(self), _head=HEADS[cls.architecture])
        return made


def settled(
    model: Any, backend: str, dtype: Any, token: str | bool | None, arguments: Mapping[str, Any]
) -> tuple[Any, str, str, str | bool | None, dict[str, Any]]:
    """Follow, drop or refuse what transformers' `from_pretrained` takes beyond this package's own arguments, which win.

    Returns the first four, as they are then meant, and the changes of the config.

    Raises:
        TypeError: an unknown argument, or one that can't be followed; the message says what to do.
        ValueError: a device map of several devices, or of another one than `backend`.
    """
    changes: dict[str, Any] = {}
    for name, value in arguments.items():
        if name in _CONFIG_FIELDS:
            changes[name] = value
        elif name == "pretrained_model_name_or_path" and model is None:
            model = value
        elif name == "torch_dtype":
            dtype = value if dtype in (None, "auto") else dtype
        elif name == "use_auth_token":
            token = value if token is None else token
        elif name == "device_map":
            backend = _backend_of(value, backend)
        elif name in _REFUSED:
            if value is not None and value is not False and value != {}:
                raise TypeError(f"from_pretrained can't follow {name}={value!r}: {_REFUSED[name]}")
        elif name not in _MEANINGLESS:
            raise TypeError(
                f"from_pretrained has no argument {name!r}; it has its own, those of transformers, and the "
                "fields of the config"
            )
    if model is None:
        raise TypeError("from_pretrained needs a folder or a hub id as its first argument")
    return model, backend, "auto" if dtype is None else str(dtype).removeprefix("torch."), token, changes


def _backend_of(device_map: Any, backend: str) -> str:
    """The backend that computes on the one device of a map."""
    device = device_of(device_map)
    if device is None:
        return backend
    found = {"cpu": "cpu", "cuda": "cuda", "cuda:0": "cuda"}.get(device)
    if found is None:
        raise ValueError(
            f"device_map must name one device, 'cpu' or 'cuda', or be 'auto', found {device_map!r}; "
            "choose another GPU with CUDA_VISIBLE_DEVICES"
        )
    if backend not in ("auto", found) and not (found == "cpu" and backend == "reference"):
        raise ValueError(f"device_map {device_map!r} and backend {backend!r} are not the same device; give one of them")
    return found if backend == "auto" else backend

"""Arguments of transformers' `from_pretrained`, in one table: followed, meaningless here, or refused with advice."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

from distilrt.model.config import DistilBertConfig

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
    "quantization_config": "dtype='int8' quantizes",
    "load_in_8bit": "dtype='int8' quantizes",
    "load_in_4bit": "the narrowest dtype is int8: dtype='int8'",
    "from_flax": "convert the checkpoint to safetensors",
    "gguf_file": "convert the checkpoint to safetensors",
    "variant": "rename the file of this variant to model.safetensors, in a folder of its own",
    "adapter_name": "merge the adapter into the model and save that",
    "key_mapping": "rename the tensors and save them",
    "tp_plan": "a model computes on one device",
    "tp_size": "a model computes on one device",
    "device_mesh": "a model computes on one device",
    "distributed_config": "a model computes on one device",
    "force_download": "fetch the files anew with `hf download --force-download`, and load them then",
    "proxies": "set the environment variable HTTPS_PROXY",
    "mirror": "set the environment variable HF_ENDPOINT",
}
_CONFIG_FIELDS = {field.name for field in dataclasses.fields(DistilBertConfig)} - {"extra", "folded_bert", "dtype"}
_CONFIG_FIELDS |= {"hidden_size", "num_attention_heads", "num_hidden_layers"}


class Settled(NamedTuple):
    """What the arguments come to."""

    model: Any
    backend: str
    dtype: str
    token: str | bool | None
    changes: dict[str, Any]  # of the config


def settled(model: Any, backend: str, dtype: Any, token: str | bool | None, arguments: Mapping[str, Any]) -> Settled:
    """Follow, drop or refuse what transformers' `from_pretrained` takes beyond this package's own arguments.

    Args:
        model, backend, dtype, token: as given by this package's names, which win.
        arguments: all others.

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
            raise TypeError(f"from_pretrained has no argument {name!r}; it has its own, those of transformers, and the "
                            "fields of the config")  # fmt: skip
    if model is None:
        raise TypeError("from_pretrained needs a folder or a hub id as its first argument")
    return Settled(model, backend, "auto" if dtype is None else str(dtype).removeprefix("torch."), token, changes)


def _backend_of(device_map: Any, backend: str) -> str:
    """The backend that computes on the one device of a map."""
    devices = {str(device) for device in device_map.values()} if isinstance(device_map, Mapping) else {str(device_map)}
    device = devices.pop() if len(devices) == 1 else None
    if device in ("None", "auto", "balanced", "balanced_low_0", "sequential"):
        return backend
    found = {"cpu": "cpu", "cuda": "cuda", "cuda:0": "cuda", "0": "cuda"}.get(device or "")
    if found is None:
        raise ValueError(f"device_map must name one device, 'cpu' or 'cuda', or be 'auto', found {device_map!r}; "
                         "choose another GPU with CUDA_VISIBLE_DEVICES")  # fmt: skip
    if backend not in ("auto", found) and not (found == "cpu" and backend == "reference"):
        raise ValueError(f"device_map {device_map!r} and backend {backend!r} are not the same device; give one of them")
    return found if backend == "auto" else backend

"""What `distilrt info` shows: what this machine and this build have, and what a checkpoint takes."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from contextlib import suppress
from importlib import metadata
from typing import Any

from distilrt import _C, __version__, env, tasks
from distilrt.backends import base as backends
from distilrt.backends import reference
from distilrt.backends.cpu import dtypes_of
from distilrt.backends.cuda.devices import describe_cuda, dtypes_here, why_not_cuda
from distilrt.batch import pack
from distilrt.checkpoint.source import Source
from distilrt.cpu_count import usable_cores
from distilrt.faster_dtypes import faster_dtypes
from distilrt.isas import why_not_the_best
from distilrt.model.heads import HEADS
from distilrt.placement import Placement, memory_nodes
from distilrt.runtime.loading import find

_LIBRARIES = ("numpy", "tokenizers", "safetensors", "torch", "triton", "transformers")
_FACTS = ("model_type", "num_layers", "hidden_size", "num_heads", "intermediate_size", "vocab_size",
          "max_position_embeddings")  # fmt: skip


def of_machine(num_threads: int | None) -> dict[str, Mapping[str, Any]]:
    """Versions, CPU, GPU and the dtypes of each backend, JSON-ready; `num_threads` as in `from_pretrained`."""
    isas = _C.available_isas()
    isa = env.force_isa() or isas[0]
    threads = Placement(num_threads)()
    dtypes = {
        "reference": list(reference.DTYPES),
        "cpu": dtypes_of(isa),
        "cuda": [] if why_not_cuda() else dtypes_here(),
    }
    return {
        "versions": {"distilrt": __version__, "python": platform.python_version(), **_versions()},
        "cpu": {
            "available_isas": isas,
            "active_isa": isa,
            "why_not_a_better_isa": why_not_the_best(isa),
            "usable_cores": usable_cores(),
            "memory_nodes": max(1, len(memory_nodes())),
            "num_threads": threads.num_threads,
            "threads_beside_node": threads.node,
        },
        "gpu": describe_cuda(),
        "backends": {name: dtypes[name] for name in backends.NAMES},
    }


def of_checkpoint(model: str, *, backend: str, dtype: str, num_threads: int | None) -> dict[str, Any]:
    """What a checkpoint is and takes, loaded as the arguments of `from_pretrained` say, JSON-ready.

    Raises:
        OSError, CheckpointError, BackendError: as `from_pretrained`.
    """
    place = find(Source.of(model))
    loaded = place.model(backend=backend, dtype=dtype, num_threads=num_threads)
    config, limit = loaded.config, loaded.config.max_position_embeddings
    with suppress(OSError):  # there is no tokenizer
        limit = tasks.longest(place.tokenizer(), config)
    # A workspace is as large as the largest batch so far.
    loaded.backend.forward(pack(config, [[0] * config.max_position_embeddings]))
    facts = loaded.backend.describe()
    return {
        "name": model,
        "architecture": loaded.architecture,
        "parameters": loaded.num_parameters(),
        **{name: getattr(config, name) for name in _FACTS},
        "max_input_tokens": limit,
        "labels": config.label_names() if HEADS[loaded.architecture].has_labels else [],
        **facts,
        "faster_dtypes": faster_dtypes(facts),
    }


def _versions() -> dict[str, str | None]:
    found: dict[str, str | None] = dict.fromkeys(_LIBRARIES)
    for name in _LIBRARIES:
        with suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found

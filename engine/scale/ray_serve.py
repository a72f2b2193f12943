"""Ray Serve: replicas of the HTTP server on many machines, each with an engine of its own.

A replica runs the application of `distilrt.server`, by `@serve.ingress`; Ray starts, watches, scales and ends replicas
and spreads requests over them. Batching stays the engine's: `@serve.batch` would add a timer in front of it. Terms are
those of https://docs.ray.io/en/latest/serve/.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Mapping
from typing import Any, get_type_hints

try:
    import msgspec
    from ray import serve
    from ray.serve.config import AutoscalingConfig, BackpressureConfig
except ModuleNotFoundError as error:
    raise ImportError(f"Ray Serve needs more packages, {error.name} among them: pip install 'distilrt[ray]'") from None

from distilrt.scale.replica import Replica
from distilrt.server.settings import Settings


def app(
    model: str | Mapping[str, str],
    *,
    name: str | None = None,
    dtype: str = "auto",
    num_threads: int = 1,
    num_gpus: float = 0.0,
    revision: str | None = None,
    max_batch_tokens: int | None = None,
    max_queue_tokens: int | None = None,
    max_models: int = 3,
    num_replicas: int | None = None,
    autoscaling: Mapping[str, Any] | None = None,
    max_ongoing_requests: int = 128,
    max_queued_requests: int = 128,
    drain_timeout: float = 30.0,
    settings: Mapping[str, Any] | None = None,
) -> serve.Application:
    """An application for `ray.serve.run`: every route of `distilrt serve`, answered by replicas.

    Args:
        model: hub id of a checkpoint, or a folder that every machine has; or several by the names that clients use. The
            first is always loaded and answers where a request names none; the others load when they are asked for, by
            `/models/NAME` or by Ray's header `serve_multiplexed_model_id`, with which Ray also prefers a replica that
            has the model already.
        name: what clients know a single model by; None: the hub id, or the folder's name.
        dtype: as in `from_pretrained`.
        num_threads: CPU threads of a replica's engine, and the CPUs that Ray keeps for a replica.
        num_gpus: GPUs, or the part of one, that Ray keeps for a replica; 0: the replica computes on its CPUs.
        revision, max_batch_tokens, max_queue_tokens: as in `distilrt.Engine`.
        max_models: how many models beside the first a replica keeps; the one that was asked for least recently goes
            when another comes, after its requests are answered.
        num_replicas: a fixed number of replicas; None: 1, or as `autoscaling` says.
        autoscaling: fields of `ray.serve.config.AutoscalingConfig`, such as `min_replicas` and `max_replicas`; where
            `target_ongoing_requests` is not given it is a quarter of `max_ongoing_requests`.
        max_ongoing_requests: how many requests a replica is sent at once; enough to fill its engine's batches.
        max_queued_requests: how many may wait in a proxy for a replica; what comes on top gets 429 with Retry-After, as
            it does from an engine whose queue is full.
        drain_timeout: seconds that a replica which is to end has for the requests that it was sent.
        settings: fields of `distilrt.server.settings.Settings`; the others come from the replicas' `DISTILRT_…`
            variables. They are the deployment's `user_config`, which `serve deploy` changes in running replicas.

    Raises:
        ValueError, TypeError: an argument that is not allowed.
    """
    models = {name or "": str(model)} if isinstance(model, str) else {key: str(value) for key, value in model.items()}
    if not models or (len(models) > 1 and "" in models):
        raise ValueError("model must be a folder, a hub id, or a mapping of at least one name to such, found "
                         f"{model!r}")  # fmt: skip
    if name is not None and not isinstance(model, str):
        raise ValueError("name is for a single model; several have theirs in the mapping")
    if type(num_threads) is not int or num_threads < 1:
        raise ValueError(f"num_threads must be an integer of at least 1, found {num_threads!r}")
    Settings(**dict(settings or {}))  # here and now, not in every replica's log
    scaling = _scaling(num_replicas, autoscaling, max_ongoing_requests)
    options = {
        "dtype": dtype, "revision": revision, "max_batch_tokens": max_batch_tokens,
        "max_queue_tokens": max_queue_tokens, "backend": "cuda" if num_gpus else "cpu",
        "num_threads": num_threads,
    }  # fmt: skip

    deployment = serve.deployment(
        serve.ingress()(_replica(max_models)),
        name="distilrt",
        ray_actor_options={"num_cpus": num_threads, "num_gpus": num_gpus},
        max_ongoing_requests=max_ongoing_requests,
        max_queued_requests=max_queued_requests,
        backpressure_config=BackpressureConfig(status_code=429, retry_after_s=1),
        graceful_shutdown_timeout_s=drain_timeout,
        user_config=dict(settings or {}),
        **scaling,
    )
    return deployment.bind(models, options)


def _scaling(num_replicas: int | None, autoscaling: Mapping[str, Any] | None, ongoing: int) -> dict[str, Any]:
    """The deployment's arguments that say how many replicas there are."""
    if autoscaling is None:
        return {"num_replicas": 1 if num_replicas is None else num_replicas}
    if num_replicas is not None:
        raise ValueError("give num_replicas or autoscaling, not both")
    known = AutoscalingConfig.model_fields
    if unknown := autoscaling.keys() - known.keys():
        raise ValueError(f"autoscaling has no {', '.join(sorted(unknown))}; it has {', '.join(known)}")
    return {"autoscaling_config": AutoscalingConfig(**{"target_ongoing_requests": max(1, ongoing // 4), **autoscaling})}


def _replica(max_models: int) -> type[Replica]:
    """The class of an application's replicas: one for each, since Ray keeps the limit in the decorator."""

    class Ingress(Replica):
        @serve.multiplexed(max_num_models_per_replica=max_models)  # type: ignore[untyped-decorator]
        async def resident(self, name: str) -> Any:
            return await asyncio.to_thread(self.load, name)

        async def __del__(self) -> None:  # Ray's last call
            await self.close()

    return Ingress


def build_app(args: dict[str, Any]) -> serve.Application:
    """`app` for `serve run distilrt.scale.ray_serve:build_app model=… num_replicas=2`, and for the `args` of Serve's
    config files, where `model` and `autoscaling` may be mappings.

    Args:
        args: those of `app` by name; numbers may be text.

    Raises:
        ValueError, TypeError: an argument that is missing, unknown or not allowed.
    """
    hints = get_type_hints(app)
    fields: list[Any] = [
        (name, hints[name]) if given.default is given.empty else (name, hints[name], given.default)
        for name, given in inspect.signature(app).parameters.items()
    ]
    form = msgspec.defstruct("Arguments", fields, kw_only=True, forbid_unknown_fields=True)
    try:
        options = msgspec.convert(args, form, strict=False)
    except msgspec.ValidationError as error:
        raise ValueError(f"{error}; the arguments are {', '.join(name for name, *_ in fields)}") from None
    return app(**{name: getattr(options, name) for name, *_ in fields})

"""backend.py: what a call enqueues beside its graph, and that nothing is left to compile in a call.

A stand-in for graphs launches what a graph would replay and is not watched meanwhile; all else is the backend's own, in
Triton's interpreter.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from distilrt.backends.base import create
from distilrt.backends.cuda import backend as cuda
from distilrt.backends.cuda import inputs, padded
from distilrt.backends.cuda.warm_up import warm_up
from distilrt.batch import pack
from distilrt.model import models
from distilrt.tasks.runner import compute
from distilrt.tasks.task import FIRST
from tests.backends.cuda.cuda_models import config_of, fresh, masked, weights_of

# Rows beyond the real ones are not defined, and the interpreter computes with whatever they hold.
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")
_KERNELS = ((cuda, "linear"), (cuda, "layer_norm"), (cuda, "gather"), (padded, "unpack"), (inputs, "pack"))
_NO_LAUNCH = (
    "view",
    "empty",
    "slice",
    "select",
    "as_strided",
    "detach",
    "expand",
    "numpy",
    "alias",
    "unsqueeze",
    "lift",
)


class Watch(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts our kernels and torch's that a call enqueues; a graph counts as one, whatever it has in it."""

    def __init__(self, backend: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.found: Counter[str] = Counter()
        self._backend, self._replaying = backend, False
        for module, name in _KERNELS:
            plain = getattr(module, name)

            def launcher(*args: Any, plain: Any = plain, name: str = name, **options: Any) -> None:
                self._in(name, lambda: plain(*args, **options))

            monkeypatch.setattr(module, name, launcher)
        monkeypatch.setattr(backend, "_graphs", self)

    def __contains__(self, key: Any) -> bool:
        return True

    def replay(self, key: Any) -> Any:
        return self._in("graph", lambda: self._backend._launch(key))

    def _in(self, name: str, work: Any) -> Any:
        if self._replaying:
            return work()
        self.found[name] += 1
        self._replaying = True
        try:
            return work()
        finally:
            self._replaying = False

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = function.overloadpacket.__name__
        if not (self._replaying or any(word in name for word in _NO_LAUNCH)):
            self.found[name] += 1
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize(
    "architecture",
    ["DistilBertForSequenceClassification", "DistilBertForTokenClassification", "DistilBertForMultipleChoice"],
)
def test_a_batch_of_the_host_takes_one_graph(architecture: str, monkeypatch: pytest.MonkeyPatch) -> None:
    config = config_of(n_layers=1)
    rng = fresh()
    weights = weights_of(config, architecture, rng)
    model: Any = getattr(models, architecture)(config, weights, backend="cuda")
    ids = rng.integers(0, 61, (1, 2, 5) if architecture == "DistilBertForMultipleChoice" else (1, 5))
    expected = model(ids).logits
    with Watch(model.backend, monkeypatch) as watch:
        logits = model(ids).logits
    assert watch.found == {"graph": 1}
    np.testing.assert_array_equal(logits, expected)


def test_tasks_take_the_same_road(monkeypatch: pytest.MonkeyPatch) -> None:
    """In parts too: one graph for each, with the copies in it; more of them than there is pinned memory for."""
    config = config_of(n_layers=1, max_position_embeddings=20)
    rng = fresh()
    weights = weights_of(config, "DistilBertForSequenceClassification", rng)
    model: Any = models.DistilBertForSequenceClassification(config, weights, backend="cuda")
    exact: Any = models.DistilBertForSequenceClassification(config, weights, backend="reference", dtype="float64")
    model.backend.encoder.buckets = model.backend.encoder.buckets[:1]  # 16 tokens
    sequences = [rng.integers(0, 61, n).tolist() for n in (9, 6, 10, 16, 16)]
    with Watch(model.backend, monkeypatch) as watch:
        found = compute(model, sequences, [FIRST] * 5)
    assert watch.found == {"graph": 4}
    for ours, ids in zip(found, sequences, strict=True):
        wanted = exact([ids]).logits
        assert np.abs(ours - wanted).max() <= 1e-5 * np.abs(wanted).max()


def test_a_batch_on_the_device_takes_no_head_behind_the_graph(monkeypatch: pytest.MonkeyPatch) -> None:
    """Packing, the graph, the result's copy; NaN where values were wrong, and the news of that."""
    config = config_of(n_layers=1)
    model: Any = models.DistilBertForSequenceClassification(config, backend="cuda")
    ids = torch.arange(10).reshape(2, 5)
    expected = model(ids).logits
    with Watch(model.backend, monkeypatch) as watch:
        logits = model(ids).logits
    assert watch.found == {"pack": 1, "graph": 1, "_to_copy": 1, "ne": 1, "masked_fill_": 1, "copy_": 1}
    assert torch.equal(logits, expected)


@pytest.mark.parametrize("pdl", [False, True])
def test_every_kernel_of_a_captured_head_may_start_early(pdl: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the device has dependent launch; what comes before each is a kernel of ours."""
    model: Any = models.DistilBertForSequenceClassification(config_of(n_layers=1), backend="cuda")
    backend, options = model.backend, list[bool]()
    monkeypatch.setattr(backend.encoder, "pdl", pdl)
    monkeypatch.setattr(backend.encoder, "launch", lambda bucket, **_: backend.encoder.buffers[bucket].few)
    monkeypatch.setattr(cuda, "linear", lambda *_, pdl, **__: options.append(pdl))
    backend._launch((backend.encoder.buckets[0], True, None))
    assert options == [pdl, pdl]


def test_rows_for_which_the_head_was_not_captured_go_behind_the_encoder() -> None:
    config = config_of(n_layers=1)
    rng = fresh()
    weights = weights_of(config, "DistilBertForTokenClassification", rng)
    model: Any = models.DistilBertForTokenClassification(config, weights, backend="cuda")
    ids = rng.integers(0, 61, (2, 7))
    batch, wanted, backend = pack(config, list(ids)), np.array([0, 4]), model.backend
    every = backend.answer(batch)
    assert every.shape == (14, 2)
    np.testing.assert_array_equal(backend.answer(batch, wanted), every[wanted])
    np.testing.assert_array_equal(model.distilbert(ids)[0], backend.to_numpy(backend.forward(batch)).reshape(2, 7, 36))
    assert torch.equal(model.distilbert(torch.from_numpy(ids))[0], torch.from_numpy(model.distilbert(ids)[0]))
    assert backend.answer(pack(config, [])).shape == (0, 2)


@pytest.mark.whole
@pytest.mark.parametrize("architecture", ["DistilBertModel", "DistilBertForMaskedLM"])
def test_every_kind_of_input_was_met_at_load(architecture: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """No call gives `pack` a kind of tensor that the warm-up did not: each would wait for a compiler."""
    config = config_of(n_layers=1, max_position_embeddings=16)
    rng = fresh()
    model: Any = getattr(models, architecture)(config, weights_of(config, architecture, rng), backend="cuda")
    backend = model.backend
    backend.encoder.buckets = backend.encoder.buckets[:1]
    kinds: set[Any] = set()
    plain: Any = vars(inputs)["pack"]

    def spy(*args: Any, **options: Any) -> None:
        names = ("padded_ids", "attention_mask", "padded_positions")
        kinds.add((options["keep_first"], *(getattr(options[name], "dtype", None) for name in names)))
        plain(*args, **options)

    monkeypatch.setattr(inputs, "pack", spy)
    warm_up(backend)
    met = set(kinds)
    mask = masked(rng, 2, 6)
    ids, grid = torch.from_numpy(rng.integers(0, 61, mask.shape)), torch.from_numpy(mask)
    expected = model(ids, grid)[0]
    for dtype in (torch.bool, torch.uint8, torch.int8, torch.int32, torch.float16, torch.float64):
        assert torch.equal(model(ids.int(), grid.to(dtype))[0], expected)
    for dtype in (torch.int16, torch.int32, torch.int64):
        assert torch.equal(model(ids, grid, position_ids=torch.arange(6, dtype=dtype))[0], expected)
    model(None, grid, torch.zeros(2, 6, 36, dtype=torch.bfloat16))
    if architecture == "DistilBertModel":
        model.first_hidden_state(ids, grid)
    assert kinds == met


def test_without_a_batch_nothing_is_asked() -> None:
    backend: Any = create("cuda", config_of(n_layers=1), weights_of(config_of(n_layers=1), "DistilBertModel", fresh()))
    assert backend.answer(pack(config_of(), []), np.zeros(0, np.int64)).shape == (0, 36)

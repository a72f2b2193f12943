"""engine/backends/cuda/backend.py and device_encoder.py: the GPU backend's own launches, under Triton's interpreter.

Every kernel, buffer and branch is that of a GPU but for graphs, streams and pinned memory, which are left to
`benches/gpu_hour.py`. Shapes are tiny, for the interpreter takes milliseconds for each row.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from distilrt.backends.base import create
from distilrt.backends.cuda import backend as cuda
from distilrt.backends.cuda import encoder as device_encoder
from distilrt.batch import PaddedInputs, pack
from distilrt.model import models
from distilrt.model.config import ACTIVATIONS
from distilrt.model.heads import HEADS
from distilrt.tasks.runner import compute
from distilrt.tasks.task import ALL, FIRST
from tests.backends.cuda.cuda_models import config_of, errors_of, fresh, masked, weights_of

# Rows beyond the real ones are not defined, and the interpreter computes with whatever they hold.
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")


@pytest.fixture
def rows_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Products in the interpreter round a row in one way wherever it lies in a tile, as tensor cores do.

    NumPy's BLAS for AVX2 rounds it by its place.
    """

    def matmul(a: Any, b: Any, dtype: Any) -> Any:
        return np.einsum("...ik,...kj->...ij", a.astype(dtype), b.astype(dtype))

    monkeypatch.setattr(np, "matmul", matmul)


@pytest.mark.parametrize("architecture", HEADS)
def test_every_head_on_both_roads(architecture: str) -> None:
    """Packed on the host and packed on the device, against the reference in float64; heads 18 and 9 wide."""
    rng, index = fresh(), list(HEADS).index(architecture)
    shape = {"n_layers": 1 + index % 2, "n_heads": 2 + 2 * (index % 2)}
    config = config_of(activation=ACTIVATIONS[index % 5], num_labels=2, **shape)
    weights = weights_of(config, architecture, rng)
    model_class: Any = getattr(models, architecture)
    mask = masked(rng, 4, 6)
    mask[3] = 0
    ids = rng.integers(0, config.vocab_size, mask.shape)
    if HEADS[architecture].has_choices:
        ids, mask = ids.reshape(2, 2, 6), mask.reshape(2, 2, 6)
    exact = model_class(config, weights, backend="reference", dtype="float64")(ids, mask, output_hidden_states=True)
    model = model_class(config, weights, backend="cuda")
    from_host = model(ids, mask, output_hidden_states=True)
    on_device = model(torch.from_numpy(ids), torch.from_numpy(mask), output_hidden_states=True)
    for out in (from_host, on_device):
        for name, (error, size) in errors_of(out, exact).items():
            assert error <= 1e-5 * size, name
        for states in out.hidden_states:
            assert not states[mask.reshape(4, -1) == 0].any()
    assert all(isinstance(value, torch.Tensor) and value.dtype == torch.float32 for value in on_device.hidden_states)
    plain = model(torch.from_numpy(ids), torch.from_numpy(mask))[0].numpy(), model(ids, mask)[0]
    for alone, beside in zip(plain, (on_device[0].numpy(), from_host[0]), strict=True):
        if HEADS[architecture].reads == "first":  # the last layer of first rows alone is computed in other tiles
            assert np.abs(alone - exact[0]).max() <= 1e-5 * np.abs(exact[0]).max()
        else:
            np.testing.assert_array_equal(alone, beside)  # whether or not the layers are returned


@pytest.mark.usefixtures("rows_alone")
def test_lengths_in_one_batch_and_no_stale_numbers() -> None:
    """Odd lengths beside each other; the workspace holds NaN before, and batch mates do not matter to the bit."""
    rng = fresh()
    config = config_of(n_layers=1, max_position_embeddings=70)
    weights = weights_of(config, "DistilBertModel", rng)
    first = rng.integers(0, 61, 33)
    batch = pack(config, [first, *(rng.integers(0, 61, n) for n in (1, 2, 31, 32))])
    exact = create("reference", config, weights, dtype="float64").forward(batch, all_layers=True)
    backend: Any = create("cuda", config, weights)
    backend.encoder.workspace.fill(255)
    every = backend.to_numpy(backend.forward(batch, all_layers=True))
    assert np.abs(every - exact).max() <= 1e-5 * np.abs(exact).max()
    backend.encoder.workspace.fill(255)
    others = pack(config, [rng.integers(0, 61, 63), first, rng.integers(0, 61, 3)])  # 99 tokens: the same bucket
    last = backend.to_numpy(backend.forward(others))
    np.testing.assert_array_equal(last[63:96], every[-1][:33])


@pytest.mark.usefixtures("rows_alone")
@pytest.mark.parametrize("n_layers", [1, pytest.param(2, marks=pytest.mark.whole)])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_wanted_rows(n_layers: int, dtype: str) -> None:
    """Few of them go through a last layer of their own: as near as all rows, and batch mates matter as little. More are
    taken out of all, to the bit."""
    config = config_of(n_layers=n_layers)
    rng = fresh()
    weights = weights_of(config, "DistilBertModel", rng)
    backend: Any = create("cuda", config, weights, dtype=dtype)
    sequences = [rng.integers(0, 61, n) for n in (5, 1, 9)]
    batch = pack(config, sequences)
    exact = create("reference", config, weights, dtype="float64").forward(batch)
    every = backend.to_numpy(backend.forward(batch))
    bound = max(1e-5 * np.abs(exact).max(), 2 * np.abs(every - exact).max() if dtype == "bfloat16" else 0)
    for wanted in ([0, 5, 6], [2, 3, 4, 13], [], [0, 1, 2, 3, 14]):
        backend.encoder.workspace.fill(255)
        rows = np.array(wanted, np.int64)
        found = backend.to_numpy(backend.forward(batch, wanted=rows))
        assert found.shape == (len(rows), 36)
        if len(rows) > 4:  # sequences of the smallest bucket
            np.testing.assert_array_equal(found, every[rows])
        else:
            assert np.abs(found - exact[rows]).max(initial=0) <= bound
    firsts = backend.to_numpy(backend.forward(batch, wanted=np.array([0, 5, 6])))
    others = backend.to_numpy(backend.forward(pack(config, [sequences[2], sequences[0][:2]]), wanted=np.array([0, 9])))
    np.testing.assert_array_equal(others[0], firsts[2])
    for bad in ([3, 3], [5, 2], [-1], [15]):
        with pytest.raises(ValueError, match="wanted rows must rise and be 0 to 14"):
            backend.forward(batch, wanted=np.array(bad))


def test_longer_batches_run_in_parts() -> None:
    """With a ladder of 32 tokens: parts of whole sequences, on both roads, for all rows, some, and all layers."""
    config = config_of(n_layers=1, max_position_embeddings=20)
    rng = fresh()
    weights = weights_of(config, "DistilBertForSequenceClassification", rng)
    classifier: Any = models.DistilBertForSequenceClassification(config, weights, backend="cuda")
    encoder: Any = models.DistilBertModel(config, weights, backend="cuda")
    for model in (classifier, encoder):
        model.backend.encoder.buckets = model.backend.encoder.buckets[:2]
    mask = masked(rng, 4, 11)
    ids = rng.integers(0, 61, mask.shape)
    tensors = torch.from_numpy(ids), torch.from_numpy(mask)
    for model, states in ((classifier, False), (encoder, True)):
        made = type(model)(config, weights, backend="reference", dtype="float64")
        exact = made(ids, mask, output_hidden_states=states)
        for out in (model(ids, mask, output_hidden_states=states), model(*tensors, output_hidden_states=states)):
            for name, (error, size) in errors_of(out, exact).items():
                assert error <= 1e-5 * size, name
    # A sequence longer than the largest bucket once padded takes the road over the host.
    wide = torch.zeros(1, 40, dtype=torch.long)
    alone = torch.zeros_like(wide)
    alone[0, 3:9] = 1
    assert not encoder.backend.packs(PaddedInputs(wide, alone))
    assert encoder(wide, alone).last_hidden_state.shape == (1, 40, 36)


@pytest.mark.parametrize(
    ("dtype", "shape"), [(torch.float32, (2, 7)), (torch.bfloat16, (1, 7)), (torch.float64, (7,))], ids=str
)
def test_positions_and_embeddings(dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    config = config_of(n_layers=1)
    rng = fresh()
    weights = weights_of(config, "DistilBertModel", rng)
    model: Any = models.DistilBertModel(config, weights, backend="cuda")
    exact: Any = models.DistilBertModel(config, weights, backend="reference", dtype="float64")
    mask = masked(rng, 2, 7)
    embeds = torch.from_numpy(rng.normal(size=(2, 7, 36))).to(dtype).requires_grad_()
    positions = rng.integers(0, 40, shape)
    wanted = exact(None, mask, embeds.detach().float().numpy(), positions).last_hidden_state
    tensors = None, torch.from_numpy(mask), embeds, torch.from_numpy(positions)
    found = model(*tensors).last_hidden_state
    assert np.abs(found.numpy() - wanted).max() <= 1e-5 * np.abs(wanted).max()
    assert not found.requires_grad
    from_host = model(None, mask, embeds.detach().float().numpy(), positions).last_hidden_state
    assert np.abs(from_host - wanted).max() <= 1e-5 * np.abs(wanted).max()


def test_labels_and_attentions_take_the_road_over_the_host() -> None:
    config = config_of(n_layers=1)
    rng = fresh()
    weights = weights_of(config, "DistilBertForQuestionAnswering", rng)
    model: Any = models.DistilBertForQuestionAnswering(config, weights, backend="cuda")
    exact: Any = models.DistilBertForQuestionAnswering(config, weights, backend="reference", dtype="float64")
    mask = masked(rng, 3, 7)
    inputs = {"input_ids": rng.integers(0, 61, mask.shape), "attention_mask": mask,
              "start_positions": np.array([0, 3, 2]), "end_positions": np.array([1, 6, 4])}  # fmt: skip
    wanted = exact(**inputs, output_attentions=True)
    found = model(**{name: torch.from_numpy(array) for name, array in inputs.items()}, output_attentions=True)
    assert list(found) == list(wanted)
    assert isinstance(found.start_logits, torch.Tensor)
    assert float(found.loss) == pytest.approx(float(wanted.loss), rel=1e-5)
    for ours, theirs in zip(found.attentions, wanted.attentions, strict=True):
        assert np.abs(ours.numpy() - theirs).max() <= 1e-5


def test_tasks_take_arrays_from_it() -> None:
    config = config_of(num_labels=3)
    rng = fresh()
    weights = weights_of(config, "DistilBertForSequenceClassification", rng)
    outputs = []
    for backend in ("cuda", "cpu"):
        model: Any = models.DistilBertForSequenceClassification(config, weights, backend=backend)
        outputs.append(compute(model, [[1, 2, 3], [4, 5]], [FIRST, ALL]))
    for ours, theirs in zip(*outputs, strict=True):
        assert isinstance(ours, np.ndarray)
        assert np.abs(ours - theirs).max() <= 1e-5 * np.abs(theirs).max()


def test_device_and_edges_of_models() -> None:
    config = config_of(n_layers=1)
    model: Any = models.DistilBertForTokenClassification(config, backend="cuda")
    assert (model.backend.name, model.device, model.dtype) == ("cuda", "cpu", "float32")
    model.backend.device = "cuda:1"  # what torch calls a second GPU
    assert model.to("cuda") is model.to("cuda:1") is model
    with pytest.raises(ValueError, match=r"'cuda:1'.*can't be moved to 'cuda:0'"):
        model.to("cuda:0")
    for empty in (np.zeros((0, 5), np.int64), torch.zeros((0, 5), dtype=torch.long)):
        out = model(empty, output_hidden_states=True)
        assert out.logits.shape == (0, 5, 2)
        assert [state.shape for state in out.hidden_states] == [(0, 5, 36)] * 2


def test_nothing_of_the_native_extension_is_needed() -> None:
    for module in (cuda, device_encoder):
        assert "_C" not in vars(module)

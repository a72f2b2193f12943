"""csrc/batch_attention.*: any strides, any mask, any thread count, beside NumPy in float64 and torch's sdpa."""

from __future__ import annotations

import multiprocessing
import threading
from typing import Any

import numpy as np
import pytest
import torch

from distilrt import _C

SHAPES = [  # batch_size, num_heads, queries, keys, head_dim
    (1, 1, 1, 1, 1),
    (2, 3, 7, 7, 16),
    (3, 2, 1, 65, 64),
    (1, 4, 130, 127, 32),
    (2, 1, 63, 2, 18),
    (1, 2, 49, 512, 100),
    (2, 2, 5, 33, 129),
]


def _exact(arrays: Any, mask: Any, scale: float, dtype: Any = float) -> Any:
    q, k, v = (x.astype(dtype) for x in arrays)
    scores = dtype(scale) * (q @ k.swapaxes(2, 3))
    if mask is not None:
        scores = np.where(mask[:, None, None], scores, -np.inf)
    weights = np.exp(scores - scores.max(axis=3, keepdims=True))
    return (weights / weights.sum(axis=3, keepdims=True)) @ v


def _sdpa(tensors: Any, mask: Any, scale: float) -> torch.Tensor:
    bits = None if mask is None else torch.from_numpy(mask)[:, None, None]
    query, key, value = tensors
    return torch.nn.functional.scaled_dot_product_attention(query, key, value, bits, scale=scale)


def _run(arrays: Any, mask: Any, scale: float, **options: Any) -> Any:
    query, key, value = arrays
    out = np.full_like(query, 0xFFFF if query.dtype == np.uint16 else np.nan, order="C")
    _C.attention(query, key, value, out=out, scale=scale, key_mask=mask, **options)
    return out


def _masks(rng: Any, batch_size: int, keys: int) -> dict[str, Any]:
    lengths = rng.integers(1, keys + 1, (batch_size, 1))
    places = np.arange(keys)
    random = rng.random((batch_size, keys)) < 0.5
    random[np.arange(batch_size), rng.integers(0, keys, batch_size)] = True
    return {"none": None, "all": np.full((batch_size, keys), True), "right": places < lengths,
            "left": places[::-1] < lengths, "random": random}  # fmt: skip


@pytest.mark.parametrize("isa", _C.available_isas())
@pytest.mark.parametrize("shape", SHAPES)
def test_numbers(shape: tuple[int, ...], isa: str, rng: Any, assert_close: Any) -> None:
    batch_size, num_heads, queries, keys, head_dim = shape
    query = rng.standard_normal((batch_size, num_heads, queries, head_dim), np.float32)
    key, value = (rng.standard_normal((batch_size, num_heads, keys, head_dim), np.float32) for _ in range(2))
    scale = float(rng.uniform(0, 2)) * head_dim**-0.5
    for mask in _masks(rng, batch_size, keys).values():
        if mask is not None:  # what is masked may be anything
            value = np.where(mask[:, None, :, None], value, np.nan).astype(np.float32)
        found = _run((query, key, value), mask, scale, isa=isa, num_threads=2)
        value = np.nan_to_num(value)
        exact = _exact((query, key, value), mask, scale)
        # The plain result of few numbers may happen to be nearly exact; then the ulp of what is averaged counts.
        assert_close(found, exact, _exact((query, key, value), mask, scale, np.float32), np.abs(value).max())
        theirs = _sdpa([torch.from_numpy(x) for x in (query, key, value)], mask, scale)
        assert np.abs(found - theirs.numpy()).max() <= 1e-5 * np.abs(value).max()


@pytest.mark.parametrize("isa", _C.available_isas())
def test_strides(isa: str, rng: Any) -> None:
    """As models have them: heads side by side in one row, parts of a fused product, reversed and repeated rows."""
    batch_size, num_heads, rows, head_dim = 2, 3, 37, 20
    mask = _masks(rng, batch_size, rows)["random"]
    fused = rng.standard_normal((batch_size, rows, 3, num_heads, head_dim), np.float32)
    query, key, value = (fused[:, :, i].swapaxes(1, 2) for i in range(3))
    arrays: Any = [
        (query, key, value),
        (query, np.ascontiguousarray(key), value[:, :, ::-1]),
        (query[:, ::-1], np.broadcast_to(key[:1], key.shape), np.broadcast_to(value[:, :, :1], value.shape)),
        (query[:, :, ::2], key, value),
    ]
    for given in arrays:
        for bits in (None, mask):
            whole = [np.ascontiguousarray(x) for x in given]
            np.testing.assert_array_equal(
                _run(given, bits, 0.3, isa=isa), _run(whole, bits, 0.3, isa=isa, num_threads=3)
            )
    out = np.full((batch_size, rows, num_heads, head_dim), np.nan, np.float32)
    _C.attention(query, key, value, out=out.swapaxes(1, 2), scale=0.3, isa=isa)
    np.testing.assert_array_equal(out.swapaxes(1, 2), _run((query, key, value), None, 0.3, isa=isa))


@pytest.mark.parametrize("isa", [isa for isa in _C.available_isas() if "bfloat16" in _C.dtypes(isa)])
@pytest.mark.parametrize("head_dim", [17, 32, 64])
def test_bfloat16(isa: str, head_dim: int, rng: Any) -> None:
    """The root-mean-square error is at most twice that of torch's bfloat16 attention."""
    shape = (2, 70, 3, head_dim)
    tensors = [torch.from_numpy(rng.standard_normal(shape, np.float32)).bfloat16().transpose(1, 2) for _ in range(3)]
    arrays = [tensor.view(torch.int16).numpy().view(np.uint16) for tensor in tensors]
    for mask in _masks(rng, 2, 70).values():
        found = torch.from_numpy(_run(arrays, mask, 0.2, isa=isa, num_threads=2).view(np.int16)).view(torch.bfloat16)
        theirs = _sdpa(tensors, mask, 0.2)
        exact = _exact([tensor.float().numpy() for tensor in tensors], mask, 0.2)
        ours, plain = (float(np.sqrt(np.mean((x.float().numpy() - exact) ** 2))) for x in (found, theirs))
        assert ours <= 2 * plain
        odd = arrays[0][..., :-1] if head_dim % 2 else arrays[0]  # rows at odd places, of whole lanes
        whole = [np.ascontiguousarray(x) for x in (odd, arrays[1][..., : odd.shape[3]], arrays[2][..., : odd.shape[3]])]
        given = [odd, arrays[1][..., : odd.shape[3]], arrays[2][..., : odd.shape[3]]]
        np.testing.assert_array_equal(_run(given, mask, 0.2, isa=isa), _run(whole, mask, 0.2, isa=isa))


def test_neither_threads_nor_batch_mates_change_a_bit(rng: Any) -> None:
    query, key, value = (rng.standard_normal((3, 4, 150, 64), np.float32) for _ in range(3))
    mask = _masks(rng, 3, 150)["random"]
    alone = np.concatenate([_run([x[s : s + 1] for x in (query, key, value)], mask[s : s + 1], 0.125)
                            for s in range(3)])  # fmt: skip
    for threads in (1, 2, 5):
        np.testing.assert_array_equal(_run((query, key, value), mask, 0.125, num_threads=threads), alone)


def test_nothing_to_do(rng: Any) -> None:
    for shape in ((0, 2, 3, 16), (2, 0, 3, 16), (2, 2, 0, 16)):
        query = np.zeros(shape, np.float32)
        key = np.zeros((shape[0], shape[1], 4, 16), np.float32)
        assert _run((query, key, key), None, 1.0).shape == shape


def test_many_callers(rng: Any) -> None:
    calls = [[rng.standard_normal((2, 4, 60 + 20 * i, 64), np.float32) for _ in range(3)] for i in range(6)]
    expected = [_run(arrays, None, 0.125) for arrays in calls]
    failures: list[int] = []

    def call(i: int) -> None:
        for round_ in range(10):
            mine = (i + round_) % len(calls)
            if not np.array_equal(_run(calls[mine], None, 0.125, num_threads=1 + i % 3), expected[mine]):
                failures.append(i)

    threads = [threading.Thread(target=call, args=(i,)) for i in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not failures
    assert not any(thread.is_alive() for thread in threads)


def _answer_in_child(arrays: Any, queue: Any) -> None:
    queue.put(_run(arrays, None, 0.125, num_threads=2))


@pytest.mark.filterwarnings("ignore:This process.*multi-threaded:DeprecationWarning")
def test_fork_while_other_threads_compute(rng: Any) -> None:
    arrays = [rng.standard_normal((2, 4, 100, 64), np.float32) for _ in range(3)]
    expected = _run(arrays, None, 0.125, num_threads=2)
    stop = threading.Event()

    def call() -> None:
        while not stop.is_set():
            _run(arrays, None, 0.125, num_threads=2)

    threads = [threading.Thread(target=call) for _ in range(2)]
    for thread in threads:
        thread.start()
    context = multiprocessing.get_context("fork")
    try:
        for _ in range(4):
            queue = context.Queue()
            child = context.Process(target=_answer_in_child, args=(arrays, queue))
            child.start()
            np.testing.assert_array_equal(queue.get(timeout=60), expected)
            child.join(60)
    finally:
        stop.set()
        for thread in threads:
            thread.join()


X = np.zeros((2, 3, 5, 16), np.float32)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"query": X.astype(np.float64)}, "query must be float32, or bfloat16 as uint16, found float64"),
        ({"key": X.astype(np.float16)}, "key must be float32 like query, found float16"),
        ({"out": X.astype(np.float64)}, "out must be float32 like query"),
        ({"query": X[0]}, r"query must have shape \[batch_size, num_heads, queries, head_dim\], found \[3, 5, 16\]"),
        ({"key": X[:, :, :0]}, r"at least one key, found \[2, 3, 0, 16\]"),
        ({"key": np.broadcast_to(X[:1, :1, :1, :1], (1, 1, 2**56, 1))}, "at most 2147483647 keys, found"),
        ({"key": X[:1]}, r"key must have the shape \[batch_size, num_heads, keys, head_dim\] with query's sizes"),
        ({"value": X[:, :, :4]}, r"value must have the shape .*, found \[2, 3, 4, 16\]"),
        ({"out": X[:, :2].copy()}, r"out must have query's shape, found \[2, 2, 5, 16\]"),
        ({"value": np.zeros((2, 3, 16, 5), np.float32).swapaxes(2, 3)}, "value must be contiguous in its last dim"),
        ({"key_mask": np.ones((2, 4), bool)}, r"key_mask must have shape \[batch_size, keys\], found \[2, 4\]"),
        ({"key_mask": np.array([[True] * 5, [False] * 5])}, "key_mask row 1 is all False"),
        ({"scale": np.nan}, "scale must be finite and at least 0"),
        ({"scale": -1.0}, "scale must be finite and at least 0"),
        ({"num_threads": 0}, "num_threads must be 1 to 256"),
        ({"isa": "pentium"}, "instruction set 'pentium' is not available here"),
    ],
)
def test_errors(changes: dict[str, Any], message: str) -> None:
    arguments: Any = {"query": X, "key": X, "value": X, "out": X.copy(), "scale": 1.0} | changes
    with pytest.raises(ValueError, match=message):
        _C.attention(arguments.pop("query"), arguments.pop("key"), arguments.pop("value"), **arguments)


def test_read_only_out() -> None:
    out = X.copy()
    out.flags.writeable = False
    with pytest.raises(ValueError, match="out must be writeable"):
        _C.attention(X, X, X, out=out, scale=1.0)


def test_mask_of_another_dtype() -> None:
    mask: Any = np.ones((2, 5), np.int64)
    with pytest.raises(TypeError, match="incompatible function arguments"):
        _C.attention(X, X, X, out=X.copy(), scale=1.0, key_mask=mask)


def test_bfloat16_where_there_is_none() -> None:
    narrow = X.astype(np.uint16)
    with pytest.raises(ValueError, match="dtype 'bfloat16' is not available with instruction set 'generic'"):
        _C.attention(narrow, narrow, narrow, out=narrow.copy(), scale=1.0, isa="generic")

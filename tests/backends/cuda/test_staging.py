"""staging.py: what is written into pinned memory, and that calls of several threads never share it."""

from __future__ import annotations

import sys
import threading
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from distilrt import _C
from distilrt.backends.cuda.parts import divide
from distilrt.batch import pack
from distilrt.errors import BackendError
from distilrt.kernels.attention import query_blocks
from distilrt.model import models
from distilrt.tasks.runner import compute
from distilrt.tasks.task import FIRST
from tests.backends.cuda.cuda_models import config_of, fresh

CONFIG = config_of(n_layers=1, max_position_embeddings=16)


class Echo:
    """In place of graphs: the head's output is the first token id of each sequence."""

    def __contains__(self, key: Any) -> bool:
        return True

    def replay(self, key: Any) -> Any:
        _, _, staging = key
        staging.send()  # through the workspace, which is one for all calls
        buffers = staging._buffers
        firsts = buffers.input_ids[buffers.wanted[: int(buffers.wanted[-1])].long()]
        staging._scores[: len(firsts)] = firsts[:, None].float()
        return None, None


@pytest.fixture(scope="module")
def backend() -> Any:
    model: Any = models.DistilBertForSequenceClassification(CONFIG, backend="cuda")
    found = model.backend
    found.encoder.buckets = found.encoder.buckets[:2]
    found._graphs = Echo()
    return found


def test_threads_get_their_own_answers(backend: Any) -> None:
    """Batches of several parts, more than there is pinned memory for; nobody waits for ever."""
    wrong: list[Any] = []

    def use() -> None:
        rng = fresh()
        for _ in range(20):
            sequences = [rng.integers(0, 61, n).tolist() for n in rng.integers(1, 17, rng.integers(1, 20))]
            batch = pack(CONFIG, sequences)
            answer = backend.answer(batch, batch.cu_seqlens[:-1])
            if answer[:, 0].tolist() != [ids[0] for ids in sequences]:
                wrong.append((sequences, answer))

    threads = [threading.Thread(target=use, daemon=True) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not any(thread.is_alive() for thread in threads)
    assert not wrong


def test_memory_is_given_back_after_an_error(backend: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    batch = pack(CONFIG, [[number] * 16 for number in range(9)])
    with monkeypatch.context() as patched:
        patched.setattr(backend._turns, "turn", lambda *_: (_ for _ in ()).throw(BackendError("captured")))
        for _ in range(3):
            with pytest.raises(BackendError, match="captured"):
                backend.answer(batch, batch.cu_seqlens[:-1])
            with pytest.raises(BackendError, match="captured"):
                backend.forward(batch)
    assert backend.answer(batch, batch.cu_seqlens[:-1])[:, 0].tolist() == list(range(9))


@pytest.mark.parametrize("native", [True, False])
def test_integers_of_a_part(backend: Any, monkeypatch: pytest.MonkeyPatch, native: bool) -> None:
    """Nothing of what lay there before is left where kernels read, with the native extension and without."""
    if not native:
        for both in backend._stagings.values():
            monkeypatch.setattr(both[0], "_native", None)
    rng = fresh()
    for _ in range(30):
        batch = pack(CONFIG, [rng.integers(0, 61, n).tolist() for n in rng.integers(1, 17, rng.integers(1, 9))])
        rows = np.flatnonzero(rng.random(batch.total_tokens) < 0.3)
        for wanted in (None, rows):
            for part in divide(batch, wanted, backend.encoder.buckets, "cpu", few=True):
                staging, start = backend._stagings[part.bucket][0], part.rows.start
                staging.fill(part, batch, wanted)
                found, ends = staging._fields, batch.cu_seqlens[part.first : part.end + 1] - start
                room = part.bucket.seqs + 1 - len(ends)
                assert found["cu_seqlens"].tolist() == [*ends, *[ends[-1]] * room]
                assert found["key_lengths"][: len(ends) - 1].tolist() == np.diff(ends).tolist()
                blocks = query_blocks(ends.astype(np.int32), np.diff(ends), staging._buffers.block_rows)
                assert found["query_blocks"][0, 0] == blocks[0, 0]
                assert found["query_blocks"][1 : len(blocks)].tolist() == blocks[1:].tolist()
                for name in ("input_ids", "position_ids"):
                    assert found[name][: ends[-1]].tolist() == getattr(batch, name)[part.rows].tolist()
                if wanted is not None:
                    listed = (wanted[part.out] - start).tolist()
                    assert found["wanted" if part.few else "index"][: len(listed)].tolist() == listed
                    assert not part.few or found["wanted"][-1] == len(listed)


def test_native_memory_takes_nothing_that_does_not_fit() -> None:
    def zeros(*shape: int) -> Any:
        return np.zeros(shape, np.int32)

    fields = [zeros(3), zeros(2), zeros(3), zeros(4, 4), zeros(8), zeros(8), zeros(8)]
    memory = _C.BucketIntegers(*fields, block_rows=4)
    ends, keys, rows = np.array([0, 3, 8, 9], np.int32), np.array([2, 5, 1], np.int32), zeros(9)
    memory.fill(ends, keys, rows, rows, np.array([0, 4]), 0, 2, 0, 2, True)
    assert [field.tolist() for field in fields[:3]] == [[0, 3, 8], [2, 5], [0, 4, 2]]
    assert fields[3].tolist() == [[3, 0, 0, 0], [0, 0, 3, 2], [3, 0, 5, 5], [3, 4, 5, 5]]
    for arguments in (
        (ends, keys, rows, rows, None, 0, 3, 0, 0, True),  # more sequences than it has room for
        (ends, keys, rows, rows, None, 2, 4, 0, 0, True),  # sequences that the batch has not
        (ends, keys, rows, rows, None, -1, 1, 0, 0, True),
        (ends * 2, keys, zeros(18), None, None, 0, 2, 0, 0, True),  # more rows
        (ends, keys, rows[:5], None, None, 0, 2, 0, 0, True),  # rows that the batch has not
        (ends, keys, rows, rows[:5], None, 0, 2, 0, 0, True),
        (ends[::-1].copy(), keys, rows, rows, None, 0, 2, 0, 0, True),
        (ends, keys, rows, rows, np.arange(3), 0, 2, 0, 3, True),  # more wanted rows
        (ends, keys, rows, rows, np.arange(3), 0, 2, 0, 4, False),
        (np.array([0, 7, 8], np.int32), keys[:2], rows, rows, None, 0, 2, 0, 0, True, 1),  # more blocks
    ):
        narrow = _C.BucketIntegers(*fields, block_rows=1) if len(arguments) > 10 else memory
        with pytest.raises(ValueError, match=r"must be|must rise|too few"):
            narrow.fill(*arguments[:10])
    with pytest.raises(ValueError, match="do not fit one another"):
        _C.BucketIntegers(*fields[1:], zeros(8), block_rows=4)


def test_few_calls_a_batch(backend: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """From token ids to the head's output the host makes as many calls for four sequences as for two, and not many."""
    model: Any = SimpleNamespace(config=CONFIG, backend=backend)
    monkeypatch.setattr(backend, "_graphs", None)
    monkeypatch.setattr(backend, "_launch", lambda *_: (None, None))
    few, many = (_calls_of(model, number) for number in (2, 4))
    assert few == many < 70


def _calls_of(model: Any, batch_size: int) -> int:
    calls, before = 0, sys.getprofile()
    ids, rows = [[1, 2, 3]] * batch_size, [FIRST] * batch_size

    def count(frame: Any, event: str, _: Any) -> None:
        nonlocal calls
        calls += event in ("call", "c_call")

    sys.setprofile(count)
    try:
        compute(model, ids, rows)
    finally:
        sys.setprofile(before)
    return calls

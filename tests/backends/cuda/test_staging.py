"""staging.py: what is written into pinned memory, and that calls of several threads never share it."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest

from distilrt.backends.cuda.parts import divide
from distilrt.batch import pack
from distilrt.errors import BackendError
from distilrt.model import models
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
        patched.setattr(backend._turns, "turn", lambda _: (_ for _ in ()).throw(BackendError("captured")))
        for _ in range(3):
            with pytest.raises(BackendError, match="captured"):
                backend.answer(batch, batch.cu_seqlens[:-1])
            with pytest.raises(BackendError, match="captured"):
                backend.forward(batch)
    assert backend.answer(batch, batch.cu_seqlens[:-1])[:, 0].tolist() == list(range(9))


def test_integers_of_a_part(backend: Any) -> None:
    """Nothing of what lay there before is left where kernels read."""
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
                for name in ("input_ids", "position_ids"):
                    assert found[name][: ends[-1]].tolist() == getattr(batch, name)[part.rows].tolist()
                if wanted is not None:
                    listed = (wanted[part.out] - start).tolist()
                    assert found["wanted" if part.few else "index"][: len(listed)].tolist() == listed
                    assert not part.few or found["wanted"][-1] == len(listed)

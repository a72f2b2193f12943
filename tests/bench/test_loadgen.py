"""The load generator beside MLPerf's own, mlcommons-loadgen, on one engine: `make test-whole` installs it."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("mlperf_loadgen", reason="pip install mlcommons-loadgen")

from benches import loadgen


@pytest.mark.whole
def test_both_find_the_same(sentence_encoder: Path) -> None:
    """Relative to the noise of the run itself: it fails where they differ by more than a tenth for certain."""
    assert loadgen.compare(str(sentence_encoder), "1x32", 0.7, 8, 0.1, 1, lambda words, seconds: None) == []

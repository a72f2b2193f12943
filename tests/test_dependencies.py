"""What each extra installs, by what installed packages say of themselves: none brings torch but those that need it."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, metadata, requires

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

WITH_TORCH = {"torch", "cuda", "distill", "bench-peers", "test"}
WITH_TENSORFLOW = {"tensorflow"}
EXTRAS = ["", *(metadata("distilrt").get_all("Provides-Extra") or [])]


def required(name: str, extra: str, seen: set[tuple[str, str]]) -> Iterator[str]:
    """The packages that an extra of a package needs, and what they need in turn; "" is the package without an extra."""
    if (name, extra) in seen:
        return
    seen.add((name, extra))
    try:
        wanted = [Requirement(text) for text in requires(name) or []]
    except PackageNotFoundError:  # so that what it needs is not known here
        wanted = []
    for one in wanted:
        if one.marker is None or one.marker.evaluate({"extra": extra}):
            found = canonicalize_name(one.name)
            yield found
            for inner in ("", *one.extras):
                yield from required(found, inner, seen)


@pytest.mark.parametrize("extra", EXTRAS)
def test_torch_and_tensorflow(extra: str) -> None:
    found = {*required("distilrt", "", set()), *required("distilrt", extra, set())}
    assert {"numpy", "safetensors", "tokenizers", "huggingface-hub"} <= found
    assert ("torch" in found) == (extra in WITH_TORCH)
    assert ("tensorflow" in found) == (extra in WITH_TENSORFLOW)

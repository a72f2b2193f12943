"""`distilrt bench --target URL` on `distilrt serve`, in every format that both speak, from the command to its rows."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from distilrt.__main__ import main
from distilrt.bench.findings import Findings
from tests.bench.conftest import read
from tests.serving import serving


@pytest.fixture(scope="module")
def served(classifier: str, sentence_encoder: Path) -> Iterator[dict[str, tuple[str, str]]]:
    """Folder and URL of two models; the names that their servers know them by are the keys."""
    folders = {"classifier": classifier, "org/encoder": str(sentence_encoder)}
    with ExitStack() as stack:
        yield {
            name: (folder, f"http://{stack.enter_context(serving({name: folder}, '--threads', '1'))[1]}")
            for name, folder in folders.items()
        }


def bench(served: tuple[str, str], tmp_path: Path, *arguments: str, below: str = "") -> tuple[Findings, int]:
    folder, url = served
    file = tmp_path / "out.json"
    with pytest.raises(SystemExit) as stop:
        main(["bench", "--model", folder, "--target", url + below, "--workload", "queries", "--duration", "0.1",
                  "--count", "4", "--json", str(file), *arguments])  # fmt: skip
    return read(file), int(stop.value.code or 0)


SERVER, MULTI, OFFLINE = ["server", "--rate", "50"], ["multi"], ["offline"]
CASES = [
    ("classifier", "hf", "/models/classifier", SERVER), ("classifier", "hf", "", MULTI),
    ("classifier", "hf", "", OFFLINE), ("org/encoder", "hf", "", OFFLINE), ("org/encoder", "openai", "", SERVER),
    ("org/encoder", "openai", "", MULTI),
]  # fmt: skip


@pytest.mark.parametrize(("name", "form", "below", "scenario"), CASES)
def test_formats(
    served: dict[str, tuple[str, str]], tmp_path: Path, name: str, form: str, below: str, scenario: list[str]
) -> None:
    found, code = bench(served[name], tmp_path, "--format", form, "--served-model", name, "--scenario", *scenario,
                        below=below)  # fmt: skip
    assert found.left_out == []
    (row,) = found.rows
    assert code == 0
    assert row["max_difference"] < 1e-3
    assert row["cosine"] > 0.999
    assert row["agreement"] == (1 if name == "classifier" else None)
    assert row["failed"] == 0
    assert row["queries"] >= (4 if scenario[0] != "offline" else 1)


def test_peak(served: dict[str, tuple[str, str]], tmp_path: Path) -> None:
    """Any rate will do: what it is depends on the machine."""
    found, _ = bench(served["classifier"], tmp_path, "--scenario", "peak", "--slo", "p90=10s", "--in-flight", "4")
    (row,) = found.rows
    assert min(row["saturated_per_s"], row["rate"], row["p99_ms"]) > 0
    assert (row["slo"], row["steady"], row["probes"][-1]["met"]) == ("p90=10000ms", True, True)


def test_a_server_of_another_model_gets_no_speed(
    served: dict[str, tuple[str, str]], classifier: str, tmp_path: Path
) -> None:
    """It refuses what is asked of a classifier, or does not know the model's name."""
    encoder = served["org/encoder"]
    for asked, words in (((classifier, encoder[1]), ()),
                         (encoder, ("--format", "openai", "--served-model", "nobody"))):  # fmt: skip
        found, code = bench(asked, tmp_path, *words)
        assert (found.rows, code) == ([], 1)
        assert "HTTP 4" in found.left_out[0]

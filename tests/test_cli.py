"""The command line: lines in and out, exit codes, errors of one line, and the tables of `info` and `verify`."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from distilrt import tasks, verification
from distilrt.__main__ import main
from distilrt.cli import app
from distilrt.faster_dtypes import faster_dtypes
from distilrt.isas import why_not_the_best
from distilrt.model import models
from distilrt.model.config import DistilBertConfig
from distilrt.text.tokenizer import DistilBertTokenizer

COMMAND = (sys.executable, "-m", "distilrt")
LINES = [f"{'very ' * (i % 7)}good {i}" for i in range(40)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, sentence_encoder: Path) -> str:
    """A tiny text classifier with a real vocabulary."""
    target = tmp_path_factory.mktemp("classifier")
    config = DistilBertConfig(dim=32, n_heads=2, n_layers=1, hidden_dim=64, max_position_embeddings=64)
    models.DistilBertForSequenceClassification(config).save_pretrained(target)
    DistilBertTokenizer.from_pretrained(sentence_encoder, model_max_length=64).save_pretrained(target)
    return str(target)


@pytest.fixture
def expected(folder: str) -> list[Any]:
    """The answers to LINES."""
    model = models.DistilBertForSequenceClassification.from_pretrained(folder)
    tokenizer = DistilBertTokenizer.from_pretrained(folder)
    return list(tasks.run(model, tasks.find("text-classification")(tokenizer, model.config), LINES, max_tokens=1))


def invoke(*arguments: str, given: str | bytes | None = None) -> Any:
    """A command in this process."""
    return CliRunner().invoke(app(), arguments, input=given, catch_exceptions=False)


def objects(text: str | bytes) -> list[Any]:
    """JSON lines, and nothing else."""
    return [json.loads(line) for line in text.splitlines()]


def assert_answers(found: list[Any], expected: list[Any]) -> None:
    assert [answer["label"] for answer in found] == [answer["label"] for answer in expected]
    assert [answer["score"] for answer in found] == pytest.approx([answer["score"] for answer in expected], abs=1e-6)


def test_texts_as_arguments(folder: str, expected: list[Any]) -> None:
    done = subprocess.run([*COMMAND, "run", "text-classification", "-m", folder, *LINES], capture_output=True)
    assert (done.returncode, done.stderr) == (0, b"")
    assert_answers(objects(done.stdout), expected)


@pytest.mark.parametrize("max_tokens", ["1", "64", "4096"])
def test_lines_from_stdin_are_answered_in_order(folder: str, expected: list[Any], max_tokens: str) -> None:
    kinds: list[Any] = [str, json.dumps, lambda line: json.dumps({"text": line})]
    given = "\n".join(kinds[i % 3](line) for i, line in enumerate(LINES))
    arguments = ["run", "sentiment-analysis", "--model", folder, "--max-tokens", max_tokens]
    done = subprocess.run([*COMMAND, *arguments], input=given.encode(), capture_output=True)
    assert (done.returncode, done.stderr) == (0, b"")
    assert_answers(objects(done.stdout), expected)


def test_bad_lines_are_answered_with_errors(folder: str, expected: list[Any]) -> None:
    bad = [b'{"txt": "a"}', b"[1]", b"null", b"\xff\xfe", b"long " * 100, b'{"text": 7}', b'"\\ud800"']
    given = b"\n".join(line for pair in zip(map(str.encode, LINES), bad, strict=False) for line in pair)
    done = subprocess.run([*COMMAND, "run", "text-classification", "-m", folder], input=given, capture_output=True)
    answers = objects(done.stdout)
    assert (done.returncode, done.stderr) == (1, b"")
    assert_answers(answers[::2], expected[: len(bad)])
    errors = answers[1::2]
    assert [error["line"] for error in errors] == list(range(2, 2 * len(bad) + 1, 2))
    words = [
        "'text' is missing",
        "found list",
        "found NoneType",
        "found bytes",
        "ask for truncation",
        "found int",
        "half",
    ]
    for error, word in zip(errors, words, strict=True):
        assert list(error) == ["error", "line"]
        assert word in error["error"]


def test_numbers_empty_lines_and_broken_json_are_texts(folder: str) -> None:
    given = "42\n\ntrue\n{'text'\r\nnaïve 東京\n"
    texts = ["42", "", "true", "{'text'", "naïve 東京"]
    result = invoke("run", "text-classification", "-m", folder, given=given)
    assert objects(result.stdout) == objects(
        invoke("run", "text-classification", "-m", folder, "--", *map(json.dumps, texts)).stdout
    )
    assert len(objects(result.stdout)) == len(texts)


def test_files(folder: str, expected: list[Any], tmp_path: Path) -> None:
    source, target = tmp_path / "in.txt", tmp_path / "out.jsonl"
    source.write_text("\n".join(LINES))
    result = invoke("run", "text-classification", "-m", folder, "-i", str(source), "-o", str(target))
    assert (result.exit_code, result.stdout) == (0, "")
    assert_answers(objects(target.read_bytes()), expected)
    with pytest.raises(ValueError, match="one of text-classification"):
        invoke("run", "translation", "-m", folder, "-i", str(source), "-o", str(target))
    assert_answers(objects(target.read_bytes()), expected)
    same = invoke("run", "text-classification", "-m", folder, "-i", str(source), "-o", str(source))
    assert (same.exit_code, source.read_text()) == (2, "\n".join(LINES))


def test_parameters(folder: str) -> None:
    options = ["-p", "top_k=2", "--param", "function_to_apply=sigmoid", "--threads", "1", "--backend", "reference"]
    result = invoke("run", "text-classification", "-m", folder, *options, LINES[0])
    [answer] = objects(result.stdout)
    assert sorted(label["label"] for label in answer) == ["LABEL_0", "LABEL_1"]
    assert sum(label["score"] for label in answer) != pytest.approx(1, abs=1e-6)


def test_input_is_read_only_as_far_as_answers_are_taken(folder: str) -> None:
    arguments = [*COMMAND, "run", "text-classification", "-m", folder, "--max-tokens", "64"]
    with (
        subprocess.Popen(["yes"], stdout=subprocess.PIPE) as endless,
        subprocess.Popen(arguments, stdin=endless.stdout, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as command,
    ):
        assert command.stdout is not None
        assert command.stderr is not None
        assert "label" in json.loads(command.stdout.readline())
        command.stdout.close()
        assert command.wait(60) == 1
        assert command.stderr.read() == b""
        endless.kill()


REFUSED = [
    (["run", "text-classification", "-m", "./nowhere", "a"], "folder './nowhere' does not exist"),
    (["run", "translation", "-m", "MODEL", "a"], "task must be one of"),
    (["run", "fill-mask", "-m", "MODEL", "a"], "lacks tensors that DistilBertForMaskedLM needs"),
    (["run", "text-classification", "-m", "MODEL", "-p", "topk=1", "a"], "no parameter 'topk'"),
    (["run", "text-classification", "-m", "MODEL", "--dtype", "int3", "a"], "'int3'"),
    (["run", "text-classification", "-m", "MODEL", "--backend", "gpu", "a"], "backend must be one of"),
    (["run", "text-classification", "-m", "MODEL", "--max-tokens", "0", "a"], "max_tokens must be"),
    (["run", "text-classification", "-m", "MODEL", "-i", "./nowhere"], "nowhere"),
    (["run", "text-classification", "-m", "MODEL", "-p", "top_k", "a"], "KEY=JSON"),
    (["run", "text-classification", "-m", "MODEL", "-i", "x", "a"], "not both"),
    (["run", "text-classification", "a"], "--model"),
    (["info", "-m", "./nowhere"], "folder './nowhere' does not exist"),
    (["verify", "MODEL", "--texts", __file__ + ".none"], "No such file"),
    (["verify", "./nowhere"], "folder './nowhere' does not exist"),
    (["serve"], "serve"),
    (["bench"], "--model"),
    (["bench", "--model", "MODEL", "--scenario", "x"], "a scenario is one of"),
]


@pytest.mark.parametrize(("arguments", "message"), REFUSED, ids=[message for _, message in REFUSED])
def test_what_cannot_be_done_ends_with_a_message(
    folder: str, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    with pytest.raises(SystemExit) as stop:
        main([folder if argument == "MODEL" else argument for argument in arguments])
    printed = capsys.readouterr()
    assert (stop.value.code, printed.out) == (2, "")
    assert message in " ".join(printed.err.split())
    assert "Traceback" not in printed.err
    assert printed.err.startswith("Usage") or printed.err.count("\n") == 1


def test_a_fault_of_our_own_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def verify(model: str, **options: Any) -> None:
        raise ValueError("operands could not be broadcast")

    monkeypatch.setattr(verification, "verify", verify)
    with pytest.raises(ValueError, match="operands"):
        main(["verify", "m"])


def test_nothing_to_read(folder: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
    with pytest.raises(SystemExit, match="2"):
        main(["run", "text-classification", "-m", folder])
    assert "nothing to read" in capsys.readouterr().err


def test_without_typer() -> None:
    code = "import sys; sys.modules['typer'] = None; from distilrt.__main__ import main; main(['info'])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1
    assert "pip install 'distilrt[cli]'" in done.stderr


def test_info_of_an_instruction_set_that_is_not_here() -> None:
    environment = {**os.environ, "DISTILRT_FORCE_ISA": "sse9"}
    command = [sys.executable, "-m", "distilrt", "info"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert (done.returncode, done.stdout) == (2, "")
    assert re.fullmatch(
        r"distilrt: DISTILRT_FORCE_ISA: .*'sse9' is not available here; .* have .*generic\n", done.stderr
    )


def test_info(folder: str) -> None:
    facts = json.loads(invoke("info", "--json").stdout)
    assert list(facts) == ["versions", "cpu", "gpu", "backends"]
    assert facts["cpu"]["active_isa"] in facts["cpu"]["available_isas"]
    assert facts["cpu"]["why_not_a_better_isa"] == why_not_the_best(facts["cpu"]["active_isa"])
    assert facts["cpu"]["usable_cores"] >= 1
    assert facts["cpu"]["memory_nodes"] >= 1
    assert facts["backends"]["reference"] == ["float32", "float64"]
    assert "float32" in facts["backends"]["cpu"]

    facts = json.loads(invoke("info", "--json", "--model", folder, "--threads", "1").stdout)["model"]
    model = models.DistilBertForSequenceClassification.from_pretrained(folder)
    assert (facts["architecture"], facts["model_type"]) == (model.architecture, "distilbert")
    assert facts["parameters"] == model.num_parameters()
    assert facts["labels"] == ["LABEL_0", "LABEL_1"]
    assert (facts["backend"], facts["dtype"], facts["num_threads"], facts["hidden_size"]) == ("cpu", "float32", 1, 32)
    assert facts["packed_bytes"] > 0
    assert facts["workspace_bytes"] > 0
    assert facts["faster_dtypes"] == faster_dtypes(model.backend.describe())

    table = invoke("info", "--model", folder)
    assert table.exit_code == 0
    for words in ("active isa", "DistilBertForSequenceClassification", f"{facts['parameters']:,}"):
        assert words in table.stdout


@pytest.mark.parametrize("source", ["file", "stdin"])
def test_verify(folder: str, tmp_path: Path, source: str, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []
    verify = verification.verify

    def noted(model: str, *, texts: Any, **options: Any) -> Any:
        seen.extend(texts)
        return verify(model, texts=texts, **options)

    monkeypatch.setattr(verification, "verify", noted)
    texts = "The cat sat.\n\nIt snowed.\n"
    (tmp_path / "texts").write_text(texts)
    path = str(tmp_path / "texts") if source == "file" else "-"
    result = invoke("verify", folder, "--texts", path, given=texts)
    assert result.exit_code == 0
    assert seen == ["The cat sat.", "It snowed."]
    for words in ("logits", "hidden_states[1]", "ok: compared with transformers"):
        assert words in result.stdout


@dataclass(frozen=True)
class _Row:
    output: str
    max_abs_difference: float = 0.5
    relative: float = 0.25
    mean_abs_difference: float = 0.375
    cosine: float = 0.75
    bound: float = 0.125
    ok: bool = False


@dataclass(frozen=True)
class _Report:
    ok: bool
    rows: tuple[_Row, ...] = (_Row("logits"),)
    reference: str = "the oracle"
    agreement: float = 0.625
    other_tokens: tuple[str, ...] = ("Straße",)
    backend: dict[str, Any] = field(
        default_factory=lambda: {"dtype": "int8", "kept": ["layer.9.qkv"], "calibration": "a file"}
    )

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


@pytest.mark.parametrize("ok", [True, False])
def test_verify_says_what_verification_found(monkeypatch: pytest.MonkeyPatch, ok: bool) -> None:
    calls: list[Any] = []

    def verify(model: str, **options: Any) -> _Report:
        calls.append((model, options))
        return _Report(ok)

    monkeypatch.setattr(verification, "verify", verify)
    table, printed = invoke("verify", "m", "--backend", "cpu"), invoke("verify", "m", "--json", "--dtype", "float32")
    rest = {"texts": None, "against": None}
    assert calls == [
        ("m", {"backend": "cpu", "dtype": "auto", **rest}),
        ("m", {"backend": "auto", "dtype": "float32", **rest}),
    ]
    assert table.exit_code == printed.exit_code == (0 if ok else 1)
    for word in (
        "logits",
        "5.00e-01",
        "2.50e-01",
        "3.75e-01",
        "0.75000",
        "1.25e-01",
        "too far",
        "the oracle",
        "62.50%",
        "other token ids than AutoTokenizer's: 'Straße'",
    ):
        assert word in table.stdout
    for word in ("calibrated with a file", "kept in higher precision: layer.9.qkv"):
        assert word in table.stdout
    assert json.loads(printed.stdout) == json.loads(json.dumps(_Report(ok).to_dict()))


ODD = {"stdin": "run text-classification -m {} <&-", "stdout": "run text-classification -m {} good >&-"}


@pytest.mark.parametrize("closed", ODD)
def test_closed_streams(folder: str, closed: str) -> None:
    command = " ".join(COMMAND) + " " + ODD[closed].format(folder)
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.startswith(f"distilrt: {closed} is closed; give --")


def test_a_closed_stderr_moves_no_message_to_stdout() -> None:
    command = f"{' '.join(COMMAND)} info -m nowhere/to/be/found 2>&-"
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")


def test_a_reader_that_goes_away(folder: str) -> None:
    command = f"yes good | head -20000 | {' '.join(COMMAND)} run text-classification -m {folder} | head -1"
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True)
    assert "Traceback" not in done.stderr
    assert len(done.stdout.splitlines()) == 1


def test_a_locale_of_ascii(folder: str) -> None:
    done = subprocess.run(
        [*COMMAND, "info", "-m", folder],
        capture_output=True,
        env=os.environ | {"LC_ALL": "C", "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"},
    )
    assert (done.returncode, done.stderr) == (0, b"")


def test_an_interrupted_import() -> None:
    code = (
        "import sys, distilrt.__main__ as entry\n"
        "class Stop:\n"
        "    def find_spec(self, name, *rest):\n"
        "        if name == 'distilrt.cli': raise KeyboardInterrupt\n"
        "sys.meta_path.insert(0, Stop()); entry.main()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (130, "")

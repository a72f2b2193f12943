"""Whole distillations of a tiny teacher: what they write, that nothing interrupts them, and what they refuse."""

from __future__ import annotations

import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
import torch
import transformers

import distilrt
from distilrt.__main__ import main
from distilrt.distill.run import distil, out_of_memory
from distilrt.distill.settings import Settings
from distilrt.errors import BackendError, CheckpointError, InvalidInput, InvalidParameter

ROOT = Path(__file__).parents[2]
Make = Callable[..., Settings]
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}


def losses_of(settings: Settings) -> str:
    return (Path(settings.out) / "losses.jsonl").read_text()


def words_of(settings: Settings) -> list[str]:
    """The command line of these settings."""
    words = [sys.executable, "-m", "distilrt", "distill"]
    for name, value in asdict(settings).items():
        if name != "corpus" and value is not None and value is not False:
            words += [f"--{name.replace('_', '-')}", str(value)]
    return [*words, "--corpus", *settings.corpus]


@pytest.fixture(scope="module")
def whole(teacher: Path, corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """The settings of a run that nothing interrupted."""
    settings = Settings(
        teacher=str(teacher), corpus=[str(corpus)], out=str(tmp_path_factory.mktemp("whole") / "student"), length=32,
        batch_size=4, accumulation=2, epochs=1.0, save_every=3,
    )  # fmt: skip
    distil(settings)
    return settings


def test_the_folder_loads_everywhere(whole: Settings) -> None:
    folder = Path(whole.out)
    theirs = transformers.AutoModelForMaskedLM.from_pretrained(folder).eval()
    assert type(theirs).__name__ == "DistilBertForMaskedLM"
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    inputs = tokenizer(["The error of a [MASK] is small."], return_tensors="pt")
    inputs.pop("token_type_ids", None)
    ours = distilrt.DistilBertForMaskedLM.from_pretrained(folder, dtype="float32")
    with torch.no_grad():
        expected = theirs(**inputs).logits.numpy()
    np.testing.assert_allclose(ours(inputs["input_ids"].numpy()).logits, expected, atol=1e-4 * np.abs(expected).max())
    assert len(distilrt.pipeline("fill-mask", folder)("A [MASK].")) == 5
    assert not Path(f"{folder}.training").exists()
    rows = [json.loads(line) for line in losses_of(whole).splitlines()]
    assert [row["step"] for row in rows] == list(range(1, len(rows) + 1))
    assert len(rows) > 8
    card = (folder / "README.md").read_text()
    for part in ("| soft |", "| soft weight | 5.0 |", "| teacher ran on | distilrt, cpu ", "losses.svg"):
        assert part in card
    assert (folder / "losses.svg").read_text().startswith("<svg")


def test_steps_lower_the_loss(settings: Make) -> None:
    chosen = settings(epochs=3.0, learning_rate=3e-3)
    distil(chosen)
    rows = [json.loads(line) for line in losses_of(chosen).splitlines()]
    for name in ("loss", "hard"):
        first, last = (np.mean([row[name] for row in part]) for part in (rows[:8], rows[-8:]))
        assert last < 0.95 * first, name


def test_a_run_that_is_broken_off_goes_on_to_the_same_losses(whole: Settings, settings: Make) -> None:
    chosen = settings()

    def stop(row: dict[str, Any], steps: int) -> None:
        if row["step"] == 8:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        distil(chosen, stop)
    assert not Path(chosen.out).exists()
    taken: list[int] = []
    distil(replace(chosen, save_every=100), lambda row, steps: taken.append(row["step"]))
    assert taken[0] == 7
    assert losses_of(chosen) == losses_of(whole)
    one, two = (Path(each.out) / "model.safetensors" for each in (chosen, whole))
    assert one.read_bytes() == two.read_bytes()


@pytest.mark.whole
def test_a_killed_run_goes_on_to_the_same_losses(whole: Settings, settings: Make) -> None:
    chosen = settings()
    killed_at(chosen, 5)
    distil(chosen)
    assert losses_of(chosen) == losses_of(whole)


def killed_at(settings: Settings, step: int, delay: float = 0.0) -> None:
    """Run the command, and kill it some seconds after a step."""
    with subprocess.Popen(words_of(settings), env=ENVIRONMENT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if json.loads(line).get("step") == step:
                time.sleep(delay)
                process.send_signal(signal.SIGKILL)
                break
    assert process.returncode == -signal.SIGKILL


@pytest.mark.whole
def test_a_run_that_is_killed_again_and_again(whole: Settings, settings: Make) -> None:
    """With a checkpoint after every step, so that many a kill meets one that is being written."""
    chosen = settings(save_every=1)
    for step in range(1, 8, 2):
        killed_at(chosen, step, delay=0.011 * step)
    distil(chosen)
    assert losses_of(chosen) == losses_of(whole)


def test_checkpointing_and_bfloat16(whole: Settings, settings: Make) -> None:
    expected = [json.loads(line) for line in losses_of(whole).splitlines()][:3]
    for change, error in (({"checkpointing": True}, 1e-6), ({"bfloat16": True}, 0.02)):
        chosen = settings(**change, out=f"{settings().out}-{next(iter(change))}", epochs=1.0)
        found: list[float] = []

        def collect(row: dict[str, Any], steps: int, found: list[float] = found) -> None:
            found.append(row["loss"])
            if len(found) == 3:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            distil(chosen, collect)
        np.testing.assert_allclose(found, [row["loss"] for row in expected], rtol=error)


@pytest.fixture(scope="module")
def classifier(make_bert: Callable[..., Path]) -> Path:
    """A teacher of three labels, without dropout."""
    labels = {"0": "bad", "1": "fair", "2": "good"}
    return make_bert("BertForSequenceClassification", id2label=labels, hidden_dropout_prob=0.0,
                     attention_probs_dropout_prob=0.0, initializer_range=0.2)  # fmt: skip


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    """Texts of different lengths with labels and without."""
    labels = ["good", 0, None]
    items = [{"text": f"text {i} {'is long ' * (i % 5)}", "label": labels[i % 3]} for i in range(48)]
    lines = [json.dumps(item) for item in items] + ['"a string"', "plain text", "12", "[1, 2]", "", '{"text": "alone"}']
    file = tmp_path / "texts.jsonl"
    file.write_text("\n".join(lines * 2))
    return file


def test_a_classifier(classifier: Path, texts: Path, settings: Make) -> None:
    chosen = settings(teacher=str(classifier), corpus=[str(texts)], task="text-classification", length=None,
                      epochs=3.0)  # fmt: skip
    facts = distil(chosen)
    assert facts["sequences"] == 2 * 53
    rows = [json.loads(line) for line in losses_of(chosen).splitlines()]
    assert np.mean([row["soft"] for row in rows[-5:]]) < np.mean([row["soft"] for row in rows[:5]])
    model = transformers.AutoModelForSequenceClassification.from_pretrained(chosen.out)
    assert model.config.id2label == {0: "bad", 1: "fair", 2: "good"}
    [answer] = distilrt.pipeline("text-classification", chosen.out)(["text 3 is long"])
    assert answer["label"] in ("bad", "fair", "good")


@pytest.mark.whole
def test_two_processes_train_as_one(
    folder_of: Callable[..., Path], texts: Path, settings: Make, tmp_path: Path
) -> None:
    """By torchrun over gloo. Without dropout and masks, both soft losses are means over the same texts."""
    none = dict.fromkeys(("dropout", "attention_dropout", "seq_classif_dropout"), 0.0)
    labels = {"0": "bad", "1": "fair", "2": "good"}
    teacher = folder_of("DistilBertForSequenceClassification", n_layers=4, id2label=labels, **none)
    shape = {"teacher": str(teacher), "corpus": [str(texts)], "task": "text-classification", "hidden_weight": 0.0}
    one = settings(**shape, length=None, hard_weight=0.0)
    two = settings(**shape, length=None, hard_weight=0.0, batch_size=2, out=str(tmp_path / "two"))
    distil(one)
    launch = ["-m", "torch.distributed.run", "--nproc-per-node", "2", "--rdzv-backend", "c10d", "--rdzv-endpoint",
              "127.0.0.1:0"]  # fmt: skip
    words = words_of(two)
    done = subprocess.run([words[0], *launch, *words[1:]], env=ENVIRONMENT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    single, both = ([json.loads(line)["soft"] for line in losses_of(each).splitlines()] for each in (one, two))
    np.testing.assert_allclose(both, single, rtol=1e-3, atol=1e-6)
    assert len(done.stdout.splitlines()) == len(both) + 1


@contextmanager
def file_size(limit: int) -> Iterator[None]:
    """No file may grow beyond this: a write fails there as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("save_every", [3, 10**6])
def test_a_full_disk(settings: Make, whole: Settings, save_every: int) -> None:
    """It meets a checkpoint, or the student's folder."""
    chosen = settings(save_every=save_every)
    with file_size(2**19), pytest.raises(OSError, match=r"File too large|full"):
        distil(chosen)
    left = {file.name for file in Path(chosen.out).parent.iterdir()}
    assert left == {"student.training"}
    assert not {file.name for file in Path(f"{chosen.out}.training").iterdir()} - {"ids", "run.json", "student"}
    distil(chosen)
    assert losses_of(chosen) == losses_of(whole)


def test_out_of_memory(settings: Make) -> None:
    with (
        pytest.raises(BackendError, match=r"--batch-size 4: lower it and raise --accumulation"),
        out_of_memory(settings()),
    ):
        torch.empty(2**50)


def refused(settings: Settings, error: type[Exception], words: str, *, left: bool = False) -> None:
    """Nothing was written, and only a run that can go on keeps its folder."""
    with pytest.raises(error, match=words):
        distil(settings)
    assert not Path(settings.out).exists()
    assert Path(f"{settings.out}.training").exists() == left


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "makes 0 sequences of up to 32 tokens, and one step takes 8: give more text"),
        (b"\n \n\n", "makes 0 sequences"),
        (b"a few words", "makes 0 sequences"),
        (b"enough for some sequences " * 30, r"makes [1-7] sequences"),
        ("☃ ".encode() * 900, r"has no word to mask: all are \[UNK\] to the tokenizer"),
        (b"\x89PNG\r\n\xff\xfe", "is no UTF-8 text"),
        (b"text\n and \x00 zero", "line 2 has a zero byte"),
    ],
)
def test_a_corpus_that_is_none(settings: Make, tmp_path: Path, content: bytes, words: str) -> None:
    file = tmp_path / "corpus.txt"
    file.write_bytes(content)
    refused(settings(corpus=[str(file)]), InvalidInput, words)


def test_a_corpus_that_is_not_there(settings: Make, tmp_path: Path) -> None:
    refused(settings(corpus=[str(tmp_path / "none.txt")]), OSError, r"none\.txt")
    os.mkfifo(tmp_path / "pipe")
    for name in (tmp_path, tmp_path / "pipe"):
        refused(settings(corpus=[str(name)]), InvalidInput, "is no regular file; give text files")


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ('{"text": "a", "label": "best"}', "line 1: label 'best' is none of the teacher's: bad, fair, good"),
        ('{"text": "a", "label": 3}', "label 3 is none"),
        ('{"text": "a", "label": true}', "label True is none"),
        ('{"text": "a", "label": [1]}', r"label \[1\] is none"),
        ('{"text": 1}', "must be text or"),
        ('{"text": "a", "title": "b"}', "found keys text, title"),
        ("zero \0", "line 1 has a zero byte"),
        ('{"text": "a", "label": "good"', "line 1 begins as a JSON object does and is none"),
        ('{"text": "a \\ud83d b"}', "line 1 has half a surrogate pair"),
        (json.dumps({"text": "long " * 20000, "label": "best"}), "line 1: label 'best' is none"),
        ('\ufeff{"text": "a", "label": "best"}', "line 1: label 'best' is none"),
    ],
)
def test_a_line_that_is_no_example(classifier: Path, settings: Make, tmp_path: Path, line: str, words: str) -> None:
    file = tmp_path / "texts"
    file.write_text(line)
    refused(settings(teacher=str(classifier), corpus=[str(file)], task="text-classification"), InvalidInput, words)


def test_the_hard_loss_alone_needs_labels(classifier: Path, settings: Make, tmp_path: Path) -> None:
    file = tmp_path / "texts"
    file.write_text('{"text": "a", "label": "bad"}\n{"text": "b"}\n')
    chosen = settings(
        teacher=str(classifier), corpus=[str(file)], task="text-classification", soft_weight=0.0, hidden_weight=0.0
    )
    refused(chosen, InvalidInput, "line 2: label None, which the hard loss alone can't do without, is none of the")


def test_a_tokenizer_of_another_model(settings: Make, teacher: Path, tmp_path: Path) -> None:
    folder = tmp_path / "teacher"
    config = transformers.BertConfig.from_pretrained(teacher, vocab_size=1000)
    transformers.BertForMaskedLM(config).save_pretrained(folder)
    refused(settings(teacher=str(folder)), OSError, "has neither tokenizer.json nor vocab.txt")
    for file in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(teacher / file, folder)
    refused(settings(teacher=str(folder)), CheckpointError, "has 4000 tokens and its model 1000")


def test_a_tokenizer_without_a_mask(settings: Make, teacher: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(teacher, tmp_path / "teacher")
    changed = {"tokenizer_class": "PreTrainedTokenizerFast", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    (folder / "tokenizer_config.json").write_text(json.dumps(changed))
    refused(settings(teacher=str(folder)), CheckpointError, "has no mask_token; name it there")


def test_a_classifier_of_one_label(make_bert: Callable[..., Path], texts: Path, settings: Make) -> None:
    folder = str(make_bert("BertForSequenceClassification", id2label={"0": "score"}))
    chosen = settings(teacher=folder, corpus=[str(texts)], task="text-classification")
    refused(chosen, CheckpointError, "one of at least 2 labels, found 1")


def test_labels_of_one_name(make_bert: Callable[..., Path], tmp_path: Path, settings: Make) -> None:
    """The number of a label that shares its name with another is as good as any."""
    teacher = make_bert("BertForSequenceClassification", id2label={"0": "a", "1": "a"})
    file = tmp_path / "texts"
    file.write_text('{"text": "one", "label": 0}\n{"text": "two", "label": 1}\n' * 4)
    assert distil(settings(teacher=str(teacher), corpus=[str(file)], task="text-classification"))["sequences"] == 8


def test_a_folder_that_is_there(settings: Make) -> None:
    chosen = settings()
    Path(chosen.out).mkdir()
    with pytest.raises(InvalidParameter, match="is there already"):
        distil(chosen)
    os.symlink("nowhere", f"{chosen.out}-link")
    refused(replace(chosen, out=f"{chosen.out}-link"), InvalidParameter, "is there already")


def test_a_run_with_other_settings(settings: Make, corpus: Path, tmp_path: Path) -> None:
    last = [1, 4]  # The first leaves no checkpoint, and is begun anew.

    def stop(row: dict[str, Any], steps: int) -> None:
        if row["step"] == last[0]:
            raise KeyboardInterrupt

    own = tmp_path / "corpus.txt"
    shutil.copy(corpus, own)
    for seed in (7, 0):
        with pytest.raises(KeyboardInterrupt):
            distil(settings(corpus=[str(own)], seed=seed), stop)
        last.pop(0)
    chosen = settings(corpus=[str(own)])
    refused(replace(chosen, seed=1, clip=1.0), InvalidParameter, "another clip, another seed; give", left=True)
    copy = shutil.copytree(chosen.teacher, tmp_path / "teacher")
    weights = safetensors.numpy.load_file(copy / "model.safetensors")
    weights["cls.predictions.bias"][5] += 1
    safetensors.numpy.save_file(weights, copy / "model.safetensors")
    refused(replace(chosen, teacher=str(copy)), InvalidParameter, "another teacher; give", left=True)
    own.write_text(own.read_text() + "more")
    refused(chosen, InvalidParameter, "another corpus; give", left=True)


def test_a_damaged_checkpoint(settings: Make) -> None:
    chosen, taken = settings(save_every=1), []

    def stop(row: dict[str, Any], steps: int) -> None:
        taken.append(row["step"])
        if len(taken) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        distil(chosen, stop)
    work = Path(f"{chosen.out}.training")
    (work / ".checkpoint.pt.123.tmp").write_text("of a process that was killed")
    os.truncate(work / "checkpoint.pt", 20000)
    refused(chosen, CheckpointError, r"checkpoint\.pt is damaged; delete .*student\.training to begin anew", left=True)
    assert {file.name for file in work.iterdir()} == {"ids", "run.json", "checkpoint.pt"}


def test_a_folder_that_is_no_runs_is_left_alone(settings: Make) -> None:
    chosen = settings()
    work = Path(f"{chosen.out}.training")
    work.mkdir()
    (work / "own.txt").write_text("precious")
    refused(chosen, InvalidParameter, r"own\.txt is no file of a run; move .*student\.training away", left=True)
    assert (work / "own.txt").read_text() == "precious"


def test_a_teacher_of_one_layer(make_bert: Callable[..., Path], settings: Make) -> None:
    refused(settings(teacher=str(make_bert("BertForMaskedLM", num_hidden_layers=1))), CheckpointError, "and needs 2")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"task": "fill"}, "--task must be masked-lm or text-classification, found 'fill'"),
        ({"batch_size": 0}, "--batch-size must be at least 1 .*found 0"),
        ({"mask_share": 1.5}, "--mask-share must be at least 1e-06 and at most 1, found 1.5"),
        ({"learning_rate": float("nan")}, "--learning-rate must be"),
        ({"epochs": float("inf")}, "--epochs must be .*found inf"),
        ({"temperature": 1e300}, r"--temperature must be at least 0\.001 and at most 1e\+09, found 1e\+300"),
        ({"soft_weight": 0, "hard_weight": 0, "hidden_weight": 0}, "at least one loss must count"),
        ({"corpus": []}, "--corpus needs at least one file"),
    ],
)
def test_settings_that_are_not_allowed(settings: Make, change: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidParameter, match=words):
        settings(**change)


def test_a_length_that_the_teacher_does_not_read(settings: Make, teacher: Path, tmp_path: Path) -> None:
    refused(settings(length=65), InvalidParameter, "--length must be at least 8 and at most 64, .* reads, found 65")
    folder = shutil.copytree(teacher, tmp_path / "teacher")
    config = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps(config | {"model_max_length": 2}))
    refused(settings(teacher=str(folder), length=None), InvalidParameter, "at most 2, which the teacher reads")


def test_the_command(settings: Make, corpus: Path, capsys: pytest.CaptureFixture[str]) -> None:
    chosen = settings(corpus=[str(corpus), str(corpus)], epochs=0.2)
    with pytest.raises(SystemExit) as done:
        main(words_of(chosen)[3:])
    assert not done.value.code
    *rows, facts = map(json.loads, capsys.readouterr().out.splitlines())
    assert rows == [json.loads(line) for line in losses_of(chosen).splitlines()]
    assert facts["steps"] == len(rows)
    assert facts["layers"] == 2
    with pytest.raises(SystemExit) as done:
        main(words_of(chosen)[3:])
    assert done.value.code == 2
    assert "is there already" in capsys.readouterr().err


PAGE = (ROOT / "docs" / "distillation.md").read_text(encoding="utf-8")
COMMANDS = re.findall(r"^(?:distilrt|torchrun \S+ \d+ -m distilrt) distill .*", PAGE, re.M)


@pytest.mark.parametrize(
    "command", [pytest.param(line, marks=[pytest.mark.whole] * ("torchrun" in line)) for line in COMMANDS]
)
def test_the_commands_of_the_page(command: str, teacher: Path, corpus: Path, tmp_path: Path) -> None:
    """They run in a shell, as they stand."""
    assert len(COMMANDS) == 2
    os.symlink(teacher, tmp_path / "bert-folder")
    (tmp_path / "texts").mkdir()
    for name in ("one.txt", "and two.txt", "three.txt"):
        shutil.copy(corpus, tmp_path / "texts" / name)
    path = {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    words = command.replace("torchrun", "python -m torch.distributed.run")
    done = subprocess.run(words, shell=True, cwd=tmp_path, env=ENVIRONMENT | path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "student" / "model.safetensors").exists()

"""Publishing models and tokenizers: what reaches the hub's client, the model card, and refusals."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub
import pytest

import distilrt
from distilrt.checkpoint.source import Source
from distilrt.checkpoint.upload import model_card
from distilrt.model.heads import HEADS


class _Hub:
    """Stands in for the network: keeps what is uploaded to it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, card: Path | None = None) -> None:
        self.files: dict[str, bytes] = {}
        self.calls: dict[str, Any] = {}
        self.error: Exception | None = None
        monkeypatch.setattr(huggingface_hub, "HfApi", self._api)
        monkeypatch.setattr(Source, "file", lambda source, name: card)

    def _api(self, token: Any = None) -> Any:
        self.calls["token"] = token
        return self

    def create_repo(self, repo_id: str, **options: Any) -> Any:
        self.calls |= options
        if self.error:
            raise self.error
        return SimpleNamespace(repo_id=f"me/{repo_id}")

    def upload_folder(self, *, repo_id: str, folder_path: Path, **options: Any) -> Any:
        self.calls |= options
        self.files = {path.name: path.read_bytes() for path in folder_path.iterdir()}
        return SimpleNamespace(commit_url=f"hub/{repo_id}/commit/1")


def test_a_model_is_published_as_it_is_saved(tiny: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub = _Hub(monkeypatch)
    model = distilrt.DistilBertForSequenceClassification(tiny())
    url = model.push_to_hub("x", private=True, token="t", revision="dev", commit_message="new", create_pr=True)
    assert url == "hub/me/x/commit/1"
    assert hub.calls == {"token": "t", "private": True, "exist_ok": True, "revision": "dev", "commit_message": "new",
                         "create_pr": True}  # fmt: skip
    model.save_pretrained(tmp_path)
    assert hub.files.pop("README.md").decode() == model_card(None, "me/x", model.architecture)
    assert hub.files == {path.name: path.read_bytes() for path in tmp_path.iterdir()}


def test_a_tokenizer_is_published_without_a_card(monkeypatch: pytest.MonkeyPatch) -> None:
    hub = _Hub(monkeypatch)
    distilrt.DistilBertTokenizer({"[UNK]": 0, "a": 1}).push_to_hub("x")
    assert set(hub.files) == {"tokenizer.json", "tokenizer_config.json", "vocab.txt"}


@pytest.mark.parametrize("architecture", list(HEADS))
def test_a_card_says_how_to_run_the_model(architecture: str) -> None:
    card = model_card(None, "me/x", architecture)
    assert card.startswith("---\nlibrary_name: transformers\n")
    code = card.partition("```python\n")[2].partition("```")[0]
    compile(code, "card", "exec")
    assert "me/x" in code


def test_a_card_keeps_what_others_wrote(tiny: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    card = tmp_path / "card.md"
    card.write_text("# Ours\n\nTrained on tales.\n")
    hub = _Hub(monkeypatch, card)
    distilrt.DistilBertModel(tiny()).push_to_hub("x")
    once = hub.files["README.md"].decode()
    assert once.startswith("# Ours\n\nTrained on tales.\n\n<!-- distilrt: start -->\n## Run with distilrt")
    edited = f"{once}\n## More\n".replace("fast", "")
    twice = model_card(edited, "me/y", "DistilBertModel")
    assert twice == edited.replace("me/x", "me/y")


def test_refusals_of_the_hub(tiny: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    hub = _Hub(monkeypatch)
    model = distilrt.DistilBertModel(tiny())
    hub.error = OSError("403 Forbidden")
    with pytest.raises(OSError, match=r"can't make or find the repository 'x': 403 Forbidden\. .* may write there"):
        model.push_to_hub("x")
    hub.error = None

    def refuse(**options: Any) -> Any:
        raise OSError("no such branch")

    monkeypatch.setattr(hub, "upload_folder", refuse)
    with pytest.raises(OSError, match=r"can't upload to 'me/x': no such branch\. Check"):
        model.push_to_hub("x", revision="nix")
    with pytest.raises(TypeError, match="publc"):
        model.push_to_hub("x", publc=True)

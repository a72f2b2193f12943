"""Finding the files of a checkpoint in folders and in the hub's cache, with every way it can fail."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any, NoReturn

import huggingface_hub
import pytest
from huggingface_hub import errors

from distilrt.checkpoint.source import Source

MODEL = "org/tiny"
COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    """A hub cache with one repository of a config, a file in a subfolder, and one file known not to exist."""
    repository = tmp_path / "cache" / "models--org--tiny"
    for name, content in (("config.json", "{}"), ("sub/config.json", '{"sub": 1}')):
        blob = repository / "blobs" / name.replace("/", "-")
        link = repository / "snapshots" / COMMIT / name
        for path in (blob, link):
            path.parent.mkdir(parents=True, exist_ok=True)
        blob.write_text(content)
        link.symlink_to(blob)
    for name, content in (("refs/main", COMMIT), (f".no_exist/{COMMIT}/absent.json", "")):
        (repository / name).parent.mkdir(parents=True, exist_ok=True)
        (repository / name).write_text(content)
    return tmp_path / "cache"


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes any request to the hub a failure of the test."""

    def refuse(*args: Any, **kwargs: Any) -> NoReturn:
        pytest.fail("the hub was asked")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", refuse)


def hub_raises(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def fail(*args: Any, **kwargs: Any) -> NoReturn:
        raise error

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", fail)


@pytest.mark.usefixtures("no_network")
def test_folder(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "config.json").write_text("{}")
    assert Source(tmp_path).file("config.json") is None
    assert Source(tmp_path / "sub").file("config.json") == tmp_path / "sub" / "config.json"
    assert Source(str(tmp_path), subfolder="sub").file("config.json") == tmp_path / "sub" / "config.json"
    assert Source(tmp_path).file("sub") is None  # a folder is no file
    with pytest.raises(OSError, match="no subfolder 'nix'"):
        Source(tmp_path, subfolder="nix").file("config.json")
    with pytest.raises(OSError, match="is a file; give the folder"):
        Source(tmp_path / "sub" / "config.json").file("config.json")


@pytest.mark.usefixtures("no_network")
def test_existing_folder_wins_over_hub_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "org" / "tiny"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert Source(MODEL).file("config.json") == Path("org/tiny/config.json")
    assert Source("~/org/tiny").file("config.json") == folder / "config.json"


@pytest.mark.usefixtures("no_network")
@pytest.mark.parametrize(
    "name", ["./nix", "../nix", "/nix/nix", "~/nix", "~nobody-here/nix", "C:\\nix", "a/b/c", "a//b"]
)
def test_missing_path_never_asks_the_hub(name: str) -> None:
    with pytest.raises(OSError, match="does not exist; give an existing folder, or a hub id") as caught:
        Source(name).file("config.json")
    assert repr(name) in str(caught.value)


@pytest.mark.parametrize("name", ["", "a b", "org/ti--ny", "-tiny", "org/tiny.git", "x" * 120, "org/"])
def test_malformed_id(name: str) -> None:
    with pytest.raises(OSError, match="neither a folder here nor a valid hub id"):
        Source(name, local_files_only=True).file("config.json")


@pytest.mark.parametrize("revision", [None, "main", COMMIT])
def test_offline_cache(cache: Path, revision: str | None) -> None:
    where: dict[str, Any] = {"cache_dir": cache, "local_files_only": True, "revision": revision}
    path = Source(MODEL, **where).file("config.json")
    assert path is not None
    assert path.read_text() == "{}"
    path = Source(MODEL, subfolder="sub", **where).file("config.json")
    assert path is not None
    assert path.read_text() == '{"sub": 1}'
    assert Source(MODEL, **where).file("absent.json") is None
    assert Source(MODEL, **where).file("never-fetched.json") is None
    with pytest.raises(OSError, match="not in the local cache and the network is not to be used"):
        Source("org/other", **where).file("config.json")


def test_offline_revision_not_cached(cache: Path) -> None:
    with pytest.raises(OSError, match=r"config.json of 'org/tiny' \(revision 'v2'\) is not in the local cache"):
        Source(MODEL, revision="v2", cache_dir=cache, local_files_only=True).file("config.json")


def test_offline_environment(cache: Path) -> None:
    code = (
        "from distilrt.checkpoint.source import Source\n"
        "print(Source('org/tiny').file('config.json').read_text(), Source('org/tiny').file('never-fetched.json'))\n"
        "try: Source('org/other').file('config.json')\n"
        "except OSError as error: print(error)\n"
    )
    environment = os.environ | {
        "HF_HUB_OFFLINE": "1",
        "HF_HUB_CACHE": str(cache),
        "PYTHONPATH": os.pathsep.join(sys.path),
    }
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("{} None\n")
    assert "not in the local cache and the network is not to be used" in done.stdout


def test_network_down(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub_raises(monkeypatch, errors.LocalEntryNotFoundError("no connection"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    assert Source(MODEL, cache_dir=cache).file("absent.json") is None
    # It may exist on the hub: to say that it does not would silently drop, say, a tokenizer's config.
    with pytest.raises(OSError, match="the hub can't be reached; check the network, or set HF_HUB_OFFLINE=1"):
        Source(MODEL, cache_dir=cache).file("never-fetched.json")


@pytest.mark.parametrize(
    ("kind", "advice"),
    [
        ("GatedRepoError", "accept its terms"),
        ("RepositoryNotFoundError", "check the name, or pass `token`"),
        ("RevisionNotFoundError", r"\(revision 'v9'\): the repository has no such revision"),
        ("HfHubHTTPError", "check the network"),
    ],
)
def test_hub_errors(kind: str, advice: str, monkeypatch: pytest.MonkeyPatch) -> None:
    error_class = getattr(errors, kind)
    hub_raises(monkeypatch, error_class.__new__(error_class))  # their constructors differ between hub versions
    with pytest.raises(OSError, match=f"can't get config.json of 'org/tiny'.*{advice}"):
        Source(MODEL, revision="v9").file("config.json")


def test_unknown_error_of_the_http_library(monkeypatch: pytest.MonkeyPatch) -> None:
    hub_raises(monkeypatch, RuntimeError("proxy says no"))
    with pytest.raises(OSError, match=r"check the network and the arguments. .proxy says no"):
        Source(MODEL).file("config.json")


def test_repository_without_the_file(monkeypatch: pytest.MonkeyPatch) -> None:
    kind = getattr(errors, "RemoteEntryNotFoundError", errors.EntryNotFoundError)
    hub_raises(monkeypatch, kind.__new__(kind))
    assert Source(MODEL).file("config.json") is None


def test_arguments_reach_the_hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    seen: dict[str, Any] = {}

    def download(*args: Any, **kwargs: Any) -> str:
        seen.update(kwargs, args=args)
        return str(tmp_path / "config.json")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    path = Source(MODEL, revision="r", token="t", cache_dir=tmp_path, local_files_only=True).file("config.json")
    assert path == tmp_path / "config.json"
    assert seen == {"args": (MODEL, "config.json"), "revision": "r", "subfolder": None, "token": "t",
                    "cache_dir": tmp_path, "local_files_only": True}  # fmt: skip


def test_a_source_names_its_folder_and_hides_its_token() -> None:
    source = Source(MODEL, subfolder="a", token="secret")
    assert str(source) == "org/tiny/a"
    assert source.within("b").subfolder == "a/b"
    assert source.within("") == source
    assert "secret" not in repr(source)
    assert Source.of(source) is source
    assert Source.of(MODEL, "v2", "a") == Source(MODEL, revision="v2", subfolder="a")


def test_import_is_light() -> None:
    heavy = "('torch', 'transformers', 'huggingface_hub')"
    code = f"import sys, distilrt.checkpoint.weights; print([name for name in {heavy} if name in sys.modules])"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"

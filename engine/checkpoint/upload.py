"""Upload a checkpoint and its model card to a repository of the hub, through `huggingface_hub` alone."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from distilrt.checkpoint.source import Source
from distilrt.model.heads import HEADS

CARD = "README.md"
_START, _END = "<!-- distilrt: start -->", "<!-- distilrt: end -->"


def upload(
    write: Callable[[Path], Any],
    repo_id: str,
    *,
    architecture: str | None = None,
    private: bool | None = None,
    token: str | bool | None = None,
    revision: str | None = None,
    commit_message: str = "Upload with distilrt",
    create_pr: bool = False,
) -> str:
    """Write files into a folder and upload it as one commit; the repository is made if needed.

    Args:
        write: called with the folder to fill.
        repo_id: "name" or "organisation/name".
        architecture: of a model, whose card gets a section on how to run it here; None: the card is left alone.
        private: of a repository that is made.
        token: access token; True or None: the stored one.
        revision: branch to commit to, which must exist; None: the main one.
        create_pr: open a pull request with the commit.

    Returns:
        The URL of the commit.

    Raises:
        OSError: the hub refused or cannot be reached.
    """
    import huggingface_hub as hub

    api = hub.HfApi(token=token)
    with _refusals(f"make or find the repository {repo_id!r}", "name"):
        repository = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write(folder)
        if architecture is not None:
            old = Source(repository, revision, token=token).file(CARD)
            text = None if old is None else old.read_text(encoding="utf-8")
            card = model_card(text, repository, architecture)
            (folder / CARD).write_text(card, encoding="utf-8")
        with _refusals(f"upload to {repository!r}", "revision"):
            commit = api.upload_folder(
                repo_id=repository,
                folder_path=folder,
                revision=revision,
                commit_message=commit_message,
                create_pr=create_pr,
            )
    return str(commit.commit_url)


@contextmanager
def _refusals(what: str, checked: str) -> Iterator[None]:
    """Turn whatever the hub's library raises into an OSError that says what could not be done."""
    try:
        yield
    except Exception as error:  # the HTTP library, and so the class of its errors, differs between hub versions
        raise OSError(
            f"can't {what}: {error}. Check the {checked}, the network, and that the token may write there "
            "(`hf auth login`, or pass `token`)"
        ) from error


def model_card(old: str | None, repo_id: str, architecture: str) -> str:
    """A model card with a section on how to run the model here; of an existing one all else stays as it is."""
    task = HEADS[architecture].task
    code = f'from distilrt import pipeline\n\npipe = pipeline("{task}", "{repo_id}")'
    section = f"{_START}\n## Run with distilrt\n\n```python\n{code}\n```\n{_END}"
    if old is None:
        name = repo_id.rpartition("/")[2]
        head = f"library_name: transformers\npipeline_tag: {task}\ntags:\n- distilbert\n- distilrt"
        return f"---\n{head}\n---\n\n# {name}\n\n{section}\n"
    start, end = old.find(_START), old.find(_END)
    if 0 <= start < end:
        return old[:start] + section + old[end + len(_END) :]
    return f"{old.rstrip()}\n\n{section}\n"

"""Where the files of a checkpoint are: a folder, or a repository on the hub through its local cache.

This module knows neither formats nor models, and asks the network only through `huggingface_hub`.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from distilrt.checkpoint.files import read_object
from distilrt.errors import CheckpointError

ADAPTER_CONFIG = "adapter_config.json"  # PEFT saves every adapter with a file of this name.

# What an error of the hub means to the user. The first class that fits counts.
_HUB_ADVICE = {
    "HFValidationError": "it is neither a folder here nor a valid hub id, which is 'name' or 'organisation/name'",
    "GatedRepoError": "access to this repository is restricted; accept its terms on the hub, then pass `token`",
    "RepositoryNotFoundError": "neither a folder here nor a repository on the hub; check the name, or pass `token`",
    "RevisionNotFoundError": "the repository has no such revision; give an existing branch, tag or commit",
    "Exception": "the hub did not give it; check the network and the arguments",
}


def split(name: str) -> tuple[str, str] | None:
    """The base and the adapter of "BASE@ADAPTER"; of several signs, the last one with the most folders around it.

    Raises:
        CheckpointError: one of them is empty.
    """
    signs = [at for at in reversed(range(len(name))) if name[at] == "@"]
    splits = [(name[:at], name[at + 1 :]) for at in signs]
    if not splits:
        return None
    parts = max(splits, key=lambda parts: sum(os.path.isdir(os.path.expanduser(part)) for part in parts))
    if not all(parts):
        raise CheckpointError(f"{name!r} lacks a base or an adapter; BASE@ADAPTER are two folders or hub ids")
    return parts


@dataclass(frozen=True, slots=True)
class Source:
    """Where the files of a checkpoint are.

    "BASE@ADAPTER" is a checkpoint with a PEFT adapter, both folders or hub ids; a folder of an adapter alone stands for
    that with the base that it names, or that lies beside it. Files that the adapter has go before its base's, except
    weights.

    Attributes:
        model: a folder, or a hub id such as "organisation/name". An existing folder wins. With an adapter: its base.
        revision: branch, tag or commit of a hub repository; without effect for a folder.
        subfolder: where in the folder or repository the files lie.
        token: access token; True: the stored one.
        cache_dir: the hub's cache; None: its default.
        local_files_only: never use the network, as with the environment variable HF_HUB_OFFLINE.
    """

    model: str | Path
    revision: str | None = None
    subfolder: str = ""
    token: str | bool | None = field(default=None, repr=False)
    cache_dir: str | Path | None = None
    local_files_only: bool = False
    adapter: Source | None = None

    @classmethod
    def of(cls, model: str | Path | Source, *where: Any, **named: Any) -> Source:
        """The source that the arguments of a `from_pretrained` mean; `model` itself where that is a `Source`.

        Raises:
            CheckpointError: base or adapter has no name, a folder of an adapter does not name its base, or the base has
                an adapter of its own.
        """
        if isinstance(model, Source):
            return model
        source = cls(model, *where, **named)
        folder = source.folder
        if folder is None and (parts := split(os.fspath(model))):
            adapter = replace(source, model=parts[1], revision=None, subfolder="")
            return replace(source, model=parts[0])._tuned_by(adapter)
        if folder is None or not source.has_adapter:
            return source
        if (folder / "config.json").is_file():  # then transformers, too, takes the folder's own weights
            return replace(source, adapter=source)
        path = folder / ADAPTER_CONFIG
        fields = read_object(path)
        base, revision = fields.get("base_model_name_or_path"), fields.get("revision")
        if not isinstance(base, str) or not base:
            raise CheckpointError(f"{path} names no base model in base_model_name_or_path; give BASE@{model}")
        if not isinstance(revision, str | None):
            raise CheckpointError(f"{path} has the revision {revision!r:.80}, which is no text; give BASE@{model}")
        return replace(source, model=base, revision=revision, subfolder="")._tuned_by(source)

    def _tuned_by(self, adapter: Source) -> Source:
        if self.has_adapter and self.folder != adapter.folder:
            raise CheckpointError(
                f"{self} has an adapter of its own, and distilrt merges one; merge and save it with PEFT's "
                "merge_and_unload()"
            )
        return replace(self, adapter=adapter)

    def __str__(self) -> str:
        place = f"{self.model}/{self.subfolder}" if self.subfolder else str(self.model)
        return f"{place}@{self.adapter}" if self.adapter else place

    def within(self, subfolder: str) -> Source:
        """The same source with a subfolder of its own folder; "": the source itself."""
        parts = [part for part in (self.subfolder, subfolder) if part]
        return replace(self, subfolder="/".join(parts))

    @property
    def base(self) -> Source:
        """The same source without its adapter."""
        return replace(self, adapter=None)

    @property
    def has_adapter(self) -> bool:
        """Whether it is a folder with an adapter in it."""
        return self.folder is not None and (self.folder / ADAPTER_CONFIG).is_file()

    @property
    def folder(self) -> Path | None:
        """The folder on this machine, which may lack the subfolder; None: `model` is no folder."""
        name = os.fspath(self.model)
        folder = Path(os.path.expanduser(name))
        return folder / self.subfolder if name and folder.is_dir() else None

    def file(self, name: str) -> Path | None:
        """Find one file, of the adapter or else of its base, downloading it into the hub's cache where needed.

        Returns:
            The file's path; None where the folder or repository has no such file. Without network that means: the
            revision is cached, and the file is not.

        Raises:
            OSError: the folder, repository or revision is not there, the id is malformed, or the network is down and
                the file is not cached.
        """
        if self.adapter is not None and (found := self.adapter.file(name)):
            return found
        folder = self.folder
        if folder is None:
            return self._download(name)
        if not folder.is_dir():
            raise FileNotFoundError(
                f"folder {os.fspath(self.model)!r} has no subfolder {self.subfolder!r}; give one that is there"
            )
        return folder / name if (folder / name).is_file() else None

    def _download(self, filename: str) -> Path | None:
        name = os.fspath(self.model)
        if name and Path(os.path.expanduser(name)).is_file():
            raise NotADirectoryError(f"{name!r} is a file; give the folder that holds config.json and the weights")
        if name.startswith((".", "/", "~")) or "\\" in name or name.count("/") > 1:
            raise FileNotFoundError(
                f"folder {name!r} does not exist; give an existing folder, or a hub id, which is 'name' or "
                "'organisation/name'"
            )

        import huggingface_hub as hub
        from huggingface_hub import constants, errors

        try:
            path = hub.hf_hub_download(
                name,
                filename,
                revision=self.revision,
                subfolder=self.subfolder or None,
                token=self.token,
                cache_dir=self.cache_dir,
                local_files_only=self.local_files_only,
            )
        except errors.LocalEntryNotFoundError as error:
            offline = bool(self.local_files_only or constants.HF_HUB_OFFLINE)
            if self._cached_as_absent(filename, offline):
                return None
            reason = (
                "the network is not to be used; allow it once, or give a folder"
                if offline
                else "the hub can't be reached; check the network, or set HF_HUB_OFFLINE=1 to use only the cache"
            )
            raise FileNotFoundError(
                f"{filename} of {name!r} (revision {self.revision or 'main'!r}) is not in the local cache and {reason}"
            ) from error
        except errors.EntryNotFoundError:
            return None
        except Exception as error:  # the HTTP library, and so the class of its errors, differs between hub versions
            advice = next(
                text for kind, text in _HUB_ADVICE.items() if isinstance(error, getattr(errors, kind, Exception))
            )
            revision = f" (revision {self.revision!r})" if self.revision else ""
            raise OSError(f"can't get {filename} of {name!r}{revision}: {advice}. [{error}]") from error
        return Path(path)

    def _cached_as_absent(self, filename: str, offline: bool) -> bool:
        """Whether the cache says that the repository lacks the file.

        A snapshot without the file says so only to a caller who asked for the cache alone. After a network failure the
        file may simply not have been fetched, and going on without a tokenizer's config, say, would give wrong answers
        silently.
        """
        import huggingface_hub as hub
        from huggingface_hub import constants
        from huggingface_hub.file_download import repo_folder_name

        name, path = os.fspath(self.model), f"{self.subfolder}/{filename}".lstrip("/")
        found = hub.try_to_load_from_cache(name, path, cache_dir=self.cache_dir, revision=self.revision)
        if found is hub._CACHED_NO_EXIST:
            return True
        cache = Path(constants.HF_HUB_CACHE if self.cache_dir is None else self.cache_dir).expanduser()
        repository = cache / repo_folder_name(repo_id=name, repo_type="model")
        reference = repository / "refs" / (self.revision or "main")
        commit = reference.read_text().strip() if reference.is_file() else self.revision or "main"
        return offline and (repository / "snapshots" / commit).is_dir()

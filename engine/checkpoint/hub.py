"""Where the files of a checkpoint are: a folder, or a repository on the hub through its local cache.

It knows neither formats nor models, and asks the network only through `huggingface_hub`.
"""

from __future__ import annotations

import os
from pathlib import Path

# What a hub error means to the user, most particular class first.
_HUB_ADVICE = (
    ("HFValidationError", "it is neither a folder here nor a valid hub id, which is 'name' or 'organisation/name'"),
    ("GatedRepoError", "access to this repository is restricted; accept its terms on the hub, then pass `token`"),
    ("RepositoryNotFoundError", "neither a folder here nor a repository on the hub; check the name, or pass `token`"),
    ("RevisionNotFoundError", "the repository has no such revision; give an existing branch, tag or commit"),
    ("Exception", "the hub did not give it; check the network and the arguments"),
)  # fmt: skip


def resolve_file(
    model: str | Path,
    filename: str,
    *,
    revision: str | None = None,
    subfolder: str = "",
    token: str | bool | None = None,
    cache_dir: str | Path | None = None,
    local_files_only: bool = False,
) -> Path | None:
    """Find one file of a checkpoint, downloading it into the hub's cache where needed.

    Args:
        model: a folder, or a hub id such as "organisation/name". An existing folder wins.
        filename: the file's name in it.
        revision: branch, tag or commit of a hub repository; ignored for a folder.
        subfolder: where in the folder or repository the file lies.
        token: access token; True: the stored one.
        cache_dir: the hub's cache; None: its default.
        local_files_only: never use the network, as with the environment variable HF_HUB_OFFLINE.

    Returns:
        The file's path; None where the folder or repository has no such file. Without network that means: the
        revision is cached, and the file is not.

    Raises:
        OSError: the folder, repository or revision is not there, the id is malformed, or the network is down and the
            file is not cached.
    """
    name = os.fspath(model)
    folder = Path(os.path.expanduser(name))
    if name and folder.is_dir():
        if not (folder / subfolder).is_dir():
            raise FileNotFoundError(f"folder {name!r} has no subfolder {subfolder!r}; give one that is there")
        path = folder / subfolder / filename
        return path if path.is_file() else None
    if name and folder.is_file():
        raise NotADirectoryError(f"{name!r} is a file; give the folder that holds config.json and the weights")
    if name.startswith((".", "/", "~")) or "\\" in name or name.count("/") > 1:
        raise FileNotFoundError(f"folder {name!r} does not exist; give an existing folder, or a hub id, which is "
                                "'name' or 'organisation/name'")  # fmt: skip

    import huggingface_hub as hub
    from huggingface_hub import constants, errors

    try:
        return Path(hub.hf_hub_download(name, filename, revision=revision, subfolder=subfolder or None, token=token,
                                        cache_dir=cache_dir, local_files_only=local_files_only))  # fmt: skip
    except errors.LocalEntryNotFoundError as error:
        offline = local_files_only or constants.HF_HUB_OFFLINE
        if _cached_as_absent(name, f"{subfolder}/{filename}".lstrip("/"), revision, cache_dir, offline):
            return None
        reason = (
            "the network is not to be used; allow it once, or give a folder"
            if offline
            else "the hub can't be reached; check the network, or set HF_HUB_OFFLINE=1 to use only the cache"
        )
        raise FileNotFoundError(f"{filename} of {name!r} (revision {revision or 'main'!r}) is not in the local cache "
                                f"and {reason}") from error  # fmt: skip
    except errors.EntryNotFoundError:
        return None
    except Exception as error:  # the HTTP library, and so the class of its errors, differs between hub versions
        advice = next(text for kind, text in _HUB_ADVICE if isinstance(error, getattr(errors, kind, Exception)))
        where = f" (revision {revision!r})" if revision else ""
        raise OSError(f"can't get {filename} of {name!r}{where}: {advice}. [{error}]") from error


def _cached_as_absent(
    name: str, filename: str, revision: str | None, cache_dir: str | Path | None, offline: bool
) -> bool:
    """Whether the cache tells that the repository lacks the file.

    A snapshot without the file tells that only to who asked for the cache alone: after a network failure the file may
    simply not have been fetched, and going on without a tokenizer's config, say, would give wrong answers silently.
    """
    import huggingface_hub as hub
    from huggingface_hub import constants
    from huggingface_hub.file_download import repo_folder_name

    if hub.try_to_load_from_cache(name, filename, cache_dir=cache_dir, revision=revision) is hub._CACHED_NO_EXIST:
        return True
    cache = Path(constants.HF_HUB_CACHE if cache_dir is None else cache_dir).expanduser()
    repository = cache / repo_folder_name(repo_id=name, repo_type="model")
    reference = repository / "refs" / (revision or "main")
    commit = reference.read_text().strip() if reference.is_file() else revision or "main"
    return bool(offline) and (repository / "snapshots" / commit).is_dir()

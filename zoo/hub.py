"""Models from the Hugging Face Hub, through its own client and its own cache."""

import contextlib
import re
from pathlib import Path

from zoo import errors, files


def snapshot(repo: str, revision: str | None, only: list[str] | None = None) -> Path:
    """The folder in the local cache with the files of ``repo`` at ``revision`` (a commit, tag or branch).

    A commit that is in the cache is served without a network call; with ``HF_HUB_OFFLINE`` set, so is everything.
    ``revision`` None is the newest commit of the main branch. ``only`` names the files wanted, by default all files of
    a model. Raises HubError if they cannot be fetched.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    def fetch(**options) -> Path:
        patterns = only or files.HUB_PATTERNS
        return Path(snapshot_download(repo, revision=revision, allow_patterns=patterns, **options))

    try:
        if re.fullmatch("[0-9a-f]{40}", revision or ""):
            with contextlib.suppress(LocalEntryNotFoundError):
                folder = fetch(local_files_only=True)
                if _is_complete(folder, only):
                    return folder
        return fetch()
    except (OSError, HFValidationError) as error:
        raise errors.hub(repo, revision, error) from error


def _is_complete(folder: Path, only: list[str] | None) -> bool:
    """Whether all files wanted are in the cache, which may hold only part of a commit."""
    if not (folder / files.CONFIG).is_file():
        return False
    wanted = only or [files.METRICS, *files.read_config(folder)["files"]]
    return all((folder / name).is_file() for name in wanted)

"""Models from the Hugging Face Hub, through its own client and its own cache."""

import contextlib
import re
from pathlib import Path

from zoo import errors, files


def snapshot(repo: str, revision: str | None, only: list[str] | None = None) -> Path:
    """The folder in the local cache with the files of ``repo`` at ``revision`` (a commit, tag or branch).

    A commit that the cache has is served from there without a network call; so is everything where
    ``HF_HUB_OFFLINE`` is set. ``revision`` None is the tip of the main branch. ``only`` names the files
    wanted, all of a model's by default. Raises HubError where they cannot be had.
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
    """Whether the files wanted are all in the cache, which may hold a part of a commit."""
    if not (folder / files.CONFIG).is_file():
        return False
    wanted = only or [files.METRICS, *files.read_config(folder)["files"]]
    return all((folder / name).is_file() for name in wanted)

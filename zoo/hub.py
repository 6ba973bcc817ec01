"""Models from the Hugging Face Hub, through its own client and its own cache."""

from pathlib import Path

from zoo import errors, files


def snapshot(repo: str, revision: str | None, only: list[str] | None = None) -> Path:
    """The folder in the local cache with the files of ``repo`` at ``revision`` (a commit, tag or branch).

    A commit that the cache has is served from there without a network call; so is everything where
    ``HF_HUB_OFFLINE`` is set. ``revision`` None is the tip of the main branch. ``only`` names the files
    wanted, all of a model's by default. Raises HubError where they cannot be had.
    """
    import huggingface_hub
    from huggingface_hub.errors import HFValidationError

    try:
        folder = huggingface_hub.snapshot_download(repo, revision=revision, allow_patterns=only or files.HUB_PATTERNS)
    except (OSError, HFValidationError) as error:
        raise errors.hub(repo, revision, error) from error
    return Path(folder)

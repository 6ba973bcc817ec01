"""Models from the Hugging Face Hub, through its own client and its own cache.

The client honours ``HF_ENDPOINT``, ``HF_TOKEN`` (or the token of ``hf auth login``), ``HF_HOME`` and
``HF_HUB_OFFLINE``; it shows the progress and, in the same process, goes on where a broken connection ended. A process
that is interrupted leaves whole files only: the next one fetches the others from their beginning. No code of a
repository is ever fetched or run, so there is no ``trust_remote_code`` here. Nothing here imports torch.
"""

import contextlib
import errno
import re
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeGuard, TypeVar

from zoo import errors, files

Result = TypeVar("Result")

ATTEMPTS = 4
"""How often the Hub is asked while it is overloaded or broken, or the connection to it breaks."""
BROKEN = {"RemoteProtocolError", "ReadError", "WriteError", "ReadTimeout", "WriteTimeout"}
"""The errors of a connection that breaks after it was made."""
LONGEST_WAIT = 60
"""The most seconds that the Hub may ask us to wait; where it asks for more, that is the error."""
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""The numbers of the errors of a disk that takes no more; a broken connection is an OSError with a number too."""


def snapshot(repo: str, revision: str | None, only: list[str] | None = None) -> Path:
    """The folder in the local cache with the files of ``repo`` at ``revision`` (a commit, tag or branch).

    A commit that is in the cache is served without a network call; with ``HF_HUB_OFFLINE`` set, so is everything.
    ``revision`` None is the newest commit of the main branch. ``only`` names the files wanted, by default all files of
    a model. The config is fetched first, so that nothing more is fetched of a repository that holds no model of
    snn-zoo. A file that was altered on the way is fetched once more, and then removed from the cache.

    Where a branch is asked for and the Hub cannot be reached, refuses (a repository that is private now, 403) or fails
    (5xx), the client serves the newest commit that the cache has of it. Where that matters, name a commit.

    Raises HubError if the files cannot be fetched or the repository holds no model of snn-zoo, DamagedModelError for
    files that stay altered.
    """
    if is_commit(revision) and (cached := _cached(repo, revision, only)):
        return cached
    folder = _fetch(repo, revision, [files.CONFIG])
    commit = folder.name
    config = _healed(repo, folder, [files.CONFIG], lambda: _config_of(repo, folder))
    needed = list(config["files"])
    folder = _fetch(repo, commit, only or [files.CARD, files.CONFIG, files.METRICS, *needed])
    if only is None:
        _healed(repo, folder, needed, lambda: _check_hashes(folder, config))
    return folder


def is_commit(revision: str | None) -> TypeGuard[str]:
    """Whether this is the full name of a commit, whose content never changes; a tag or a branch may move."""
    return re.fullmatch("[0-9a-f]{40}", revision or "") is not None


def _fetch(repo: str, revision: str | None, patterns: list[str], **options: Any) -> Path:
    from huggingface_hub import snapshot_download

    def fetch() -> Path:
        return Path(snapshot_download(repo, revision=revision, allow_patterns=patterns, **options))

    at = f" at {revision!r}" if revision else ""
    try:
        return asked(fetch, f"could not fetch {repo!r}{at} from the Hugging Face Hub", repo, revision)
    except errors.HubError as error:
        raise errors.or_folder(error, repo) from error.__cause__


def _cached(repo: str, commit: str, only: list[str] | None) -> Path | None:
    """The folder of a commit in the cache; None if files that are wanted are missing or damaged."""
    from huggingface_hub import try_to_load_from_cache

    with contextlib.suppress(ValueError):  # of a name that no repository has, or a damaged file
        if isinstance(found := try_to_load_from_cache(repo, files.CONFIG, revision=commit), str):
            folder = Path(found).parent
            config = files.read_config(folder)
            if only is None:
                _check_hashes(folder, config)
            if all((folder / name).is_file() for name in only or [files.METRICS]):
                return folder
    return None


def _config_of(repo: str, folder: Path) -> dict[str, Any]:
    """The config of a model that was fetched; HubError if it is none of ours."""
    if not (folder / files.CONFIG).exists():
        raise errors.not_a_model(repo, f"it has no {files.CONFIG}")
    raw = files.read_json(folder, files.CONFIG)
    if "format_version" not in raw:
        others = next((key.removesuffix("_version") for key in raw if key.endswith("_version")), None)
        raise errors.not_a_model(repo, f"its {files.CONFIG} is that of {others or 'another library'}")
    return files.read_config(folder)


def _check_hashes(folder: Path, config: dict[str, Any]) -> None:
    for name, record in config["files"].items():
        files.read_checked(folder, name, record)


def _healed(repo: str, folder: Path, names: list[str], check: Callable[[], Result]) -> Result:
    """What ``check`` returns for files in the cache, which are fetched again if it finds them damaged.

    Those that still are not what the Hub says they are, are removed, so that nothing finds them. Files that are stay,
    even if they are no model of ours: the cache may be shared.
    """
    paths = [folder / name for name in names]
    try:
        return check()
    except errors.DamagedModelError as error:
        damage = error
    if any(path.exists() and _is_intact(path) is not True for path in paths):
        try:
            _fetch(repo, folder.name, names, force_download=True)
        except errors.HubError:
            raise errors.damaged_on_the_hub(repo, folder, damage) from damage
        try:
            return check()
        except errors.DamagedModelError as error:
            damage = error
    for path in paths:
        with contextlib.suppress(OSError):  # of another process that removes it too, or a cache that is only read
            if _is_intact(path) is False:
                path.resolve().unlink()
                path.unlink()
    raise errors.damaged_on_the_hub(repo, folder, damage) from damage


def _is_intact(path: Path) -> bool | None:
    """Whether a file has the content that the cache names it by; None where the cache does not say.

    The name is the hash that the Hub told: git's, or the SHA-256 of a large file.
    """
    stored = path.resolve()
    named = stored.parent.name == "blobs" and re.fullmatch("[0-9a-f]{40}|[0-9a-f]{64}", stored.name)
    if not named or not stored.is_file():
        return None
    data = stored.read_bytes()
    return stored.name in (files.git_hash(data), files.describe(data)["sha256"])


def asked(
    request: Callable[[], Result], failed: str, repo: str, revision: str | None = None, attempts: int = ATTEMPTS
) -> Result:
    """The result of a request to the Hub, repeated while that may help.

    HubError, which begins with ``failed``, if it cannot be done.
    """
    for attempt in range(attempts):
        try:
            return request()
        except Exception as error:
            if not _is_of_the_outside(error):
                raise
            wait = _seconds_until_repeat(error, attempt)
            if wait is None or attempt == attempts - 1:
                raise errors.hub(failed, _reason(error, repo, revision)) from error
            time.sleep(wait)
    raise AssertionError("the last attempt raises or returns")


def _is_of_the_outside(error: Exception) -> bool:
    """Whether the Hub, the network, the disk or a name is at fault, rather than this package.

    ValueError is that of an answer that is no JSON, RuntimeError that of the client's threads. Other errors of the
    client and of its HTTP library, which is not the same in all its releases, are known by their module.
    """
    from huggingface_hub.errors import HTTPError

    theirs = ("huggingface_hub", HTTPError.__module__.partition(".")[0])
    return isinstance(error, (OSError, ValueError, RuntimeError)) or type(error).__module__.partition(".")[0] in theirs


def _seconds_until_repeat(error: Exception, attempt: int) -> float | None:
    """How long to wait before a request is repeated; None if that would be in vain."""
    if _client_gave_up(error):
        return None
    response = _response(error)
    if response is None:
        return 2**attempt if any(type(cause).__name__ in BROKEN for cause in _causes(error)) else None
    if response.status_code not in (429, 500, 502, 503, 504):
        return None
    told = response.headers.get("Retry-After", "")
    wait = int(told) if told.isdigit() else 2**attempt
    return wait if wait <= LONGEST_WAIT else None


def _client_gave_up(error: Exception) -> bool:
    """Whether the client has repeated the request itself, which its releases do for different requests.

    Its loop counts the attempts in ``nb_tries``. Were it repeated here too, a failure would take minutes.
    """
    frames = (frame for cause in _causes(error) for frame, _ in traceback.walk_tb(cause.__traceback__))
    return any(frame.f_locals.get("nb_tries", 1) > 1 for frame in frames)


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__


def _response(error: Exception) -> Any:
    """The answer of the Hub that led to an error; None if there was none."""
    found = (getattr(cause, "response", None) for cause in _causes(error))
    return next((response for response in found if response is not None), None)


def _reason(error: Exception, repo: str, revision: str | None) -> str:
    """Why a request failed, in words that say what to do."""
    from huggingface_hub import constants
    from huggingface_hub.errors import (
        GatedRepoError,
        HTTPError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    page = f"{constants.ENDPOINT}/{repo}"
    for cause in _causes(error):
        if isinstance(cause, GatedRepoError):
            return f"access must be asked for at {page}; {LOG_IN}"
        if isinstance(cause, RepositoryNotFoundError):
            return f"there is no repository {page}, or it is private; {LOG_IN}"
        if isinstance(cause, RevisionNotFoundError):
            return f"it has no commit, tag or branch {revision!r}"
        if isinstance(cause, OfflineModeIsEnabled):
            return "HF_HUB_OFFLINE is set, so there is only what the cache holds"
    if (response := _response(error)) is not None:
        status = response.status_code
        said = response.headers.get("X-Error-Message") or response.reason_phrase
        return f"it answered {status} ({said}){_ADVICE.get(status, '')}"
    first = list(_causes(error))[-1]
    if isinstance(first, OSError) and first.errno in FULL:
        return f"{first.strerror} while writing to {constants.HF_HUB_CACHE}"
    said = str(first) or type(first).__name__
    if any(isinstance(cause, HTTPError) for cause in _causes(error)):
        return f"there is no connection to {constants.ENDPOINT}, or it broke off: {said}"
    return said


LOG_IN = "log in with `hf auth login`, or set HF_TOKEN to a token that has the right"
_ADVICE = {
    401: f"; {LOG_IN}",
    403: f"; {LOG_IN}",
    412: "; somebody else has changed it meanwhile, so nothing was changed",
    429: "; it wants fewer requests, so try again later",
}

"""Publishing a model: its whole folder as one commit to the Hugging Face Hub, or nothing."""

import contextlib
import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import nn

from zoo import card, errors, files, hub, loading, registry, saving
from zoo.metrics import check_metrics, pictures_of
from zoo.version import __version__

ATTRIBUTES = ".gitattributes"
"""The Hub's own file in every repository, which says what is stored as large files; it is left as it is."""


@dataclass(frozen=True)
class Publication:
    """What was published or, after a dry run, what would be."""

    repo: str
    changes: tuple[str, ...]
    """What the commit does, one sentence per file: "adds README.md", "changes ...", "removes ..."."""
    parent_commit: str | None
    """The commit that the model was compared with; None if the repository was not there."""
    commit: str | None = None
    """The commit that holds the model, to be pinned; None after a dry run."""
    pull_request: str | None = None
    """The address of the pull request, if one was asked for."""

    @property
    def replaced(self) -> tuple[str, ...]:
        """The changes to files that are there, which are changed or removed."""
        return tuple(change for change in self.changes if not change.startswith("adds"))

    def __str__(self) -> str:
        if self.commit is None:
            lines = self.changes or ("changes nothing: the Hub has the same files",)
            return "\n".join([f"{self.repo}:", *(f"  {change}" for change in lines)])
        lines = (f"{self.repo} is at commit {self.commit}",)
        if self.pull_request:
            lines = (f"{self.pull_request} proposes commit {self.commit}",)
        return "\n".join([*lines, f'zoo.load("{self.repo}", revision="{self.commit}")'])


@dataclass(frozen=True)
class _Remote:
    """A repository as it is now."""

    head: str
    private: bool
    made_with: str | None
    """What its card says that loads it; "snn-zoo" for our models."""
    hashes: dict[str, str]
    """Of each file: the SHA-256 of a large file, git's hash of another."""


def publish(
    model_or_folder: nn.Module | str | os.PathLike,
    repo: str,
    *,
    metrics: dict[str, Any] | None = None,
    private: bool | None = None,
    create_pr: bool = False,
    parent_commit: str | None = None,
    dry_run: bool = False,
) -> Publication:
    """Publish a model as the repository ``repo`` ("org/name") on the Hugging Face Hub: just its folder, in one commit.

    A folder is named as for :func:`zoo.load`; a model is saved first, with its ``metrics`` (see :func:`zoo.save`).
    Where the card says to load the model from a local folder, the one that is published says ``repo``. A missing
    repository is created, public unless ``private`` or its organisation's default is. With ``dry_run`` nothing is sent,
    and the answer says what would change. Where files on the Hub would change or disappear, ``parent_commit`` must be
    the commit that they are replaced at, such as that of a dry run, so that nobody's newer work is lost; with
    ``create_pr`` a pull request to a repository that is there proposes the commit, and it is not needed. A token, of
    ``HF_TOKEN`` or ``hf auth login``, must give the right to write, also for a dry run, as it shows what is private. At
    the end, the files that the Hub lists at the commit are compared with those that were sent.

    Raises ValueError, before anything is sent, for a model that does not load, whose weights are not those that were
    measured, whose card is not the one of its config and metrics or says nothing of its data or licence, and for a
    folder with other files; HubError for a missing token or right, a repository of another library, one that has
    changed since ``parent_commit``, a Hub that cannot be reached, or a commit that does not hold what was sent.
    """
    publisher = _Publisher(repo, private, create_pr)
    if isinstance(model_or_folder, nn.Module):
        with tempfile.TemporaryDirectory() as parent:
            told = {} if metrics is None else metrics
            folder = saving.save(model_or_folder, Path(parent) / repo.rpartition("/")[2], told | {"load_as": repo})
            contents = contents_to_publish(folder, repo)
    elif metrics is not None:
        raise ValueError("metrics= belongs to a model that is not saved yet; a folder has its own")
    else:
        contents = contents_to_publish(registry.locate(model_or_folder), repo)
    return publisher.publish(contents, parent_commit, dry_run)


def contents_to_publish(folder: Path, repo: str) -> dict[str, bytes]:
    """All files of a model's folder by name, checked; ValueError for one that must not be published.

    They are as in the folder, but that the card and metrics never say to load the model from a local folder.
    """
    config, metrics = files.read_config(folder), files.read_metrics(folder)
    needed = {name: files.read_checked(folder, name, record) for name, record in config["files"].items()}
    check_metrics(config["name"], metrics)
    if "data" not in metrics or "licence" not in metrics:
        raise errors.not_to_publish(
            folder,
            "its card says nothing of its data and licence; save it with both: "
            'zoo.save(model, folder, metrics={"licence": ..., "data": {...}}), as docs/publishing.md shows',
        )
    measured, own = metrics.get("weights_sha256", "unknown"), config["files"][files.WEIGHTS]["sha256"]
    if metrics.get("results") and measured != own:
        raise errors.not_to_publish(
            folder, f"its results are of other weights (SHA-256 {measured}) than it has ({own}); measure this model"
        )
    shown = [files.CONFIG, files.METRICS, *pictures_of(metrics)]
    made = {files.CARD: card.render_card(config, metrics).encode(), **card.eval_results(config, metrics)}
    for name, data in made.items():
        path = folder / name
        if files.read_plain(path.parent, path.name) != data:
            raise errors.not_to_publish(
                folder,
                f"its {name} is not the one of its config and metrics; "
                f"zoo.saving.rewrite_config({str(folder)!r}) makes it anew",
            )
    contents = needed | made | {name: files.read_plain(folder, name) for name in shown}
    found = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir()}
    if others := found - set(contents):
        raise errors.not_to_publish(folder, f"it holds other files too: {', '.join(sorted(others))}")
    loading.load(folder)
    if registry.is_path(metrics.get("load_as", "./")):
        metrics = metrics | {"load_as": repo}
        contents[files.METRICS] = files.to_json(metrics)
        contents[files.CARD] = card.render_card(config, metrics).encode()
    return contents


class _Publisher:
    """Compares a model with a repository, and commits it."""

    def __init__(self, repo: str, private: bool | None, create_pr: bool):
        from huggingface_hub import HfApi, get_token

        if not registry.is_repository(repo):
            raise ValueError(f'a repository on the Hub is named "org/name"; got {repo!r}')
        self.repo, self.private, self.create_pr = repo, private, create_pr
        if self.asked(get_token) is None:
            raise errors.not_published(repo, f"there is no token; {hub.LOG_IN}")
        self.api = HfApi(library_name="snn-zoo", library_version=__version__)

    def publish(self, contents: dict[str, bytes], parent_commit: str | None, dry_run: bool) -> Publication:
        remote = self.remote()
        if remote is None and self.create_pr:
            raise errors.not_published(
                self.repo, "there is no such repository to propose it to, or the token may not see it"
            )
        if remote is None and not dry_run:
            self.asked(lambda: self.api.create_repo(self.repo, private=self.private, exist_ok=True))
            remote = self.remote()
        if remote is None:
            return Publication(self.repo, self.changes(contents, {}), None)
        self.check_ours(remote)
        plan = Publication(self.repo, self.changes(contents, remote.hashes), remote.head)
        if dry_run:
            return plan
        if not plan.changes:
            return replace(plan, commit=remote.head)
        if not self.create_pr:
            self.check_parent(plan, parent_commit)
        return self.commit(contents, remote, plan)

    def asked(self, request: Callable[[], Any], attempts: int = hub.ATTEMPTS) -> Any:
        failed = f"could not publish {self.repo!r} on the Hugging Face Hub"
        return hub.asked(request, failed, self.repo, attempts=attempts)

    def info(self, revision: str | None = None) -> Any:
        """What the Hub says of the repository, with the hashes of its files, in one request."""
        return self.api.model_info(self.repo, revision=revision, files_metadata=True)

    def remote(self) -> _Remote | None:
        """The repository as it is now; None if there is none."""
        from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

        def look() -> Any:
            try:
                return self.info()
            except GatedRepoError:  # a kind of the next
                raise
            except RepositoryNotFoundError:
                return None

        info = self.asked(look)
        return info and _Remote(info.sha, bool(info.private), vars(info)["library_name"], _hashes(info))

    def check_ours(self, remote: _Remote) -> None:
        """HubError if the repository is public and should not be, or the reverse, or holds anything but our models."""
        if remote.made_with not in (None, "snn-zoo"):
            raise errors.not_published(self.repo, f"it is a repository of {remote.made_with}")
        if self.private is not None and self.private != remote.private:
            there, wanted = ("private", "public") if remote.private else ("public", "private")
            raise errors.not_published(self.repo, f"it is {there}; make it {wanted} on its page first")
        if set(remote.hashes) <= {ATTRIBUTES, files.CARD}:  # a first README is no more than a start
            return
        with contextlib.suppress(errors.DamagedModelError):  # ours, and to be replaced
            hub.snapshot(self.repo, remote.head, only=[files.CONFIG])

    def changes(self, contents: dict[str, bytes], there: dict[str, str]) -> tuple[str, ...]:
        """What the commit does to the files that are ``there``, by their hashes."""
        lines = []
        for name, data in sorted(contents.items()):
            if name not in there:
                lines.append(f"adds {name} ({len(data):,} bytes)")
            elif there[name] not in (files.describe(data)["sha256"], files.git_hash(data)):
                lines.append(f"changes {name} ({len(data):,} bytes)")
        return (*lines, *(f"removes {name}" for name in self.surplus(contents, there)))

    def surplus(self, contents: dict[str, bytes], there: dict[str, str]) -> list[str]:
        return sorted(set(there) - set(contents) - {ATTRIBUTES})

    def check_parent(self, plan: Publication, parent_commit: str | None) -> None:
        if parent_commit not in (None, plan.parent_commit):
            raise errors.not_published(self.repo, f"it is not at {parent_commit} any more, but at {plan.parent_commit}")
        if parent_commit is None and plan.replaced:
            raise errors.would_replace(self.repo, plan.replaced, plan.parent_commit)

    def commit(self, contents: dict[str, bytes], remote: _Remote, plan: Publication) -> Publication:
        from huggingface_hub import CommitOperationAdd, CommitOperationDelete

        def send() -> Any:
            # Made anew for each attempt, since the client marks what it has sent.
            return self.api.create_commit(
                self.repo,
                [
                    *(CommitOperationAdd(name, data) for name, data in sorted(contents.items())),
                    *(CommitOperationDelete(name) for name in self.surplus(contents, remote.hashes)),
                ],
                commit_message=f"Model saved with snn-zoo {__version__}",
                parent_commit=remote.head,
                create_pr=self.create_pr,
            )

        try:
            # A second attempt with the same parent cannot make a second commit, but a second pull request.
            made = self.asked(send, attempts=1 if self.create_pr else hub.ATTEMPTS)
        except errors.HubError:
            # Perhaps it was done, and only the answer was lost.
            now = None if self.create_pr else self.remote()
            if now is None or self.changes(contents, now.hashes):
                raise
            return replace(plan, commit=now.head)
        self.check_commit(contents, made.oid)
        return replace(plan, commit=made.oid, pull_request=made.pr_url)

    def check_commit(self, contents: dict[str, bytes], commit: str) -> None:
        """HubError unless the Hub lists, at the new commit, what was sent."""
        failed = f"{self.repo!r} on the Hugging Face Hub has the new commit {commit}, but it could not be checked"
        info = hub.asked(lambda: self.info(commit), failed, self.repo, commit)
        if differences := self.changes(contents, _hashes(info)):
            raise errors.not_what_was_sent(self.repo, commit, differences)


def _hashes(info: Any) -> dict[str, str]:
    """The hash of each file that the Hub lists: the SHA-256 of a large one, git's of another."""
    return {file.rfilename: file.lfs.sha256 if file.lfs else file.blob_id for file in info.siblings or ()}

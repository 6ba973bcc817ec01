"""The errors of the zoo, and their messages.

All are kinds of ValueError, except :class:`HubError`, which is an OSError. A folder that does not exist is a plain
FileNotFoundError.
"""

import difflib
import os
from collections.abc import Collection
from pathlib import Path

LONGEST = 400
"""The most characters of a file's content that a message shows."""


class UnknownNameError(ValueError):
    """No model, architecture or task of that name."""


class NewerFormatError(ValueError):
    """A model folder written by a newer version of this package than the installed one."""


class DamagedModelError(ValueError):
    """A file of a model is missing, truncated, altered, or different from what ``config.json`` says."""


class WeightsMismatchError(ValueError):
    """Weights that do not fit the network they are loaded into."""


class HubError(OSError):
    """A repository that could not be fetched from the Hub, or not be published there."""


def unknown(kind: str, name: object, known: Collection[str]) -> UnknownNameError:
    """``name`` is no ``kind``; the message suggests the nearest known name."""
    close = difflib.get_close_matches(_short(str(name)), known, n=1)
    hint = f"did you mean {close[0]!r}?" if close else f"there are: {', '.join(sorted(known)) or 'none'}"
    return UnknownNameError(f"no {kind} is called {_short(repr(name))}; {hint}")


def unknown_model(name: str, known: Collection[str]) -> UnknownNameError:
    """No bundled model has this bare name. A local folder of that name is mentioned but never loaded."""
    message = str(unknown("bundled model", name, known))
    if name and "\0" not in name and Path(name).is_dir():
        message += f"; to load the local folder of that name, write './{name}'"
    return UnknownNameError(message)


def repository_or_folder(name: str) -> UnknownNameError:
    """The name is both a repository's and a local folder's; which one is meant is never guessed."""
    return UnknownNameError(
        f"{name!r} is the name of a repository on the Hugging Face Hub, and there is a local folder {name!r} with a "
        f"model: write './{name}' for the folder, or zoo.load({name!r}, revision='main') for the repository"
    )


def folder_of_models(folder: Path, models: list[Path]) -> DamagedModelError:
    found = ", ".join(map(str, models[:5]))
    return DamagedModelError(f"{folder} is no model's folder: it has no config.json. There are models in it: {found}")


def newer_format(path: Path, found: int, known: int) -> NewerFormatError:
    return NewerFormatError(
        f"{path} has format_version {found}, and this snn-zoo reads up to {known}; "
        "upgrade it with: pip install --upgrade snn-zoo"
    )


def bad_config(path: Path, problem: str) -> DamagedModelError:
    """An error in a config or another JSON file; ``problem`` continues a sentence that begins with the file's name."""
    return DamagedModelError(f"{path} {_short(problem)}")


def _short(text: str) -> str:
    """``text``, shortened: an untrusted file may hold a megabyte where a word is expected."""
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}..."


def no_folder(folder: str, previous: Path | None) -> FileNotFoundError:
    """``previous`` is the model that was there when a process was killed while replacing it."""
    lies = f". A save to it was interrupted: the model that was there is {str(previous)!r}; rename that" * bool(
        previous
    )
    return FileNotFoundError(f"there is no folder {folder!r}{lies}")


def missing_file(path: Path) -> DamagedModelError:
    return DamagedModelError(f"{path} is missing; the model folder is not complete")


def no_plain_file(path: Path) -> DamagedModelError:
    return DamagedModelError(f"{path} is no plain file, as all files of a model are")


def link_out(path: Path) -> DamagedModelError:
    return DamagedModelError(
        f"{path} is a link to something outside the model's folder, which is not followed; put the file there itself"
    )


def unreadable_file(path: Path, error: OSError) -> DamagedModelError:
    return DamagedModelError(f"{path} cannot be read: {error.strerror or error}")


def too_large(path: Path, found: int, most: int) -> DamagedModelError:
    return DamagedModelError(f"{path} has {found} bytes, more than the {most} that such a file may have")


def wrong_size(path: Path, expected: int, found: int) -> DamagedModelError:
    return DamagedModelError(
        f"{path} is truncated or altered: expected {expected} bytes, found {found}. Fetch or save the model again"
    )


def wrong_hash(path: Path, expected: str, found: str) -> DamagedModelError:
    return DamagedModelError(
        f"{path} is altered: expected SHA-256 {expected}, found {found}. Fetch or save the model again"
    )


def wrong_digest(path: Path, expected: object, found: str) -> DamagedModelError:
    return bad_config(path, f"is altered: its digest should be {found}, and is {expected!r}. Fetch or save it again")


def hub(failed: str, reason: str) -> HubError:
    """``failed`` says what was not done, and ``reason`` why."""
    return HubError(f"{failed}: {' '.join(reason.split())}")


def or_folder(error: HubError, repo: str) -> HubError:
    """``error``, which mentions the local folder of the repository's name, if there is one."""
    hint = f". To load the local folder of that name, write './{repo}'" if Path(repo).is_dir() else ""
    return HubError(f"{error}{hint}")


def not_a_model(repo: str, problem: str) -> HubError:
    return HubError(f"{repo!r} on the Hugging Face Hub holds no model of snn-zoo: {_short(problem)}")


def damaged_on_the_hub(repo: str, folder: Path, damage: DamagedModelError) -> DamagedModelError:
    """``damage`` to a repository's files in the cache's ``folder``, which is named as its commit."""
    problem = str(damage).replace(f"{folder}{os.sep}", "")
    return DamagedModelError(f"{repo!r} on the Hugging Face Hub, at commit {folder.name}: {problem}")


def would_replace(repo: str, replaced: tuple[str, ...], head: str | None) -> HubError:
    return not_published(
        repo, f"that {', '.join(replaced)}; if it should, say parent_commit={head!r}, or create_pr=True"
    )


def not_what_was_sent(repo: str, commit: str, differences: tuple[str, ...]) -> HubError:
    """``differences`` are the changes that would make the commit what was sent."""
    return HubError(
        f"{repo!r} on the Hugging Face Hub has the new commit {commit}, but it does not hold what was sent, "
        f"which still {_short(', '.join(differences))}; look at it, and publish again"
    )


def not_published(repo: str, problem: str) -> HubError:
    return HubError(f"nothing was published to {repo!r} on the Hugging Face Hub: {_short(problem)}")


def not_to_publish(folder: Path, problem: str) -> ValueError:
    return ValueError(f"{folder} cannot be published: {_short(problem)}")


def not_on_the_hub(name: str) -> ValueError:
    return ValueError(f"{name!r} is not on the Hugging Face Hub yet; zoo.load({name!r}) has it from this package")


def no_model_for(task: str, having: list[str]) -> ValueError:
    return ValueError(f"no bundled model is for {task}; there are models for {', '.join(having) or 'no task'}")


def takes_tensors(network: object, call: str) -> TypeError:
    return TypeError(f"{type(network).__name__} takes tensors where it is called itself; write {call}")


def no_safetensors(path: Path, problem: str) -> DamagedModelError:
    return bad_config(path, f"is no safetensors file: {problem}")


def not_finite(path: Path, tensor: str) -> DamagedModelError:
    return bad_config(path, f"has NaN or infinity in the tensor {tensor!r}")


def weights_mismatch(path: Path, problems: list[str]) -> WeightsMismatchError:
    shown = "; ".join(map(_short, problems[:5]))
    more = f"; and {len(problems) - 5} more" if len(problems) > 5 else ""
    return WeightsMismatchError(f"{path} does not fit the network: it has {shown}{more}")


def does_not_build(path: Path, architecture: str, error: Exception) -> DamagedModelError:
    return bad_config(path, f"does not fit the architecture {architecture!r}: {type(error).__name__}: {error}")


def unusable_device(device: object, error: Exception) -> ValueError:
    reason = str(error).splitlines()[0]
    return ValueError(f"the device {str(device)!r} cannot be used: {reason}")


def not_an_architecture(network: object) -> TypeError:
    return TypeError(
        f"{type(network).__name__} is no registered architecture, so it could not be loaded again; "
        "decorate its class with zoo.registry.register_architecture"
    )


def does_not_load_back(network: object, reason: str) -> ValueError:
    return ValueError(f"{type(network).__name__} was not saved, for it would not load as it is: {reason}")

"""The command ``snn-zoo publish``: it shows what would change on the Hub, asks, and then publishes."""

import sys
from typing import Annotated, Any

import typer

import zoo
from zoo import errors
from zoo.command.failing import say, tell


def publish_command(
    name: Annotated[str | None, typer.Argument(help="A ./folder, or a bundled model.")] = None,
    repo: Annotated[str | None, typer.Argument(help="The repository on the Hugging Face Hub: org/name.")] = None,
    every: Annotated[
        str | None, typer.Option("--all", metavar="ORG", help="Publish all bundled models, each as ORG/its-name.")
    ] = None,
    private: Annotated[bool, typer.Option("--private", help="Only for those who may read it.")] = False,
    create_pr: Annotated[bool, typer.Option("--create-pr", help="Propose it in a pull request.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would change, and stop.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask. Replaces files only at --parent-commit.")] = False,
    parent_commit: Annotated[
        str | None, typer.Option(metavar="COMMIT", help="The commit on the Hub whose files may be replaced.")
    ] = None,
) -> None:
    """Publish a model on the Hugging Face Hub: exactly its folder, as one commit.

    A token with the right to write comes from HF_TOKEN or `hf auth login`. What would change is shown first. The commit
    to pin is printed at the end; after --all, as the lines for PUBLISHED in zoo/registry.py."""
    wanted = _wanted(name, repo, every)
    if every and parent_commit:
        raise ValueError("--parent-commit is of one repository; leave it out with --all")
    options: dict[str, Any] = {"private": private or None, "create_pr": create_pr}
    plans = {}
    for model, place in wanted.items():
        plans[model] = zoo.publish(model, place, parent_commit=parent_commit, dry_run=True, **options)
        tell_lines(str(plans[model]))
    if dry_run:
        return
    if yes and not (parent_commit or create_pr):  # checked for all before any is sent
        for plan in plans.values():
            if plan.replaced:
                raise errors.would_replace(plan.repo, plan.replaced, plan.parent_commit)
    if any(plan.changes for plan in plans.values()) and not yes:
        tell_lines("Publish this? [y/N]")
        if sys.stdin.readline().strip().lower() not in ("y", "yes"):
            tell("nothing was published")
            raise typer.Exit(1)
    for model, plan in plans.items():
        parent = parent_commit if yes else parent_commit or plan.parent_commit
        made = zoo.publish(model, plan.repo, parent_commit=parent, **options)
        tell_lines(str(made))
        pin = f'    "{model}": Pin("{made.repo}", "{made.commit}"),\n' if every else f"{made.commit}\n"
        say(pin)


def _wanted(name: str | None, repo: str | None, every: str | None) -> dict[str, str]:
    """The repository of each model to publish."""
    if every and (name or repo):
        raise ValueError("give a model and its repository, or --all ORG, not both")
    if every:
        return {model: f"{every}/{model}" for model in zoo.list_models()}
    if not (name and repo):
        raise ValueError("give a model and its repository (./folder org/name), or --all ORG")
    return {name: repo}


def tell_lines(text: str) -> None:
    """Write lines for people to standard error; standard output has only what is to be pinned."""
    print(text, file=sys.stderr, flush=True)

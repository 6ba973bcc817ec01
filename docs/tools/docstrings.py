"""Docstrings as Markdown, for the reference: they are written with Sphinx's roles and double colons.

A role such as ``:class:`neurons.Neuron``` becomes a link where the reference has that name, and code elsewhere.
"""

import re
from typing import Any

import griffe

ROLE = re.compile(r":(?:class|func|meth|mod|data|attr):`~?([\w.]+)`")
DOUBLE_COLON = re.compile(r"^( *)(.*?)::$", re.MULTILINE)


def linked(found: re.Match[str], here: griffe.Object) -> str:
    """The role as an optional link of mkdocs-autorefs: to the name itself or, if it is short, to one near ``here``."""
    name = found[1]
    around = [here.path, here.parent.path if here.parent else "", here.module.path]
    near = [f"{place}.{name}" for place in around if place]
    full = next((path for path in near if _exists(here, path)), name)
    return f'<autoref identifier="{full}" optional><code>{name}</code></autoref>'


def _exists(here: griffe.Object, path: str) -> bool:
    try:
        here.package.get_member(path.removeprefix(f"{here.package.path}."))
    except (KeyError, ValueError, griffe.AliasResolutionError):
        return False
    return True


def in_markdown(text: str, here: griffe.Object) -> str:
    """The text of a docstring in Markdown."""
    text = DOUBLE_COLON.sub(lambda found: f"{found[1]}{found[2]}:" if found[2].strip() else "", text)
    return ROLE.sub(lambda found: linked(found, here), text)


class Docstrings(griffe.Extension):
    """Turns every docstring into Markdown as soon as its package is read."""

    def on_package(self, *, pkg: griffe.Module, **_: Any) -> None:
        todo: list[griffe.Object] = [pkg]
        while todo:
            one = todo.pop()
            if one.docstring:
                one.docstring.value = in_markdown(one.docstring.value, one)
            todo += [member for member in one.members.values() if not member.is_alias]

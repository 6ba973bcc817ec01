"""Tokenizers from untrusted files: made of parts from a closed list, or refused.

The library that runs a tokenizer does what its file says. Some files make it panic, take unlimited memory, never
return, or cut texts short silently. So a file is checked before the library sees it. It may hold the parts that our
recipes write, and a few others of the same harmless kind. None of them makes a text grow by more than a few characters,
and only regular expressions that are written here are run.
"""

import functools
from collections.abc import Callable, Collection
from typing import Any

from tokenizers import Tokenizer

from zoo import strict_json

TOKENIZER_FILE = "tokenizer.json"
REGULAR_EXPRESSIONS = (r"\s+", r"(?i)<br\s*/?>", r"\w+(?:'\w+)*|\.{2,}|[^\w\s]")
"""The regular expressions that a part may hold. One that a recipe adds must end on any text."""
MOST_PARTS = 8
LONGEST_TOKEN = 256
MOST_ADDED = 64
_BEHAVIORS = ("Removed", "Isolated", "MergedWithPrevious", "MergedWithNext", "Contiguous")
_SCHEMES = ("always", "first", "never")

Check = Callable[[Any], bool]
"""Whether a value is allowed in its place."""


def check_size(tokenizer: Tokenizer, tokens: int) -> None:
    """Raise ValueError unless the tokenizer has the number of tokens that a network's config says."""
    if tokenizer.get_vocab_size() != tokens:
        raise ValueError(f"the tokenizer has {tokenizer.get_vocab_size()} tokens and the config says {tokens}")


def read_tokenizer(data: bytes, special_tokens: Collection[str]) -> Tokenizer:
    """The tokenizer that the file ``data`` holds.

    ``special_tokens`` are those that the network knows, in the order of their ids from 0. Raises ValueError that says
    what is wrong for anything that is not on the list.
    """
    _check_file(data, tuple(special_tokens))
    try:
        return Tokenizer.from_buffer(data)
    except Exception as error:  # the library raises plain Exceptions
        raise ValueError(f"the tokenizer cannot be built: {error}") from error


@functools.lru_cache(maxsize=1)
def _check_file(data: bytes, special_tokens: tuple[str, ...]) -> None:
    """Raise ValueError unless the whole file is on the list. The last good file is remembered: loading builds twice."""
    try:
        content = strict_json.parse(data)
    except ValueError as error:
        raise ValueError(f"the tokenizer {error}") from None
    _check_fields(
        "the tokenizer",
        content,
        {
            "version": _one_of("1.0"),
            "truncation": _one_of(None),
            "padding": _one_of(None),
            "added_tokens": _is(list),
            "normalizer": _is(dict, type(None)),
            "pre_tokenizer": _is(dict, type(None)),
            "post_processor": _one_of(None),
            "decoder": _is(dict, type(None)),
            "model": _is(dict),
        },
    )
    vocabulary = _checked_model(content["model"])
    if [vocabulary.get(token) for token in special_tokens] != [*range(len(special_tokens))]:
        raise ValueError(f"the tokenizer must begin with the tokens {', '.join(special_tokens)}")
    _check_added_tokens(content["added_tokens"], vocabulary)
    for name, kinds, sequence in (
        ("normalizer", _NORMALIZERS, "normalizers"),
        ("pre_tokenizer", _PRE_TOKENIZERS, "pretokenizers"),
        ("decoder", _DECODERS, "decoders"),
    ):
        _check_parts(name, content[name], kinds, sequence)


def _check_parts(name: str, part: dict[str, Any] | None, kinds: dict[str, dict[str, Check]], sequence: str) -> None:
    """A part of a tokenizer, or a sequence of such parts; a sequence holds no sequence."""
    parts = [part]
    if part is None:
        return
    if part.get("type") == "Sequence":
        what = f"the tokenizer's {name}"
        _check_fields(what, part, {"type": _is(str), sequence: _is(list)})
        parts = part[sequence]
        if len(parts) > MOST_PARTS:
            raise ValueError(f"{what} has {len(parts)} parts; it may have {MOST_PARTS} at most")
    for one in parts:
        kind = one.get("type") if isinstance(one, dict) else None
        if not isinstance(kind, str) or kind not in kinds:
            raise ValueError(f"the tokenizer's {name} may be made of {', '.join(kinds)}; got {_short(kind)}")
        _check_fields(f"the tokenizer's {kind}", one, {"type": _is(str), **kinds[kind]})


def _check_fields(what: str, content: Any, fields: dict[str, Check]) -> None:
    """Raise ValueError unless ``content`` is an object with exactly these fields, each with an allowed value."""
    if not isinstance(content, dict) or content.keys() != fields.keys():
        found = ", ".join(map(_short, content)) if isinstance(content, dict) else _short(content)
        raise ValueError(f"{what} must have the fields {', '.join(fields)} and no other; got {found}")
    for field, may_be in fields.items():
        if not may_be(content[field]):
            raise ValueError(f"{what} has a {field} that it may not have: {_short(content[field])}")


def _checked_model(model: dict[str, Any]) -> dict[str, int]:
    """The vocabulary of a tokenizer's model."""
    kind = model.get("type")
    if not isinstance(kind, str) or kind not in _MODELS:
        raise ValueError(f"the tokenizer's model must be one of {', '.join(_MODELS)}; got {_short(kind)}")
    _check_fields(f"the tokenizer's {kind}", model, {"type": _is(str), **_MODELS[kind]})
    vocabulary = model["vocab"]
    if set(map(type, vocabulary.values())) != {int} or set(vocabulary.values()) != set(range(len(vocabulary))):
        raise ValueError("the ids of the tokenizer's vocabulary must be the whole numbers from 0 on, each once")
    if any(not 0 < len(token) <= LONGEST_TOKEN for token in vocabulary):
        raise ValueError(f"a token must have 1 to {LONGEST_TOKEN} characters")
    if model["unk_token"] not in vocabulary:
        raise ValueError(f"the tokenizer's unk_token {_short(model['unk_token'])} is not in its vocabulary")
    for merge in model.get("merges", ()):
        pair = isinstance(merge, list) and len(merge) == 2 and all(isinstance(part, str) for part in merge)
        if not pair or not {*merge, "".join(merge)} <= vocabulary.keys():
            raise ValueError(f"the tokenizer's merge {_short(merge)} is no pair of tokens that make a third")
    return vocabulary


def _check_added_tokens(added: list[Any], vocabulary: dict[str, int]) -> None:
    if len(added) > MOST_ADDED:
        raise ValueError(f"the tokenizer adds {len(added)} tokens; it may add {MOST_ADDED} at most")
    plain = {field: _one_of(False) for field in ("single_word", "lstrip", "rstrip", "normalized")}
    for token in added:
        fields = {"id": _is(int), "content": _is(str), **plain, "special": _one_of(True)}
        _check_fields("an added token of the tokenizer", token, fields)
        if vocabulary.get(token["content"]) != token["id"]:
            raise ValueError(f"the tokenizer's vocabulary has the added token {_short(token['content'])} elsewhere")


def _short(value: Any) -> str:
    text = repr(value) if not isinstance(value, dict | list) or len(value) < 20 else f"{len(value)} values"
    return text if len(text) <= 80 else f"{text[:80]}..."


def _is(*kinds: type) -> Check:
    return lambda value: type(value) in kinds


def _one_of(*values: Any) -> Check:
    return lambda value: any(type(value) is type(known) and value == known for known in values)


def _may_split(pattern: Any) -> bool:
    """A regular expression from the list, or some text."""
    if pattern in [{"Regex": known} for known in REGULAR_EXPRESSIONS]:
        return True
    text = pattern.get("String") if isinstance(pattern, dict) and len(pattern) == 1 else None
    return isinstance(text, str) and 0 < len(text) <= LONGEST_TOKEN


def _may_replace(content: Any) -> bool:
    """At most one character: no longer than what any pattern matches."""
    return isinstance(content, str) and len(content) <= 1


_METASPACE = {
    "replacement": _one_of("\u2581", "_"),
    "prepend_scheme": _one_of(*_SCHEMES),
    "split": _is(bool),
}
_NORMALIZERS: dict[str, dict[str, Check]] = {
    **{plain: {} for plain in ("NFC", "NFD", "NFKC", "NFKD", "Lowercase", "StripAccents")},
    "Strip": {"strip_left": _is(bool), "strip_right": _is(bool)},
    "Replace": {"pattern": _may_split, "content": _may_replace},
}
_PRE_TOKENIZERS: dict[str, dict[str, Check]] = {
    "Whitespace": {},
    "WhitespaceSplit": {},
    "Punctuation": {"behavior": _one_of(*_BEHAVIORS)},
    "Digits": {"individual_digits": _is(bool)},
    "Metaspace": _METASPACE,
    "Split": {"pattern": _may_split, "behavior": _one_of(*_BEHAVIORS), "invert": _is(bool)},
}
_DECODERS: dict[str, dict[str, Check]] = {"Metaspace": _METASPACE, "Fuse": {}}
_MODELS: dict[str, dict[str, Check]] = {
    "BPE": {
        "dropout": _one_of(None),
        "unk_token": _is(str),
        "continuing_subword_prefix": _one_of(None),
        "end_of_word_suffix": _one_of(None),
        "fuse_unk": _is(bool),
        "byte_fallback": _one_of(False),
        "ignore_merges": _is(bool),
        "vocab": _is(dict),
        "merges": _is(list),
    },
    "WordLevel": {"vocab": _is(dict), "unk_token": _is(str)},
}

"""Nearest names for error messages."""

from __future__ import annotations

import difflib
import unicodedata
from collections.abc import Iterable


def normalize(name: str) -> str:
    """Reduce a name to the form in which two spellings of one word are equal.

    Args:
        name: a class or dataset name such as ``"Trash_Can"``.

    Returns:
        The name in lower case, with underscores as spaces and single spaces: ``"trash can"``. Letters with accents
        are equal however they are composed, and so is an emoji with and without its colour mark.
    """
    if not name.isascii():
        name = unicodedata.normalize("NFKC", name).replace("\ufe0f", "")
    return " ".join(name.replace("_", " ").casefold().split())


def is_blank(name: str) -> bool:
    """Say whether nothing of a name can be seen.

    Args:
        name: a class or dataset name.

    Returns:
        True if it holds only spaces, underscores, and control or zero-width characters, if anything.
    """
    return all(unicodedata.category(letter)[0] in "CZ" for letter in normalize(name))


def nearest_names(name: str, known: Iterable[str], count: int = 3) -> list[str]:
    """Find the known names that look most like a given one.

    Args:
        name: the name that was not found.
        known: the names that exist.
        count: largest number of names returned.

    Returns:
        Up to ``count`` of the known names, best first; empty if none is similar.
    """
    spelled: dict[str, str] = {}
    for candidate in known:
        spelled.setdefault(normalize(candidate), candidate)
    word = normalize(name)
    close = difflib.get_close_matches(word, list(spelled), n=count, cutoff=0.6)
    close += [c for c in spelled if c not in close and len(word) > 2 and (word in c or (len(c) > 2 and c in word))]
    return [spelled[c] for c in close[:count]]


def did_you_mean(name: str, known: Iterable[str], show_all: int = 12) -> str:
    """Write the end of an error message: the nearest names, or everything that exists if that is short.

    Args:
        name: the name that was not found.
        known: the names that exist.
        show_all: list all known names if there are no more than this and none is similar.

    Returns:
        ``"; nearest: a, b"``, ``"; there are: a, b, c"`` or an empty string.
    """
    names = list(known)
    near = nearest_names(name, names)
    if near:
        return f"; nearest: {', '.join(near)}"
    if 0 < len(names) <= show_all:
        return f"; there are: {', '.join(names)}"
    return ""

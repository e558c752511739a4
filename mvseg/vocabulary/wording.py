"""Class names as a person would say them: out of underscores, slashes, lists of synonyms and explanations."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Literal

from .suggestions import normalize

Parentheses = Literal["keep", "drop"]


def spoken(name: str, parentheses: Parentheses = "keep") -> str:
    """Write a class name as a person would say it.

    Args:
        name: a class name as tables have it: ``trash_can``, ``person, individual, someone``, ``cabinet/shelf``,
            ``mouse_(computer_equipment)``.
        parentheses: "keep" the explanation in parentheses, which tells the meanings of a word apart, or "drop" it.

    Returns:
        ``trash can``, ``person`` (the first of several names), ``cabinet or shelf``, ``mouse (computer equipment)``.

    Raises:
        ValueError: if ``parentheses`` is neither of the two.
    """
    if parentheses not in ("keep", "drop"):
        raise ValueError(f"parentheses={parentheses!r}: choose 'keep' or 'drop'")
    text = name.replace("_", " ")
    if parentheses == "drop":
        text = re.sub(r"\([^()]*\)", " ", text)
    first = next((part for part in _split_names(text) if part.strip()), "")
    text = " or ".join(part for part in (part.strip() for part in first.split("/")) if part)
    return " ".join(text.split()) or " ".join(name.replace("_", " ").split())


def spoken_names(name: str, synonyms: Sequence[str] = (), parentheses: Parentheses = "keep") -> list[str]:
    """List every way to say a class: its name, the further names after commas, and its synonyms.

    Args:
        name: a class name as tables have it.
        synonyms: other names of the class.
        parentheses: as in :func:`spoken`.

    Returns:
        The first is ``spoken(name)``; equal ones (case aside) are listed once.
    """
    said: dict[str, str] = {}
    for part in (name, *_split_names(name)[1:], *synonyms):
        if part.strip():
            text = spoken(part, parentheses)
            said.setdefault(normalize(text), text)
    return list(said.values())


def _split_names(text: str) -> list[str]:
    return re.split(r",(?![^()]*\))", text)  # a comma in parentheses separates no names

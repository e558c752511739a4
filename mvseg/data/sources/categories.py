"""Which of the categories that a file lists are words of a dataset, and what they are called."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mvseg.vocabulary.suggestions import normalize

from ..card import DatasetCard
from ..checks import LoadReport
from .image_paths import read_flag

DROP_SUPERCATEGORIES = "drop_supercategories"
CATEGORY_OPTIONS = {
    DROP_SUPERCATEGORIES: "leave out categories that others name as their supercategory, if no annotation of the file "
    "has them, as exports of Roboflow begin with (true or false)",
}


def without_supercategories(card: DatasetCard, tree: dict[str, Any], report: LoadReport) -> dict[str, Any]:
    """Leave out categories that stand in a file only as the supercategory of others, if the card asks for it.

    Args:
        card: the card.
        tree: the file, with ``categories`` and ``annotations``.
        report: counts them.

    Returns:
        The file without them; a category that names itself as supercategory stays, and so does one with annotations.
    """
    if not read_flag(card, DROP_SUPERCATEGORIES):
        return tree
    categories = tree["categories"]
    above = {c.get("supercategory") for c in categories}
    used = {annotation["category_id"] for annotation in tree["annotations"]}
    # COCO's person has the supercategory person and stays; a class pistol below another pistol is not that one.
    kept = [c for c in categories if c["id"] in used or c["name"] not in above or c.get("supercategory") == c["name"]]
    report.add("supercategories", len(categories) - len(kept))
    return {**tree, "categories": kept}


def words_of_categories(card: DatasetCard, categories: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Give the categories that become words where a card names no vocabulary.

    Args:
        card: what it ignores is left out; an alias renames its category, or joins it to the category of that name.
        categories: the categories of the file.

    Returns:
        The categories, each with the word as its name.
    """
    others = {normalize(str(c["name"])) for c in categories if c["name"] not in card.aliases}
    words: list[Mapping[str, Any]] = []
    for category in categories:
        name = str(category["name"])
        if name in card.ignore:
            continue
        word = card.aliases.get(name)
        if word is None:
            words.append(category)
        elif normalize(word) not in others:
            others.add(normalize(word))
            words.append({**category, "name": word})
    return words

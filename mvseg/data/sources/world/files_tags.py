"""The world's dataset of image tags: a folder for every class, named by a number as in ImageNet, and its words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from .datasets import WorldDataset, WorldSettings
from .facts import ImageFacts
from .words import known_synonyms, word_list


def tag_label(thing: str) -> str:
    """Name the folder of a class.

    Args:
        thing: the thing that its pictures are about.

    Returns:
        Such as "n90000012", which no synset of ImageNet is called.
    """
    return f"n9{word_list('all').index[thing]:07d}"


def write_tags(dataset: WorldDataset, folder: Path, _: Mapping[str, Sequence[ImageFacts]], __: WorldSettings) -> None:
    """Write ``synset_words.txt``: folder, a space, and the names of the class separated by commas.

    Args:
        dataset: the dataset.
        folder: its folder.
    """
    lines = [f"{tag_label(name)} {', '.join((name, *known_synonyms(name)))}" for name in word_list(dataset.words).names]
    (folder / "synset_words.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")

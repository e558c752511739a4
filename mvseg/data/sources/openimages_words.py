"""The words of Open Images: its labels (MIDs), their names and hierarchy, and the classes that they are."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from mvseg.vocabulary import Vocabulary, did_you_mean
from mvseg.vocabulary.suggestions import normalize

from ..card import DatasetCard
from ..checks import complain
from .base import class_indices
from .hierarchy import nearest_words, read_hierarchy
from .tables import read_class_names, unique_names


def read_classes(card: DatasetCard) -> tuple[dict[str, str], dict[str, set[str]]]:
    """Read the names and the hierarchy of the labels.

    Args:
        card: the dataset's card.

    Returns:
        Label -> name, and label -> labels of its parents; empty where the card does not name the file.
    """
    classes, hierarchy = card.file("classes"), card.file("hierarchy")
    names = unique_names(read_class_names(card, classes)) if classes is not None else {}
    return names, read_hierarchy(card, hierarchy) if hierarchy is not None else {}


def make_vocabulary(card: DatasetCard, names: Mapping[str, str], parents: Mapping[str, set[str]]) -> Vocabulary:
    """Make the vocabulary of a dataset whose card names none.

    Args:
        card: the dataset's card.
        names: label -> name.
        parents: label -> labels of its parents.

    Returns:
        The words in the order of the names, without those that the card ignores or gives another name.
    """
    kept = {label: name for label, name in names.items() if name not in card.ignore and name not in card.aliases}
    return Vocabulary(
        name=card.name,
        names=tuple(kept.values()),
        keys=tuple(kept),
        parents=tuple(tuple(kept[p] for p in nearest_words(label, parents, kept)) for label in kept),
    )


def match_labels(
    card: DatasetCard, names: Mapping[str, str], lines: Mapping[str, int], vocabulary: Vocabulary, path: Path
) -> dict[str, int]:
    """Find the class of every label.

    Args:
        card: the dataset's card.
        names: label -> name; empty: the labels have none.
        lines: label of an annotation -> the first line that has it.
        vocabulary: the dataset's words.
        path: the file of the annotations.

    Returns:
        Label -> class index, IGNORED or FILTERED; labels without annotations only where the vocabulary has them.

    Raises:
        ValueError: if a label of an annotation is unknown.
    """
    keys = set(vocabulary.keys or ())
    for label, line in lines.items() if names else ():
        if label not in names and label not in keys:
            complain(
                f"{card.where}: {path}, line {line}: unknown LabelName {label!r}, "
                f"{card.files['classes']} does not have it{did_you_mean(label, names, show_all=0)}",
                "unknown_category",
            )
    categories: dict[str, str] = {}
    for label in dict.fromkeys([*names, *lines]):
        name = names.get(label, label)
        mentioned = next((n for n in (name, label) if n in card.ignore or n in card.aliases), None)
        name = mentioned or (label if label in keys else name)
        if mentioned or label in lines or label in keys or normalize(name) in vocabulary.positions:
            categories[label] = name
    examples = {categories[label]: f"{label}, line {line}" for label, line in lines.items()}
    found = class_indices(card, list(dict.fromkeys(categories.values())), vocabulary, examples, str(path))
    return {label: found[name] for label, name in categories.items()}

"""The hierarchy of Open Images' labels: which class is a kind of which."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

from mvseg.vocabulary import Vocabulary

from ..card import DatasetCard
from ..checks import LoadReport


def read_hierarchy(card: DatasetCard, path: Path) -> dict[str, set[str]]:
    """Read the labels of the parents of every label; parts (a wheel of a car) are no kinds and do not count.

    Args:
        card: the card named in errors.
        path: JSON of nested ``{LabelName, Subcategory: [...]}``.

    Returns:
        Label to the labels directly above it; a label can occur in several places.

    Raises:
        ValueError: if the file is no JSON, a node has no LabelName, or a label is above itself.
    """
    try:
        tree = json.loads(path.read_bytes())
    except ValueError as error:
        raise ValueError(f"{card.where}: {path} is not JSON: {error}") from error
    parents: dict[str, set[str]] = {}

    def walk(node: Any, above: tuple[str, ...]) -> None:
        if not isinstance(node, dict) or not isinstance(node.get("LabelName"), str):
            place = " > ".join(above) or "the top"
            raise ValueError(f"{card.where}: {path}: a node under {place} has no LabelName: {node!r:.80}")
        label = node["LabelName"]
        if label in above:
            raise ValueError(f"{card.where}: {path}: {label} is under itself: {' > '.join((*above, label))}")
        known = parents.setdefault(label, set())
        if above:
            known.add(above[-1])
        for child in node.get("Subcategory", ()):
            walk(child, (*above, label))

    walk(tree, ())
    return parents


def nearest_words(label: str, parents: Mapping[str, Iterable[str]], known: Collection[str]) -> list[str]:
    """Find the nearest labels above a label that are known, on every way up.

    Args:
        label: the label.
        parents: label to the labels directly above it.
        known: labels that count; others are passed over.

    Returns:
        Labels, sorted.
    """
    found: set[str] = set()
    waiting, seen = list(parents.get(label, ())), {label}
    while waiting:
        above = waiting.pop()
        if above in seen:
            continue
        seen.add(above)
        if above in known:
            found.add(above)
        else:
            waiting += parents.get(above, ())
    return sorted(found)


def ancestors_of(
    vocabulary: Vocabulary, classes: Mapping[str, int], parents: Mapping[str, Iterable[str]], report: LoadReport
) -> list[list[int]]:
    """List the ancestors of every class.

    Args:
        vocabulary: the n words; their own parents count where there is no hierarchy.
        classes: label to class index; negative ones are not used.
        parents: label to the labels directly above it; empty: no hierarchy file.
        report: counts words that the hierarchy does not have.

    Returns:
        For each of the n classes the class indices of all its ancestors, sorted.
    """
    n = len(vocabulary)
    if parents:
        labels = {label: index for label, index in classes.items() if index >= 0}
        above: list[set[int]] = [set() for _ in range(n)]
        for label, index in labels.items():
            above[index] |= {labels[parent] for parent in nearest_words(label, parents, labels)} - {index}
        report.add("not_in_hierarchy", n - len({index for label, index in labels.items() if label in parents}))
    else:
        found = (vocabulary.ancestors(name) for name in vocabulary.names)
        places = {name: index for index, name in enumerate(vocabulary.names)}
        above = [{places[name] for name in names if name in places} for names in found]
    result = []
    for index in range(n):
        reached: set[int] = set()
        waiting = list(above[index])
        while waiting:
            place = waiting.pop()
            if place not in reached:
                reached.add(place)
                waiting += above[place]
        result.append(sorted(reached - {index}))
    return result

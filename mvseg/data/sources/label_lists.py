"""The list of labels that lies beside label maps: a JSON file as Mapillary Vistas has it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mvseg.vocabulary import Vocabulary

from ..card import DatasetCard
from ..checks import complain
from .tables import unique_names


@dataclass(frozen=True)
class Label:
    """One label of the maps.

    Args:
        value: its number in the maps.
        key: its full name, such as ``object--vehicle--car``.
        word: what people read, such as ``Car``.
        instances: whether its objects are told apart.
        evaluated: whether it is a class, and not the ego vehicle or an unlabelled place.
    """

    value: int
    key: str
    word: str
    instances: bool
    evaluated: bool


def read_labels(card: DatasetCard, path: Path) -> list[Label]:
    """Read a list of labels; the number of each is its place.

    Args:
        card: the card named in errors.
        path: JSON with ``labels``, each with name, readable, instances and evaluate.

    Returns:
        The labels, in their order. Words that several have are followed by the name.

    Raises:
        ValueError: if the file is no such list; the message names the label.
    """
    try:
        tree = json.loads(path.read_bytes())
    except ValueError as error:
        raise ValueError(f"{card.where}: {path} is not JSON: {error}") from error
    entries = tree.get("labels") if isinstance(tree, dict) else None
    if not isinstance(entries, list) or not entries:
        raise ValueError(f"{card.where}: {path} is no list of labels: it needs the list labels")
    labels = []
    for value, entry in enumerate(entries):
        flags = [entry.get(key) for key in ("instances", "evaluate")] if isinstance(entry, dict) else []
        if not flags or not entry.get("name") or not all(isinstance(flag, bool) for flag in flags):
            raise ValueError(
                f"{card.where}: {path}: label {value} needs name, and instances and evaluate (true or false): "
                f"{entry!r:.120}"
            )
        key = str(entry["name"])
        labels.append(Label(value, key, str(entry.get("readable") or key), bool(flags[0]), bool(flags[1])))
    if len({label.key for label in labels}) < len(labels):
        complain(f"{card.where}: {path}: a name occurs twice", "duplicate_id")
    words = unique_names({label.key: label.word for label in labels})
    return [Label(x.value, x.key, words[x.key], x.instances, x.evaluated) for x in labels]


def label_words(card: DatasetCard, labels: Sequence[Label], instances: bool = False) -> Vocabulary:
    """Make the vocabulary of a list of labels.

    Args:
        card: the card, whose name the vocabulary gets; labels that it ignores or renames are no words.
        labels: the labels.
        instances: only those whose objects are told apart; else all that are evaluated.

    Returns:
        The words, in the order of the labels, with the number of the label as id and its name as key.
    """
    kept = [x for x in labels if (x.instances if instances else x.evaluated)]
    kept = [x for x in kept if not {x.key, x.word} & {*card.ignore, *card.aliases}]
    return Vocabulary(
        name=card.name,
        names=tuple(label.word for label in kept),
        ids=tuple(label.value for label in kept),
        keys=tuple(label.key for label in kept),
        is_thing=tuple(label.instances for label in kept),
    )

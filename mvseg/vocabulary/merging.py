"""Which words of several vocabularies share a column: by a mapping by hand, or by the similarity of their texts."""

from __future__ import annotations

import csv
import io
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import yaml

from .similarity import similar_pairs, unit_rows
from .suggestions import did_you_mean
from .vocabulary import Vocabulary

logger = logging.getLogger(__name__)

# unified word -> dataset or vocabulary -> its words
WordMapping = Mapping[str, Mapping[str, str | Sequence[str]]]
MAPPING_FILES = (".csv", ".tsv", ".yaml", ".yml")


def read_mapping(path: str | Path) -> dict[str, dict[str, tuple[str, ...]]]:
    """Read a hand-written mapping between the words of several datasets.

    Args:
        path: ``.csv`` or ``.tsv``: a header row, in the first column the unified word, then one column for each
            dataset or vocabulary, named so; a cell holds the dataset's word, several separated by ``|``, or nothing.
            ``.yaml``: ``unified word: {dataset: word}`` or ``{dataset: [word, word]}``.

    Returns:
        Unified word to dataset to its words.

    Raises:
        FileNotFoundError: if the file does not exist.
        ValueError: if the file has another form, or a unified word or a dataset twice.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"mapping file {path} does not exist")
    text = path.read_text(encoding="utf-8-sig")
    if path.suffix in (".yaml", ".yml"):
        try:
            tree = yaml.load(text, Loader=_NoKeyTwice)
        except yaml.YAMLError as error:
            raise ValueError(f"{path} is not valid YAML: {error}") from error
    elif path.suffix in (".csv", ".tsv"):
        tree = _tree_of_table(text, "," if path.suffix == ".csv" else "\t", path)
    else:
        raise ValueError(f"{path}: a mapping file ends in {', '.join(MAPPING_FILES)}")
    return _checked_tree(tree, str(path))


class _NoKeyTwice(yaml.SafeLoader):
    """Plain YAML that does not let a second key of the same name replace the first."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        twice = next((key for number, key in enumerate(keys) if key in keys[:number]), None)
        if twice is not None:
            raise yaml.constructor.ConstructorError(None, None, f"{twice!r} is there twice", node.start_mark)
        return super().construct_mapping(node, deep)


def _tree_of_table(text: str, delimiter: str, path: Path) -> dict[str, dict[str, str]]:
    rows = [row for row in csv.reader(io.StringIO(text), delimiter=delimiter) if any(cell.strip() for cell in row)]
    rows = [row for row in rows if not row[0].startswith("#")]
    if not rows or len(rows[0]) < 2:
        raise ValueError(f"{path}: expected a header row: unified, then a column for each dataset")
    header, tree = [cell.strip() for cell in rows[0]], {}
    twice = [name for number, name in enumerate(header[1:], start=1) if name in header[1:number]]
    if twice:
        raise ValueError(f"{path}: the header has dataset {twice[0]!r} twice; several words of a cell stand between |")
    for number, row in enumerate(rows[1:], start=1):
        if len(row) != len(header):
            raise ValueError(f"{path}: row {number} has {len(row)} cells, the header has {len(header)}: {row}")
        word = row[0].strip()
        if not word or word in tree:
            raise ValueError(f"{path}: row {number}: unified word {word!r} is {'there twice' if word else 'missing'}")
        tree[word] = {dataset: cell for dataset, cell in zip(header[1:], row[1:], strict=True) if cell.strip()}
    return tree


def _checked_tree(tree: Any, where: str) -> dict[str, dict[str, tuple[str, ...]]]:
    if not isinstance(tree, Mapping) or not tree:
        raise ValueError(f"{where}: expected unified word -> dataset -> word, found {type(tree).__name__}")
    result: dict[str, dict[str, tuple[str, ...]]] = {}
    for unified, places in tree.items():
        if not isinstance(places, Mapping):
            raise ValueError(f"{where}: {unified!r}: expected dataset -> word, found {places!r}")
        result[str(unified)] = {}
        for dataset, words in places.items():
            listed = words.split("|") if isinstance(words, str) else words
            if not isinstance(listed, Sequence) or not all(isinstance(word, str) and word.strip() for word in listed):
                raise ValueError(
                    f"{where}: {unified!r}, {dataset!r}: expected a word or a list of words, found {words!r}"
                )
            result[str(unified)][str(dataset)] = tuple(word.strip() for word in listed)
    return result


def mapped_groups(
    vocabularies: Mapping[str, Vocabulary], mapping: str | Path | WordMapping, *, exclusive: bool = True
) -> list[tuple[str, list[tuple[str, int]]]]:
    """Look up the words of a mapping.

    Args:
        vocabularies: dataset (one for each different vocabulary) to its words.
        mapping: file for :func:`read_mapping`, or unified word to dataset (or name of a vocabulary) to its words.
        exclusive: every word of a dataset belongs to one unified word, and unified words without any are left out.

    Returns:
        For every unified word that some dataset has: the word and its members, as dataset and class index.

    Raises:
        ValueError: if the mapping names a word that a vocabulary does not have or has given away already.
    """
    from_file = isinstance(mapping, str | Path)
    where = str(mapping) if from_file else "mapping"
    tree = read_mapping(mapping) if isinstance(mapping, str | Path) else _checked_tree(mapping, where)
    places: dict[str, list[str]] = {}
    for dataset, vocabulary in vocabularies.items():
        for key in {dataset, vocabulary.name}:
            places.setdefault(key, []).append(dataset)
    spoken_of = dict.fromkeys(key for words_of in tree.values() for key in words_of)
    unused = [key for key in spoken_of if key not in places]
    if unused:  # it may speak of more datasets than are in use, or a name is misspelled
        hint = did_you_mean(unused[0], places)
        logger.warning("%s: no dataset or vocabulary in use is named %s%s", where, ", ".join(unused), hint)
    taken: dict[tuple[str, int], str] = {}
    groups = []
    for unified, words_of in tree.items():
        members = []
        for key, words in words_of.items():
            for dataset in places.get(key, ()):
                for word in words:
                    try:
                        member = (dataset, vocabularies[dataset].index(word))
                    except KeyError as error:
                        raise ValueError(f"{where}: {unified!r}, {key!r}: {error.args[0]}") from error
                    if exclusive and taken.setdefault(member, unified) != unified:
                        raise ValueError(f"{where}: {word!r} of {key!r} is in {taken[member]!r} and in {unified!r}")
                    members.append(member)
        if members or not exclusive:
            groups.append((unified, list(dict.fromkeys(members))))
    if not any(members for _, members in groups):
        raise ValueError(f"{where} speaks of {', '.join(sorted(spoken_of))}, none of {', '.join(vocabularies)}")
    return groups


def similar_groups(vocabularies: Mapping[str, Vocabulary], threshold: float, block: int = 1024) -> list[list[int]]:
    """Group words of different vocabularies by the cosine of their text embeddings, most similar pairs first.

    Two groups are joined by their most similar pair, unless that would put two words of one vocabulary together.

    Args:
        vocabularies: dataset (one for each different vocabulary) to its words, with embeddings.
        threshold: smallest cosine of a pair that joins two groups.
        block: rows of the similarity matrix that are held at a time.

    Returns:
        The groups as positions in the concatenation of all words, ascending; words alone are groups of one.

    Raises:
        ValueError: if a vocabulary has no embeddings, their widths differ, or the threshold is no cosine.
    """
    if not -1 <= threshold <= 1:
        raise ValueError(f"DATASETS.MERGE_THRESHOLD {threshold} is no cosine: choose a number from -1 to 1")
    tables, owner = [], []
    for number, (dataset, vocabulary) in enumerate(vocabularies.items()):
        if vocabulary.embeddings is None:
            raise ValueError(
                f"merging by similarity needs text embeddings, but those of dataset {dataset!r} (vocabulary "
                f"{vocabulary.name!r}) are missing: name a file of them in its card, or set "
                "MODEL.CLASSIFIER.TEXT_ENCODER"
            )
        tables.append(vocabulary.embeddings)
        owner += [number] * len(vocabulary)
    if len({table.shape[1] for table in tables}) > 1:
        widths = ", ".join(f"{d}: {t.shape[1]}" for d, t in zip(vocabularies, tables, strict=True))
        raise ValueError(f"merging by similarity needs text embeddings of one width; found {widths}")
    pairs, values = similar_pairs(unit_rows(torch.cat(tables)), threshold, block)
    order = torch.argsort(values, descending=True, stable=True)
    group: list[list[int]] = [[word] for word in range(len(owner))]
    for first, second in pairs[order].tolist():
        one, other = group[first], group[second]
        if one is other or {owner[w] for w in one} & {owner[w] for w in other}:
            continue
        one += other
        for word in other:
            group[word] = one
    unique = {id(members): sorted(members) for members in group}
    return sorted(unique.values())

"""Words of a test set matched to the words of a label space: by name, by the end or beginning of a name, by meaning."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from torch import Tensor

from .label_space import LabelSpace
from .similarity import unit_rows
from .suggestions import normalize
from .vocabulary import Vocabulary

# Way to distance; any of them is nearer than a similar meaning that is no nearer than these.
DISTANCES = {"name": 0.0, "synonym": 0.005, "ending": 0.01, "beginning": 0.02}
TIE = 1e-6


@dataclass(frozen=True)
class Match:
    """The label columns that are nearest to one word.

    Args:
        word: the word of the test set.
        columns: label columns, ascending; several if they are equally near, none if nothing is known of the word.
        distance: 0 for equal names, 0.01 and 0.02 for an equal end or beginning, else 1 - cosine; 1 without a match.
        way: "name", "synonym", "ending", "beginning", "similar", or empty without a match.
    """

    word: str
    columns: tuple[int, ...]
    distance: float
    way: str


def match_words(
    vocabulary: Vocabulary, space: LabelSpace, *, whole_words: bool = False, largest: float = 1.0
) -> list[Match]:
    """Find the nearest label columns of every word; all that are equally near are kept.

    A column is called by the words of all its members. The end of a name matches where either name ends in the other.

    Args:
        vocabulary: the words of the test set; with embeddings words that match by no name are compared by them.
        space: the label space; its embeddings must come from the encoder of the vocabulary's.
        whole_words: an end or beginning consists of whole words; otherwise of letters, so that "cat" ends "bobcat".
        largest: distance from which a similar meaning is no match.

    Returns:
        A match for every word, in their order.

    Raises:
        ValueError: if the embeddings have different widths.

    Source: Zhou et al. 2022, UniDet (arXiv 2102.13086), the matching of test sets in its released code: 0 for equal
    names, 0.01 for an end, 0.02 for a beginning, else the cosine distance of word vectors. Synonyms are ours.
    """
    names, synonyms = _names_of(space, whole_words)
    cosines = _cosines(vocabulary, space)
    found = []
    for row, word in enumerate(vocabulary.names):
        forms = _forms((word, *vocabulary.spellings[row]), whole_words)
        others = _forms(vocabulary.synonyms[row], whole_words)
        near = [_by_name(forms, others, names[c], synonyms[c], whole_words) for c in range(space.n)]
        best = min((way for way in near if way), key=DISTANCES.__getitem__, default="")
        distance = DISTANCES.get(best, 1.0)
        columns = [c for c in range(space.n) if best and near[c] == best]
        if not best and cosines is not None:
            distance = 1.0 - float(cosines[row].max())
            if distance < largest:
                best, columns = "similar", (cosines[row] >= cosines[row].max() - TIE).nonzero()[:, 0].tolist()
        found.append(Match(word, tuple(columns), distance if best else 1.0, best))
    return found


def _forms(names: Iterable[str], whole_words: bool) -> set[str]:
    """Names in lower case without what only orders them: "human--rider--bicyclist" is the last part of it.

    A name such as "Cabinet/shelf" is two names, and also the whole.
    """
    found = {normalize(part) for name in names for part in (name.rsplit("--", 1)[-1], *name.split("/")) if part.strip()}
    return {f" {text} " if whole_words else text.replace(" ", "") for text in found if "--" not in text}


def _names_of(space: LabelSpace, whole_words: bool) -> tuple[list[set[str]], list[set[str]]]:
    """Names and synonyms of every column: its own word, and those of its members."""
    names = [_forms([word], whole_words) for word in space.names]
    synonyms: list[set[str]] = [set() for _ in range(space.n)]
    for dataset in space.representatives:
        vocabulary = space.vocabularies[dataset]
        for row, column in enumerate(space.columns(dataset).tolist()):
            names[column] |= _forms((vocabulary.names[row], *vocabulary.spellings[row]), whole_words)
            synonyms[column] |= _forms(vocabulary.synonyms[row], whole_words)
    return names, synonyms


def _by_name(forms: set[str], others: set[str], names: set[str], synonyms: set[str], whole_words: bool) -> str:
    if forms & names:
        return "name"
    if forms & synonyms or others & names:
        return "synonym"
    pairs = [(a, b) for a in forms for b in names]
    if any(a.endswith(b) or b.endswith(a) for a, b in pairs):
        return "ending"
    return "beginning" if any(a.startswith(b) or b.startswith(a) for a, b in pairs) else ""


def _cosines(vocabulary: Vocabulary, space: LabelSpace) -> Tensor | None:
    if vocabulary.embeddings is None or space.embeddings is None:
        return None
    if vocabulary.embeddings.shape[1] != space.embeddings.shape[1]:
        raise ValueError(
            f"embeddings of {vocabulary.name!r} are {vocabulary.embeddings.shape[1]} wide, those of the label space "
            f"{space.embeddings.shape[1]}: they are of different encoders"
        )
    return unit_rows(vocabulary.embeddings) @ unit_rows(space.embeddings).t()


def mapping_rows(matches: Sequence[Match], space: LabelSpace) -> list[list[str]]:
    """Write matches in the form of a mapping file (:func:`mvseg.vocabulary.read_mapping`).

    Args:
        matches: the matches; of words that are there twice the first counts.
        space: the label space.

    Returns:
        The header, then for every word the words of each different vocabulary that stand in its columns.
    """
    datasets = space.representatives
    rows = [["word", *(space.vocabularies[dataset].name for dataset in datasets)]]
    written: set[str] = set()
    for match in matches:
        if normalize(match.word) in written:
            continue
        written.add(normalize(match.word))
        cells = []
        for dataset in datasets:
            names, columns = space.vocabularies[dataset].names, space.columns(dataset).tolist()
            cells.append("|".join(name for name, c in zip(names, columns, strict=True) if c in match.columns))
        rows.append([match.word, *cells])
    return rows

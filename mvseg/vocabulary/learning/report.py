"""The learned label space as files for people: mapping, evidence of every merge, and near misses."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from ..merging import read_mapping
from .solution import Label, LearnedSpace, NearMiss

MAPPING, EVIDENCE, NEAR_MISSES, PAGE = "mapping.csv", "evidence.tsv", "near_misses.tsv", "report.md"
SHOWN_NEAR_MISSES = 100
EVIDENCE_HEADER = (
    "unified",
    "display",
    "cost",
    "value",
    "vocabulary",
    "word",
    "objects",
    "AP_own",
    "AP_merged",
    "loss",
    "AP_by_the_others",
    "words",
    "cosine",
    "remark",
)


def display_name(space: LearnedSpace, label: Label) -> str:
    """Write a unified word with the words that it stands for.

    Args:
        space: the learned label space.
        label: one of its words.

    Returns:
        Such as ``"sofa [coco: couch, oid]"``: a vocabulary without a word has the unified one.
    """
    sources = []
    for column in label.members:
        word, owner = space.word(column), space.owner(column).name
        sources.append(owner if word == label.name else f"{owner}: {word}")
    return f"{label.name} [{', '.join(sources)}]"


def write_space(space: LearnedSpace, folder: str | Path, source: Sequence[str] = ()) -> None:
    """Write mapping, evidence, near misses and a page that shows them.

    Args:
        space: the learned label space.
        folder: where they go.
        source: lines for the page that say where the predictions come from.

    Raises:
        ValueError: if a word cannot stand in a mapping file, because it contains ``|`` or begins with ``#``.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    names = [one.name for one in space.evidence]
    rows, expected = [], {}
    for label in space.labels:
        word_of = {space.owner(column).name: space.word(column) for column in label.members}
        rows.append([label.name, *(word_of.get(name, "") for name in names)])
        expected[label.name] = {name: (word,) for name, word in word_of.items()}
    _write(folder / MAPPING, ",", ["unified", *names], rows)
    if read_mapping(folder / MAPPING) != expected:
        odd = [label.name for label in space.labels if "|" in str(expected[label.name]) or label.name.startswith("#")]
        raise ValueError(f"words with | or a # at the beginning cannot stand in {folder / MAPPING}: {', '.join(odd)}")
    _write(folder / EVIDENCE, "\t", EVIDENCE_HEADER, evidence_rows(space))
    _write(folder / NEAR_MISSES, "\t", _MISS_HEADER, [_miss_row(space, miss) for miss in space.near_misses])
    (folder / PAGE).write_text(page(space, source), encoding="utf-8")


def evidence_rows(space: LearnedSpace) -> list[list[str]]:
    """Write the evidence of every merge, a row for each of its words.

    Args:
        space: the learned label space.

    Returns:
        Rows of the columns of ``EVIDENCE_HEADER``.
    """
    rows = []
    for label in space.labels:
        candidate = label.candidate
        if candidate is None:
            continue
        links = space.links(candidate.members)
        for column, own, merged in zip(candidate.members, candidate.own, candidate.merged):
            mine = [link for link in links if column in (link.first, link.second)]
            by_others = [link.first_by_second if column == link.first else link.second_by_first for link in mine]
            cosines = [link.cosine for link in mine if link.cosine is not None]
            rows.append(
                [
                    label.name,
                    display_name(space, label),
                    f"{candidate.cost:.4f}",
                    f"{space.value(candidate):.4f}",
                    space.owner(column).name,
                    space.word(column),
                    str(space.num_objects(column)),
                    f"{own:.4f}",
                    f"{merged:.4f}",
                    f"{own - merged:.4f}",
                    " ".join(f"{value:.4f}" for value in by_others),
                    " ".join(sorted({link.words for link in mine if link.words}, key=len)) or "different",
                    f"{min(cosines):.3f}" if cosines else "",
                    "weak" if space.is_weak(candidate) else "",
                ]
            )
    return rows


def summary(space: LearnedSpace) -> list[str]:
    """Say in a few lines what was found.

    Args:
        space: the learned label space.

    Returns:
        The lines.
    """
    choice, merges = space.choice, space.merges
    by_size = Counter(len(candidate.members) for candidate in merges)
    sizes = ", ".join(f"{count} of {size} words" for size, count in sorted(by_size.items()))
    proof = f"proven to be the best ({choice.seconds:.2f} s)"
    if not choice.is_optimal:
        proof = f"NOT proven to be the best: stopped after {choice.seconds:.1f} s, none is below {choice.bound:.6f}"
    lines = [
        f"{space.num_words} words of {len(space.evidence)} vocabularies became {len(space.labels)}: "
        f"{len(merges)} merges" + (f" ({sizes})" if sizes else ""),
        f"chosen from {len(space.candidates)} sets of words, objective {choice.objective:.6f}, {proof}",
    ]
    missing = space.without_objects
    if missing:
        counts = Counter(space.owner(column).name for column in missing)
        listed = ", ".join(f"{count} of {name}" for name, count in counts.items())
        lines.append(f"{len(missing)} words have no object in their test set and stay alone: {listed}")
    renamed = [c for c in merges if len({space.word(column).casefold() for column in c.members}) > 1]
    lines.append(f"{len(renamed)} merges join different words; {len(space.near_misses)} near misses")
    weak = sum(map(space.is_weak, merges))
    if weak:
        lines.append(
            f"{weak} merges rest on little: the own AP of one of their words is not above tau {space.settings.tau:g}, "
            "so nearly any column would do (marked weak)"
        )
    return lines


def page(space: LearnedSpace, source: Sequence[str] = ()) -> str:
    """Write everything as a page in Markdown.

    Args:
        space: the learned label space.
        source: lines that say where the predictions come from.

    Returns:
        The text.
    """
    settings = space.settings
    parts = ["# Learned label space", "", *(f"- {line}" for line in (*summary(space), *source)), ""]
    parts += [
        f"tau {settings.tau:g}, largest cost of a pair {settings.max_pair_cost:g} and of a larger set "
        f"{settings.max_set_cost:g}, lambda {settings.penalty:g}, IoU {settings.iou:g}, images: {settings.images}.",
        "",
        "## Merges",
        "",
        "Cost: AP50 that the words lose together when all their columns answer as one; negative: they gain.",
        "",
    ]
    rows = [_merge_row(space, label) for label in space.labels if label.candidate is not None]
    parts += _table(["label", "cost", "AP own → merged", "found by the others", "words", "cosine"], rows)
    misses = space.near_misses
    parts += ["", "## Near misses", ""]
    if len(misses) > SHOWN_NEAR_MISSES:
        parts += [f"The first {SHOWN_NEAR_MISSES} of {len(misses)}; all are in `{NEAR_MISSES}`.", ""]
    shown = [_miss_row(space, miss) for miss in misses[:SHOWN_NEAR_MISSES]]
    parts += _table(list(_MISS_HEADER), shown)
    missing = space.without_objects
    if missing:
        words = ", ".join(f"{space.word(column)} [{space.owner(column).name}]" for column in missing)
        parts += ["", "## Words without an object in their test set", "", words]
    return "\n".join(parts) + "\n"


_MISS_HEADER = ("words", "reason", "cost", "AP_own", "AP_merged", "AP_by_the_others", "cosine")


def _merge_row(space: LearnedSpace, label: Label) -> list[str]:
    candidate = label.candidate
    assert candidate is not None
    links = space.links(candidate.members)
    cosines = [link.cosine for link in links if link.cosine is not None]
    changes = ", ".join(f"{own:.3f} → {merged:.3f}" for own, merged in zip(candidate.own, candidate.merged))
    crossed = ", ".join(f"{link.first_by_second:.3f} / {link.second_by_first:.3f}" for link in links)
    relations = {link.words or "different" for link in links}
    return [
        display_name(space, label) + (" (weak)" if space.is_weak(candidate) else ""),
        f"{candidate.cost:+.4f}",
        changes,
        crossed,
        ", ".join(sorted(relations)),
        f"{min(cosines):.3f}" if cosines else "",
    ]


def _miss_row(space: LearnedSpace, miss: NearMiss) -> list[str]:
    words = " + ".join(f"{space.word(column)} [{space.owner(column).name}]" for column in miss.members)
    links = space.links(miss.members)
    cosines = [link.cosine for link in links if link.cosine is not None]
    own = [float(space.precisions.own[column]) for column in miss.members]
    merged = miss.candidate.merged if miss.candidate else ()
    return [
        words,
        miss.reason,
        f"{miss.candidate.cost:.4f}" if miss.candidate else "",
        " ".join(f"{value:.4f}" for value in own),
        " ".join(f"{value:.4f}" for value in merged),
        " ".join(f"{link.first_by_second:.4f}/{link.second_by_first:.4f}" for link in links),
        f"{min(cosines):.3f}" if cosines else "",
    ]


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    lines = ["| " + " | ".join(header) + " |", "|---" * len(header) + "|"]
    return lines + ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]


def _write(path: Path, delimiter: str, header: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, delimiter=delimiter, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)

"""Tables of text embeddings: whether a table is one, and which of its rows belongs to which word."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from .suggestions import nearest_names, normalize


def check_embeddings(table: Tensor, rows: int | None, where: str, width: int | None = None) -> None:
    """Check that a table of embeddings has the wanted shape and only finite numbers.

    Args:
        table: the table, (n, D) float.
        rows: wanted number of rows n; None: any.
        where: file or vocabulary named in the error.
        width: wanted number of columns D; None: any.

    Raises:
        ValueError: naming ``where``, what was expected and what was found.
    """
    if table.ndim != 2:
        raise ValueError(f"{where}: expected a table (words, width), found an array of shape {tuple(table.shape)}")
    if rows is not None and table.shape[0] != rows:
        raise ValueError(
            f"{where}: expected {rows} rows, one for each word, found {table.shape[0]} rows of width {table.shape[1]}. "
            f"If the rows follow another list of words, name that list (rows)"
        )
    if width is not None and table.shape[1] != width:
        raise ValueError(f"{where}: expected embeddings of width {width}, found width {table.shape[1]}")
    bad = (~torch.isfinite(table)).any(dim=1).nonzero().flatten().tolist()
    if bad:
        raise ValueError(
            f"{where}: expected finite numbers, found NaN or infinity in {len(bad)} row(s): {_shorten(bad)}"
        )


def match_rows(
    words: Sequence[str],
    synonyms: Sequence[Sequence[str]],
    row_names: Sequence[str],
    row_synonyms: Sequence[Sequence[str]] | None = None,
    where: str = "embeddings",
) -> list[int]:
    """Find for every word the row of another list that means the same.

    A word is looked for by its name among the row names, then by its synonyms, then among the synonyms of the rows;
    upper and lower case, underscores and spaces are not told apart.

    Args:
        words: n words.
        synonyms: for each word its other names.
        row_names: names of the m rows.
        row_synonyms: for each row its other names, or None.
        where: what to call the list in the error.

    Returns:
        n row indices.

    Raises:
        ValueError: if a word has no row; the message lists the words with their nearest rows.
    """
    by_name = _first_positions([name] for name in row_names)
    by_synonym = _first_positions(row_synonyms or [])
    found: list[int] = []
    missing: list[str] = []
    for word, others in zip(words, synonyms, strict=True):
        spellings = [normalize(word), *map(normalize, others)]
        hits = [by_name[s] for s in spellings if s in by_name] + [by_synonym[s] for s in spellings if s in by_synonym]
        if hits:
            found.append(hits[0])
        else:
            missing.append(word)
    if missing:
        missing[:8] = [_with_nearest(word, row_names) for word in missing[:8]]  # the search is slow in long lists
        raise ValueError(f"{where}: {len(missing)} of {len(words)} words have no row: {_shorten(missing)}")
    return found


def _with_nearest(word: str, names: Sequence[str]) -> str:
    near = nearest_names(word, names)
    return f"{word!r} (nearest: {', '.join(near)})" if near else repr(word)


def _first_positions(groups: Iterable[Sequence[str]]) -> dict[str, int]:
    positions: dict[str, int] = {}
    for row, names in enumerate(groups):
        for name in names:
            positions.setdefault(normalize(name), row)
    return positions


def _shorten(items: Sequence[object], count: int = 8) -> str:
    text = ", ".join(str(item) for item in items[:count])
    return text if len(items) <= count else f"{text}, and {len(items) - count} more"

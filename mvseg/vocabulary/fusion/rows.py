"""Rows of a classifier out of what is known of a class: text, pictures, or both."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ..embeddings import check_embeddings


@dataclass(frozen=True)
class ClassifierRows:
    """Rows of a classifier, and what each is made of.

    Args:
        embeddings: (n, D) float32, each of length 1.
        made_of: for every word "text", "images" or "text + images".
        words: the n words.
    """

    words: tuple[str, ...]
    embeddings: Tensor
    made_of: tuple[str, ...]

    def of(self, kind: str) -> list[str]:
        """List the words whose row is made of one thing.

        Args:
            kind: "text", "images" or "text + images".

        Returns:
            The words.
        """
        return [word for word, made in zip(self.words, self.made_of, strict=True) if made == kind]


def average_embeddings(embeddings: Tensor, average: str = "raw") -> Tensor:
    """Average embeddings of one class.

    Args:
        embeddings: (m, D) float, m at least 1, in any order.
        average: "raw": the mean as it is; "normalized": each is brought to length 1 before, and so is the mean.

    Returns:
        The mean, (D,) float32.

    Raises:
        ValueError: if ``average`` is neither of the two, or there is nothing to average.
    """
    if average not in ("raw", "normalized"):
        raise ValueError(f"average={average!r}: choose 'raw' or 'normalized'")
    if embeddings.ndim != 2 or not len(embeddings):
        raise ValueError(f"expected embeddings (m, D) with m at least 1, found shape {tuple(embeddings.shape)}")
    rows = embeddings.double()  # the mean should not depend on the order
    if average == "raw":
        return rows.mean(0).float()
    return F.normalize(F.normalize(rows, dim=1).mean(0), dim=0).float()


def fuse(text: Tensor, image: Tensor, weight: float = 1.0) -> Tensor:
    """Join a row of text and a row of images, both at length 1, in a weighted sum of length 1.

    Source: Kaul, Xie and Zisserman 2023, Multi-modal classifiers for open-vocabulary object detection, arXiv
    2306.05493; equal weights there.

    Args:
        text: (..., D) rows of text.
        image: (..., D) rows of images.
        weight: alpha, the weight of the image rows; 0: text alone.

    Returns:
        norm(norm(text) + weight * norm(image)), (..., D).

    Raises:
        ValueError: if the weight is negative or not finite, or the widths differ.
    """
    if not 0 <= weight < float("inf"):
        raise ValueError(f"fusion weight {weight}: the weight of images beside text is a number from 0 on")
    if text.shape != image.shape:
        raise ValueError(
            f"text rows are {text.shape[-1]} wide and image rows {image.shape[-1]}: they are of different models; "
            "fusion needs the text and the image side of one CLIP model"
        )
    return F.normalize(F.normalize(text, dim=-1) + weight * F.normalize(image, dim=-1), dim=-1)


def combine_rows(
    words: Sequence[str], text: Mapping[str, Tensor], images: Mapping[str, Tensor], weight: float = 1.0
) -> ClassifierRows:
    """Make the row of every word of what there is of it.

    Args:
        words: the n words.
        text: word to its row of text (D,).
        images: word to its row of images (D,).
        weight: weight of the images where a word has both.

    Returns:
        The rows (n, D), each of length 1; a word with one of the two has that one.

    Raises:
        ValueError: if a word has neither, or a row is zero or not finite.
    """
    neither = [word for word in words if word not in text and word not in images]
    if neither:
        listed = ", ".join(neither[:10]) + (f", and {len(neither) - 10} more" if len(neither) > 10 else "")
        raise ValueError(
            f"{len(neither)} of {len(words)} words have neither a description nor an example: {listed}. Add some, "
            "leave the words out, or take their prompt instead (--missing prompt)"
        )
    rows, made_of = [], []
    for word in words:
        found = [table[word].double() for table in (text, images) if word in table]
        rows.append(fuse(found[0], found[1], weight) if len(found) == 2 else F.normalize(found[0], dim=0))
        made_of.append("text + images" if len(found) == 2 else "text" if word in text else "images")
    widths = {len(row) for row in rows}
    if len(widths) > 1:
        raise ValueError(f"rows of different width ({sorted(widths)}): text and images are of different models")
    table = torch.stack(rows).float()
    check_embeddings(table, len(words), "classifier rows")
    empty = [word for word, row in zip(words, table, strict=True) if not row.any()]
    if empty:
        raise ValueError(f"the embeddings of {', '.join(empty[:10])} cancel out: their rows are zero")
    return ClassifierRows(tuple(words), table, tuple(made_of))

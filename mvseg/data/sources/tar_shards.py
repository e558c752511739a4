"""Images in tar files with an index, for millions of them: WebDataset's layout, or a tar file for every class."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from mvseg.vocabulary import Vocabulary

from ..card import DatasetCard
from ..checks import LoadReport
from ..columns import ColumnRecords, Columns, ListColumn, Members, TextColumn
from ..index_file import INDEX_NAME, Index, check_files, open_index
from .base import LoadedDataset, check_folder, check_images, count_images, read_split, register_format
from .image_tags import CLASSES_FILE, OTHER_LABELS, class_table, count_tags, match_labels


@register_format(
    "tar_shards",
    supervision=("tags", "captions"),
    files={"classes": CLASSES_FILE},
    options={"other_labels": OTHER_LABELS},
)
def load_tar_shards(card: DatasetCard, vocabulary: Vocabulary | None) -> LoadedDataset:
    """Open the index of a folder of tar files, which ``python -m mvseg.data index`` makes.

    The index is mapped, not read: neither time nor memory depend on the number of images, but for what the vocabulary
    leaves out.

    Args:
        card: the dataset's card; ``image_root`` is the folder, ``annotations`` the index, by default ``mvseg.index`` in
            the folder.
        vocabulary: the dataset's words; None: the labels of the index or their words, sorted.

    Returns:
        Records with ``image_labels`` and, where the tar files have them, ``captions``.

    Raises:
        FileNotFoundError: if the folder, the index or a tar file is missing.
        ValueError: if the index is damaged, a tar file has changed since, a label is not in the vocabulary, or there is
            nothing of the card's supervision.
    """
    root = check_folder(card, card.resolve(card.image_root), "folder of tar files")
    path = card.resolve(card.annotations) if card.annotations else root / INDEX_NAME
    index = open_index(path, card.where)
    check_files(index.files, root, card.where)
    needed = "labels" if card.supervision == "tags" else "captions"
    if needed not in index.arrays:
        other = "captions" if needed == "labels" else "tags"
        raise ValueError(
            f"{card.where}: {path} has no {needed}: say supervision: {other}, or make it anew with --labels"
        )
    report = LoadReport(card.name)
    labels = classes = None
    if "labels" in index.arrays and (needed == "labels" or vocabulary is not None):
        labels = ListColumn(index.arrays["labels"], index.arrays["label_starts"])
        examples = dict.fromkeys(index.labels, f"tar files in {root}")
        vocabulary, found = match_labels(card, examples, str(path), vocabulary, report)
        classes = class_table(index.labels, found)
    records = ColumnRecords(card.name, card.supervision, _columns(index, root, labels, classes))
    split = read_split(card)
    if split is not None:
        names = records.columns.names
        kept = np.array([Path(names[row]).stem in split for row in range(len(records))], dtype=bool)
        report.add("unlisted_images", int((~kept).sum()))
        records = records.select(np.flatnonzero(kept))
    count_tags(records, report)
    if needed == "captions":
        report.add("captions", int(records.annotated().sum()))
    check_images(card, records)
    count_images(records, report)
    return LoadedDataset(records, vocabulary, report)


def _columns(index: Index, root: Path, labels: ListColumn | None, classes: np.ndarray | None) -> Columns:
    arrays = index.arrays
    captions = TextColumn(arrays["captions"], arrays["caption_starts"]) if "captions" in arrays else None
    return Columns(
        names=TextColumn(arrays["names"], arrays["name_starts"]),
        members=Members(
            [str(root / file.name) for file in index.files], *(arrays[k] for k in ("shard", "offset", "size"))
        ),
        labels=labels,
        classes=classes,
        captions=captions,
    )

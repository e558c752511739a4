"""The records that are trained or tested on: from the catalog, with their supervision, without what teaches nothing."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from detectron2.data import DatasetCatalog, MetadataCatalog

from mvseg.data.catalog import get_card, get_records
from mvseg.data.columns import ColumnRecords
from mvseg.data.supervision import is_empty
from mvseg.vocabulary import did_you_mean

logger = logging.getLogger(__name__)

Record = dict[str, Any]


def load_records(name: str) -> Sequence[Record]:
    """Load a dataset from the catalog.

    Args:
        name: dataset name.

    Returns:
        Its records, each with ``dataset`` and ``supervision``. A dataset without a card, and without ``supervision`` in
        its metadata, has "masks" if an annotation has a segmentation, else "boxes".

    Raises:
        KeyError: if the catalog has no such dataset; the message lists the nearest names.
        ValueError: if the dataset has no images.
    """
    if name not in DatasetCatalog:
        raise KeyError(f"dataset {name!r} is not registered{did_you_mean(name, DatasetCatalog.list())}")
    records = get_records(name)
    if not records:
        raise ValueError(f"dataset {name!r} has no images")
    if MetadataCatalog.get(name).get("supervision") is None and get_card(name).supervision in ("boxes", "masks"):
        with_masks = any(a.get("segmentation") for record in records for a in record.get("annotations", ()))
        records = [{**record, "supervision": "masks" if with_masks else "boxes"} for record in records]
    return records


def without_empty(records: Sequence[Record]) -> Sequence[Record]:
    """Leave out images that teach nothing: without an object, tag, label map, segment or sentence.

    Args:
        records: records of one dataset.

    Returns:
        Those with at least one annotation of their kind of supervision that is no crowd.
    """
    if isinstance(records, ColumnRecords):
        return records.without_empty()
    return [record for record in records if not is_empty(record)]


def usable_records(name: str, filter_empty: bool) -> tuple[Sequence[Record], int]:
    """Load a training set, and leave out its images without objects if asked.

    Args:
        name: dataset name.
        filter_empty: whether images without an annotated object are left out.

    Returns:
        The records, and the number of images left out.

    Raises:
        ValueError: if no image is left.
    """
    loaded = load_records(name)
    usable = without_empty(loaded) if filter_empty else loaded
    if not usable:
        raise ValueError(
            f"dataset {name!r}: none of its {len(loaded)} images has an annotated object or anything else to learn "
            "from; correct the annotations, or set DATALOADER.FILTER_EMPTY_ANNOTATIONS False to train on images "
            "without objects"
        )
    left_out = len(loaded) - len(usable)
    if left_out:
        logger.info("dataset %r: left out %d of %d images without annotation", name, left_out, len(loaded))
    return usable, left_out

"""LVIS annotation files: COCO's layout, federated: each image lists the classes that were checked to be absent."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mvseg.vocabulary import Vocabulary

from ..card import DatasetCard
from .base import LoadedDataset, register_format
from .coco import load_coco_like

_FEDERATED = ("neg_category_ids", "not_exhaustive_category_ids")


@register_format("lvis", supervision=("boxes", "masks"))
def load_lvis(card: DatasetCard, vocabulary: Vocabulary | None) -> LoadedDataset:
    """Read an LVIS file (v1 or v0.5).

    Args:
        card: the dataset's card; ``image_root`` is the folder of COCO that holds train2017 and val2017.
        vocabulary: the dataset's words; None: the categories of the file with their frequency and counts.

    Returns:
        Records with the lists ``neg_category_ids`` and ``not_exhaustive_category_ids`` as class indices.

    Raises:
        FileNotFoundError: if the annotation file or the image folder does not exist.
        ValueError: if the file is not LVIS JSON, or an annotation is wrong.
    """
    return load_coco_like(card, vocabulary, _file_of_image, _add_federated_lists)


def _file_of_image(image: Mapping[str, Any]) -> str:
    """LVIS names the file by its address at COCO, which ends in folder/file."""
    if image.get("coco_url"):
        return "/".join(str(image["coco_url"]).split("/")[-2:])
    return str(image["file_name"]).rsplit("_", 1)[-1]


def _add_federated_lists(record: dict[str, Any], image: Mapping[str, Any], classes: Mapping[int, int]) -> None:
    for key in _FEDERATED:
        found = (classes.get(category, -1) for category in image.get(key, ()))
        record[key] = sorted(index for index in found if index >= 0)

"""Datasets that were registered with Detectron2's own functions: what a card would say is read off their metadata."""

from __future__ import annotations

from typing import Any

from detectron2.data import DatasetCatalog

from mvseg.vocabulary import Vocabulary

from .card import EVALUATORS, DatasetCard


def card_from_metadata(name: str, metadata: Any) -> DatasetCard:
    """Make a card for a dataset that has none.

    Args:
        name: dataset name.
        metadata: its metadata in Detectron2's catalog.

    Returns:
        The card. The supervision is the metadata's ``supervision``; without it that of its evaluator, or "masks" if it
        has a ``json_file``, else "boxes".
    """
    json_file, evaluator = metadata.get("json_file", ""), metadata.get("evaluator_type", "coco")
    if metadata.get("sem_seg_root"):  # Detectron2's "separated" panoptic sets: their records hold instances
        evaluator = "coco"
    kind = {"sem_seg": "semantic", "coco_panoptic_seg": "panoptic"}.get(evaluator, "masks" if json_file else "boxes")
    return DatasetCard(
        name=name,
        format="detectron2",
        image_root=str(metadata.get("image_root", ".")),
        annotations=str(json_file) or "(registered by a function)",
        supervision=metadata.get("supervision", kind),
        evaluator=evaluator if evaluator in EVALUATORS else "coco",
    )


def vocabulary_from_metadata(card: DatasetCard, metadata: Any) -> Vocabulary:
    """Give the words of a dataset that has no card.

    Args:
        card: from :func:`card_from_metadata`.
        metadata: the dataset's metadata.

    Returns:
        The ``thing_classes``, of semantic sets the ``stuff_classes``, in their order.

    Raises:
        ValueError: if the metadata has none, even after the dataset was read.
    """
    what = "stuff" if card.supervision == "semantic" else "thing"
    if not metadata.get(f"{what}_classes"):
        DatasetCatalog.get(card.name)  # load_coco_json fills the metadata while it reads
    words = metadata.get(f"{what}_classes")
    if not words:
        raise ValueError(f"{card.where} has no card, and its metadata no {what}_classes: set them, or write a card")
    ids = metadata.get(f"{what}_dataset_id_to_contiguous_id") or {}
    ordered = tuple(sorted(ids, key=lambda key: ids[key])) if len(ids) == len(words) else ()
    counts = metadata.get("class_image_count")
    image_count = tuple(c["image_count"] for c in sorted(counts, key=lambda c: c["id"])) if counts else None
    return Vocabulary(name=card.name, names=tuple(words), ids=ordered, image_count=image_count)

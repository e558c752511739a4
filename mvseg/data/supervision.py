"""What an annotation can teach: the kinds of supervision that a dataset declares once and everything else asks for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mvseg.vocabulary import did_you_mean

# Kind -> what every annotated image of such a dataset carries. Further kinds are added here, with their objective.
SUPERVISION: dict[str, str] = {
    "boxes": "a box and a class for every instance of the dataset's words",
    "masks": "a box, a class and a polygon or RLE mask for every instance of the dataset's words",
    "tags": "the classes that are in the image, without a place",
    "semantic": "a class for every pixel, or no class where nobody looked",
    "panoptic": "a segment for every pixel, and a class for every segment: an instance of a thing, or one of stuff",
    "captions": "sentences about the image",
    "phrases": "sentences, each about one box of the image",
}
# Kind -> field of the record that holds the annotation itself; a record where it is empty teaches nothing.
FIELDS: dict[str, str] = {
    "boxes": "annotations",
    "masks": "annotations",
    "tags": "image_labels",
    "semantic": "sem_seg_file_name",
    "panoptic": "segments_info",
    "captions": "captions",
    "phrases": "phrases",
}
# Fields that the mapper leaves out at test time, so that no model can look at the answer.
ANSWERS = (
    "annotations", "image_labels", "verified_category_ids", "sem_seg_file_name", "sem_seg_values",
    "pan_seg_file_name", "segments_info", "left_out_segments",
)  # fmt: skip


def check_supervision(kind: str, where: str = "supervision") -> str:
    """Check that a kind of supervision exists.

    Args:
        kind: such as ``"boxes"``.
        where: card or dataset named in the error.

    Returns:
        The kind itself.

    Raises:
        ValueError: if there is no such kind; the message lists what exists.
    """
    if kind not in SUPERVISION:
        raise ValueError(f"{where}: unknown supervision {kind!r}{did_you_mean(str(kind), SUPERVISION)}")
    return kind


def has_masks(kind: str) -> bool:
    """Say whether instances of this kind of supervision carry masks.

    Args:
        kind: a kind of supervision.

    Returns:
        True if records keep their segmentation and mappers make ``gt_masks``.
    """
    return check_supervision(kind) == "masks"


def has_places(kind: str) -> bool:
    """Say whether this kind of supervision tells where the instances of the dataset's words are.

    Args:
        kind: a kind of supervision.

    Returns:
        True if records have annotations with boxes, from which proposals and boxes can be learnt.
    """
    return check_supervision(kind) in ("boxes", "masks")


def has_words(kind: str) -> bool:
    """Say whether this kind of supervision speaks of classes of a vocabulary.

    Args:
        kind: a kind of supervision.

    Returns:
        False for sentences (captions and phrases), whose words are free.
    """
    return check_supervision(kind) not in ("captions", "phrases")


def lists_classes(kind: str) -> bool:
    """Say whether records of this kind tell which classes an image shows without reading another file.

    Args:
        kind: a kind of supervision.

    Returns:
        True where images can be drawn by their classes and class frequencies can be counted.
    """
    return check_supervision(kind) in ("boxes", "masks", "tags", "panoptic")


def is_empty(record: Mapping[str, Any]) -> bool:
    """Say whether a record teaches nothing.

    Args:
        record: dataset record; without ``supervision`` it counts as one of boxes.

    Returns:
        True if the field of its kind of supervision is missing or empty, or holds nothing but crowds.
    """
    found = record.get(FIELDS[check_supervision(record.get("supervision", "boxes"))]) or ()
    if isinstance(found, str):
        return False
    return all(isinstance(item, Mapping) and item.get("iscrowd", 0) for item in found)


def classes_of(record: Mapping[str, Any]) -> Sequence[int]:
    """List the classes that a record says its image shows.

    Args:
        record: dataset record of any kind of supervision.

    Returns:
        One class index of the dataset's own vocabulary for every object, tag or segment that is no crowd; empty for
        kinds that do not list classes.
    """
    parts = (*(record.get("annotations") or ()), *(record.get("segments_info") or ()))
    return [
        *(part["category_id"] for part in parts if not part.get("iscrowd", 0)),
        *(record.get("image_labels") or ()),
    ]

"""What an annotation can teach: the kinds of supervision that a dataset declares once and everything else asks for."""

from __future__ import annotations

from mvseg.vocabulary import did_you_mean

# Kind -> what every annotated image of such a dataset carries. Further kinds are added here, with their objective.
SUPERVISION: dict[str, str] = {
    "boxes": "a box and a class for every instance of the dataset's words",
    "masks": "a box, a class and a polygon or RLE mask for every instance of the dataset's words",
}


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

"""What annotators leave out, and how a dataset says so: the federated rules of LVIS and the verification of OpenImages.

LVIS (Gupta et al. 2019, arXiv 1908.03195, section 2.1): a class has images where every instance is annotated (positive
set) and images where people checked that there is none (negative set); elsewhere nothing is known of it. An image says
if a class of its positive set may have been left unfinished (not exhaustive). OpenImages (Kuznetsova et al. 2020, arXiv
1811.00982, sections 3.2 and 3.3): people answered for some classes of an image whether they are there; boxes are
complete for the classes that are, and one box stands for a group of touching objects.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from .chance import Chance
from .facts import Box, ObjectFacts
from .words import open_line, open_names, parents_of_open

SKIPPED_FREQUENT = 0.25  # share of the images of a frequent class that are not in its positive set
SKIPPED_COMMON = 0.05  # the same for the other classes but the rare ones, of which every image is in it
UNFINISHED = 0.1  # share of the classes with several instances in an image that were left unfinished
NEGATIVES = 0.1  # share of the absent classes that are verified
UNVERIFIED = 0.15  # share of the present classes of OpenImages that nobody was asked about
GROUP_SIZE = 4  # so many touching objects of a class are one group; OpenImages: more than five


@dataclass(frozen=True)
class Federated:
    """Annotation of one image by the rules of LVIS.

    Args:
        kept: indices of the annotated objects.
        negative: classes that people found to be absent, sorted.
        not_exhaustive: classes of which instances may lack a box, sorted.
    """

    kept: tuple[int, ...]
    negative: tuple[int, ...]
    not_exhaustive: tuple[int, ...]


def federate(
    objects: Sequence[ObjectFacts],
    index: Mapping[str, int],
    skipped: Mapping[int, float],
    chance: Chance,
) -> Federated:
    """Annotate an image by the rules of LVIS.

    Args:
        objects: the objects of the image.
        index: thing to class index.
        skipped: class index to the share of its images that are not in its positive set.
        chance: source of all that is random.

    Returns:
        Which objects are annotated, and what the image says about the classes.
    """
    instances: dict[int, list[int]] = {}
    for number, item in enumerate(objects):
        if item.thing in index:
            instances.setdefault(index[item.thing], []).append(number)
    kept: list[int] = []
    unfinished: list[int] = []
    for category in sorted(instances):
        found = instances[category]
        if chance.share() < skipped.get(category, 0.0):
            continue
        if len(found) > 1 and chance.share() < UNFINISHED:
            unfinished.append(category)
            found = found[: chance.between(1, len(found) - 1)]
        kept += found
    negative = _absent(range(len(set(index.values()))), instances, chance)
    return Federated(tuple(sorted(kept)), negative, tuple(unfinished))


def _absent(categories: Sequence[int], present: Collection[int], chance: Chance) -> tuple[int, ...]:
    absent = [category for category in categories if category not in present]
    return tuple(category for category in absent if chance.share() < NEGATIVES)


def frequency_of(image_count: int, images: int) -> str:
    """Sort a class by the number of training images that show it.

    LVIS calls a class rare with up to 10 images and common with up to 100, of 100,000. Here it is 1 and 5 of 100.

    Args:
        image_count: number of training images with annotations of the class.
        images: number of training images.

    Returns:
        "r", "c" or "f".
    """
    if image_count <= max(1, images // 100):
        return "r"
    return "c" if image_count <= max(2, images // 20) else "f"


@dataclass(frozen=True)
class OpenBox:
    """A box of the OpenImages-like dataset.

    Args:
        word: class name.
        box: (x, y, width, height) in pixels.
        occluded: something lies before the object.
        truncated: the object reaches the border of the picture.
        group: the box holds a group of touching objects.
    """

    word: str
    box: Box
    occluded: bool
    truncated: bool
    group: bool


@dataclass(frozen=True)
class Verified:
    """Annotation of one image by the rules of OpenImages.

    Args:
        boxes: the boxes.
        positive: class names that people found to be there; their boxes are complete.
        negative: class names that people found to be absent.
    """

    boxes: tuple[OpenBox, ...]
    positive: tuple[str, ...]
    negative: tuple[str, ...]


def verify(objects: Sequence[ObjectFacts], size: int, chance: Chance) -> Verified:
    """Annotate an image by the rules of OpenImages, every object by its most specific class.

    Args:
        objects: the objects of the image.
        size: side of the image in pixels.
        chance: source of all that is random.

    Returns:
        Boxes, and the classes that people checked.
    """
    instances: dict[str, list[ObjectFacts]] = {}
    for item in objects:
        line = open_line(item.thing)
        if line:
            instances.setdefault(line[0], []).append(item)
    asked = {root: chance.share() >= UNVERIFIED for root in sorted({_root(word) for word in instances})}
    positive = [word for word in sorted(instances) if asked[_root(word)]]
    boxes = [box for word in positive for box in _open_boxes(word, instances[word], size)]
    present = {word for item in objects for word in open_line(item.thing)}
    names = open_names()
    absent = _absent(range(len(names)), [i for i, name in enumerate(names) if name in present], chance)
    return Verified(tuple(boxes), tuple(positive), tuple(names[i] for i in absent))


def _root(word: str) -> str:
    """The most general class above a word: classes that share it are asked about together or not at all, so that the
    boxes of a general class are complete wherever those of one of its parts are."""
    while word in parents_of_open():
        word = parents_of_open()[word]
    return word


def _open_boxes(word: str, items: Sequence[ObjectFacts], size: int) -> list[OpenBox]:
    boxes = []
    for group in touching_groups([item.box for item in items]):
        members = [items[i] for i in group]
        if len(members) >= GROUP_SIZE:
            boxes.append(_open_box(word, members, size))
        else:
            boxes += [_open_box(word, [member], size) for member in members]
    return boxes


def _open_box(word: str, items: Sequence[ObjectFacts], size: int) -> OpenBox:
    x0, y0 = min(i.box[0] for i in items), min(i.box[1] for i in items)
    x1, y1 = max(i.box[0] + i.box[2] for i in items), max(i.box[1] + i.box[3] for i in items)
    occluded = any(i.area < 0.9 * i.full_area for i in items)
    return OpenBox(word, (x0, y0, x1 - x0, y1 - y0), occluded, min(x0, y0, size - x1, size - y1) <= 0, len(items) > 1)


def touching_groups(boxes: Sequence[Box]) -> list[list[int]]:
    """Put boxes that touch or overlap, also through others, into groups.

    Args:
        boxes: boxes (x, y, width, height).

    Returns:
        Groups of indices, each sorted, in the order of their first members.
    """
    owner = list(range(len(boxes)))
    for i, (ax, ay, aw, ah) in enumerate(boxes):
        for j, (bx, by, bw, bh) in enumerate(boxes[:i]):
            if ax <= bx + bw and bx <= ax + aw and ay <= by + bh and by <= ay + ah and owner[i] != owner[j]:
                low, high = sorted((owner[i], owner[j]))
                owner = [low if o == high else o for o in owner]
    groups: dict[int, list[int]] = {}
    for i, o in enumerate(owner):
        groups.setdefault(o, []).append(i)
    return list(groups.values())

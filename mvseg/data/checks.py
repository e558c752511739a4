"""Checks of annotations while a file is read, and the report that counts what was found."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

from tabulate import tabulate

CLIP_TOLERANCE = 1.0  # pixels that a box may reach outside its image without being counted
_NUMBERS = {int, float}
_ROWS = (
    ("images", "images"),
    ("annotated_images", "images with annotations"),
    ("empty_images", "images without annotations"),
    ("instances", "instances"),
    ("difficult", "of these marked difficult"),
    ("crowd", "of these crowd regions, groups or difficult (not trained on)"),
    ("tags", "image labels"),
    ("label_maps", "label maps"),
    ("segments", "segments"),
    ("captions", "sentences"),
    ("phrases", "phrases with a box"),
    ("verified", "classes verified in an image"),
    ("refuted", "classes verified to be absent from an image"),
    ("zero_area", "boxes without area: dropped"),
    ("outside", "boxes outside their image: dropped"),
    ("clipped", "boxes reaching outside their image: clipped"),
    ("bad_polygons", "polygons with fewer than 3 points: dropped"),
    ("no_mask", "instances left without a mask: dropped"),
    ("supercategories", "categories that only stand above others: left out"),
    ("ignored", "annotations of ignored categories: left out"),
    ("filtered", "annotations of filtered classes: left out"),
    ("dropped_labels", "labels that are no word of the vocabulary: left out"),
    ("words_found", "sentences in which a word of the vocabulary was found"),
    ("shared_spellings", "spellings that several words share: never found"),
    ("missing_images", "lines whose image is not there: left out"),
    ("unsure_labels", "image labels below the least confidence: left out"),
    ("unlisted_images", "images not in the split: left out"),
    ("sizes_read", "image sizes read from the image file"),
    ("empty_sentences", "empty sentences: dropped"),
    ("no_picture", "references to no picture: left out"),
    ("images_without_xml", "images without an XML file: left out"),
    ("unlabelled_images", "images without a label map: left out"),
    ("other_files", "files that are no images: left out"),
    ("empty_folders", "class folders without an image"),
    ("not_in_hierarchy", "words that the hierarchy does not have"),
    ("foreign_labels", "image labels of classes that have no boxes: left out"),
    ("other_ids", "categories with another id than the vocabulary's: found by name"),
    ("moved_images", "images found in other folders than the file says"),
    ("absent_images", "images that the card calls missing from the release: left out"),
)


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong with a dataset.

    Args:
        kind: what kind of problem, for counting: a counter of :class:`LoadReport`, or another short name.
        text: file, image or annotation, and what is wrong.
        fatal: whether it stops training or evaluation.
    """

    kind: str
    text: str
    fatal: bool


_collected: ContextVar[list[Problem] | None] = ContextVar("collected problems", default=None)


@contextmanager
def collected_problems() -> Iterator[list[Problem]]:
    """Let readers go on after a problem and write it down, instead of stopping at the first.

    Yields:
        The list to which the problems are added inside the block.
    """
    problems: list[Problem] = []
    token = _collected.set(problems)
    try:
        yield problems
    finally:
        _collected.reset(token)


def collecting() -> bool:
    """Say whether problems are collected: messages then list everything.

    Returns:
        True inside :func:`collected_problems`.
    """
    return _collected.get() is not None


def complain(message: str, kind: str = "error", error: type[Exception] = ValueError) -> None:
    """Stop with an error, or write it down inside :func:`collected_problems`; the caller then skips what is wrong.

    Args:
        message: file, image or annotation, what is wrong, and what to do.
        kind: see :class:`Problem`.
        error: the exception to raise.
    """
    problems = _collected.get()
    if problems is None:
        raise error(message)
    problems.append(Problem(kind, message, fatal=True))


@dataclass
class LoadReport:
    """Counts of what was found while one dataset was read.

    Args:
        dataset: name of the dataset.
        counts: counter name to number; the names are those of the table.
        notes: what is worth knowing to the names that it holds for, such as categories found by another spelling.
    """

    dataset: str
    counts: Counter[str] = field(default_factory=Counter)
    notes: dict[str, list[str]] = field(default_factory=dict)

    def add(self, what: str, number: int = 1, where: str = "") -> None:
        """Count something.

        Args:
            what: counter name.
            number: how many.
            where: file and annotation of a problem, listed inside :func:`collected_problems`.
        """
        self.counts[what] += number
        problems = _collected.get()
        if where and number and problems is not None:
            problems.append(Problem(what, f"{where}: {dict(_ROWS).get(what, what)}", fatal=False))

    def note(self, what: str, *names: str) -> None:
        """Write names down under a heading.

        Args:
            what: the heading.
            *names: the names.
        """
        self.notes.setdefault(what, []).extend(names)

    def table(self) -> str:
        """Write the counts as one table, and the notes below it.

        Returns:
            A text table; problems that did not occur are left out.
        """
        other = any(self.counts[kind] for kind in ("tags", "label_maps", "segments", "captions", "phrases"))
        always = ("images", "annotated_images", *(() if other else ("instances",)))
        rows = [(text, self.counts[key]) for key, text in _ROWS if self.counts[key] or key in always]
        table = tabulate(rows, headers=[f"dataset {self.dataset}", "count"], tablefmt="github", intfmt=",")
        return "\n".join([table, *(_listed(what, names) for what, names in self.notes.items())])


def _listed(what: str, names: Sequence[str], shown: int = 8) -> str:
    more = f" and {len(names) - shown} more" if len(names) > shown else ""
    return f"{len(names)} {what}: {', '.join(names[:shown])}{more}"


def check_box(box: Any, height: int, width: int, where: str, report: LoadReport) -> list[float] | None:
    """Check one box, clip it to its image, and count what was wrong.

    Args:
        box: (x, y, width, height) in pixels, from the annotation file.
        height: image height in pixels.
        width: image width in pixels.
        where: file and annotation named in the error.
        report: gets the counts.

    Returns:
        The box (x, y, width, height), unchanged if it lies inside; None if it has no area or lies outside.

    Raises:
        ValueError: if the box is not four finite numbers.
    """
    if not isinstance(box, list | tuple) or len(box) != 4 or not set(map(type, box)) <= _NUMBERS:
        complain(f"{where}: bbox must be four numbers (x, y, width, height), found {box!r}", "bad_box")
        return None
    x, y, w, h = box
    if not math.isfinite(x + y + w + h):
        complain(f"{where}: bbox must be finite numbers, found {box!r}", "bad_box")
        return None
    if w <= 0 or h <= 0:
        report.add("zero_area", where=where)
        return None
    if x >= 0 and y >= 0 and x + w <= width and y + h <= height:
        return [x, y, w, h]
    left, top, right, bottom = max(x, 0), max(y, 0), min(x + w, width), min(y + h, height)
    if right <= left or bottom <= top:
        report.add("outside", where=where)
        return None
    if max(left - x, top - y, x + w - right, y + h - bottom) > CLIP_TOLERANCE:
        report.add("clipped", where=where)
    return [left, top, right - left, bottom - top]


def check_segmentation(segmentation: Any, height: int, width: int, where: str, report: LoadReport) -> Any:
    """Check one segmentation.

    Args:
        segmentation: list of polygons [x0, y0, x1, y1, ...] in pixels, or RLE ``{size: [height, width], counts}``.
        height: image height in pixels.
        width: image width in pixels.
        where: file and annotation named in the error.
        report: gets the counts.

    Returns:
        The polygons that have at least three points, or compressed RLE; None if nothing is left.

    Raises:
        ValueError: if it is neither polygons nor RLE of the image's size.
    """
    if isinstance(segmentation, dict):
        return _check_rle(segmentation, height, width, where)
    is_polygons = isinstance(segmentation, list) and all(
        isinstance(p, list) and set(map(type, p)) <= _NUMBERS for p in segmentation
    )
    if not is_polygons:
        complain(
            f"{where}: segmentation is neither a list of polygons [[x0, y0, x1, y1, ...], ...] nor RLE "
            f"{{size, counts}}: {_excerpt(segmentation)}",
            "bad_segmentation",
        )
        return None
    good = [polygon for polygon in segmentation if len(polygon) >= 6 and len(polygon) % 2 == 0]
    report.add("bad_polygons", len(segmentation) - len(good), where)
    if not good:
        report.add("no_mask", where=where)
        return None
    return good


def _check_rle(rle: dict[str, Any], height: int, width: int, where: str) -> dict[str, Any] | None:
    from pycocotools import mask as mask_util

    counts, size = rle.get("counts"), rle.get("size")
    if not isinstance(counts, list | str | bytes) or not isinstance(size, list | tuple) or len(size) != 2:
        complain(f"{where}: segmentation is not RLE {{size, counts}}: {_excerpt(rle)}", "bad_segmentation")
        return None
    if list(size) != [height, width]:
        message = f"{where}: RLE of size {list(size)} in an image of {height} x {width} (height x width)"
        complain(message, "bad_segmentation")
        return None
    if isinstance(counts, list):
        if sum(counts) != height * width:
            message = f"{where}: RLE counts cover {sum(counts)} pixels, the image has {height * width}"
            complain(message, "bad_segmentation")
            return None
        return dict(mask_util.frPyObjects({"size": list(size), "counts": counts}, height, width))
    return {"size": list(size), "counts": counts}


def check_unique(ids: Sequence[Any], what: str, where: str) -> None:
    """Check that no id occurs twice.

    Args:
        ids: the ids of a file.
        what: what they are ids of, such as "image id".
        where: file named in the error.

    Raises:
        ValueError: naming the first ids that occur twice.
    """
    if len(set(ids)) == len(ids):
        return
    twice = [str(i) for i, count in Counter(ids).items() if count > 1]
    more = f" and {len(twice) - 5} more" if len(twice) > 5 else ""
    listed = ", ".join(twice) if collecting() else f"{', '.join(twice[:5])}{more}"
    complain(f"{where}: duplicate {what} {listed}", "duplicate_id")


def _excerpt(value: Any, length: int = 80) -> str:
    text = repr(value)
    return text if len(text) <= length else text[:length] + "..."

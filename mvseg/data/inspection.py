"""Looking for everything that is wrong with a dataset: its card, its annotations, its images and its words."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from tabulate import tabulate

from mvseg.vocabulary import Vocabulary
from mvseg.vocabulary.suggestions import normalize

from .card import DatasetCard
from .checks import LoadReport, Problem, collected_problems
from .label_maps import LabelMapError, check_label_maps
from .reading import ImageReadError, ImageSizeError, check_image_size, read_image
from .sources import find_source
from .supervision import is_empty
from .tar_files import is_there, read_file
from .threads import in_threads

# Kind of problem -> how the table of counts calls it; kinds of LoadReport have their texts there.
KINDS = {
    "error": "annotations or files that cannot be used",
    "missing_file": "files that do not exist",
    "unreadable": "images that cannot be read",
    "wrong_size": "images of another size than the annotations say",
    "unknown_category": "unknown categories",
    "bad_box": "boxes that are no boxes",
    "bad_segmentation": "broken segmentations",
    "label_map": "label maps that do not fit",
    "duplicate_id": "duplicate ids",
    "embeddings": "text embeddings that do not fit",
    "duplicate_file": "image files listed more than once",
    "same_picture": "different files with the same content",
    "empty_image": "images without annotations",
    "no_objects": "classes without objects",
    "same_word": "words that are spelt like another word's synonym",
    "zero_area": "boxes without area (dropped)",
    "outside": "boxes outside their image (dropped)",
    "clipped": "boxes reaching outside their image (clipped)",
    "bad_polygons": "polygons with fewer than 3 points (dropped)",
    "no_mask": "instances left without a mask (dropped)",
    "bad_sentence": "sentences that are no texts",
    "empty_sentences": "empty sentences (dropped)",
    "empty_folders": "class folders without an image",
}
FILE_KEYS = ("file_name", "sem_seg_file_name", "pan_seg_file_name")


@dataclass
class Inspection:
    """What was found in one dataset.

    Args:
        card: the dataset's card.
        problems: everything that is wrong.
        report: the reader's counts; None if it could not read the dataset to the end.
        images: number of images looked at.
    """

    card: DatasetCard
    problems: list[Problem] = field(default_factory=list)
    report: LoadReport | None = None
    images: int = 0

    @property
    def fatal(self) -> bool:
        """Say whether anything stops training or evaluation.

        Returns:
            True if so.
        """
        return any(problem.fatal for problem in self.problems)

    def table(self) -> str:
        """Count the problems by kind.

        Returns:
            A table; those that stop training first.
        """
        counts = Counter((not problem.fatal, problem.kind) for problem in self.problems)
        rows = [
            [KINDS.get(kind, kind), "note" if note else "stops training", number]
            for (note, kind), number in sorted(counts.items())
        ]
        if not rows:
            return f"{self.card.where}: no problems ({self.images} images opened)"
        return tabulate(rows, headers=[f"{self.card.where}, {self.images} images opened", "", "count"])


def inspect_card(card: DatasetCard, max_images: int | None = None, threads: int = 4) -> Inspection:
    """Read a dataset and list every problem; nothing is registered or changed.

    Args:
        card: the dataset's card.
        max_images: open at most so many images, evenly spread; None opens all.
        threads: images opened at the same time.

    Returns:
        What was found. Where a file's layout is so wrong that it cannot be read on, one problem says so.
    """
    found = Inspection(card)
    with collected_problems() as problems:
        try:
            loaded = find_source(card)(card, card.read_vocabulary())
        except (ValueError, OSError, KeyError) as error:
            kind = "missing_file" if isinstance(error, FileNotFoundError) else "error"
            text = str(error.args[0] if isinstance(error, KeyError) else error)
            stopped = f"{text}\n  (reading ended here: correct this and check again, more may follow)"
            found.problems = [*problems, Problem(kind, stopped, True)]
            return found
    found.report = loaded.report
    found.problems = list(dict.fromkeys(problems))
    if loaded.vocabulary is not None:  # sentences have none
        found.problems += _check_words(card, loaded.vocabulary)
    words = loaded.vocabulary.names if loaded.vocabulary is not None else ()
    found.problems += _check_records(card, loaded.records, words)
    step = np.arange(len(loaded.records))
    if max_images is not None and max_images < len(step):
        step = np.unique(np.linspace(0, len(step) - 1, max_images).astype(int)) if max_images else step[:0]
    found.images = len(step)
    found.problems += _check_files(card, [loaded.records[int(i)] for i in step], threads)
    return found


def _check_words(card: DatasetCard, words: Vocabulary) -> Iterator[Problem]:
    try:
        card.attach_embeddings(words)
    except (ValueError, OSError, KeyError) as error:
        yield Problem("embeddings", str(error), True)
    owners = {normalize(word): word for word in words.names}  # a vocabulary refuses words that are spelt alike
    for word, synonyms in zip(words.names, words.synonyms, strict=True):
        for synonym in synonyms:
            owner = owners.get(normalize(synonym))
            if owner is not None and owner != word:
                text = f"{card.where}: {synonym!r}, a synonym of {word!r}, is spelt like the word {owner!r}"
                yield Problem("same_word", text, False)


def _check_records(card: DatasetCard, records: Sequence[dict[str, Any]], words: Sequence[str]) -> Iterator[Problem]:
    files: dict[str, Any] = {}
    seen: set[int] = set()
    for record in records:
        first = files.setdefault(str(record["file_name"]), record["image_id"])
        if first != record["image_id"]:
            text = f"{card.where}: images {first} and {record['image_id']} are the same file {record['file_name']}"
            yield Problem("duplicate_file", text, False)
        if is_empty(record):
            text = f"{card.where}: image {record['image_id']}, {record['file_name']}: nothing is annotated"
            yield Problem("empty_image", text, False)
        objects = [*(record.get("annotations") or ()), *(record.get("segments_info") or ())]
        seen.update(o["category_id"] for o in objects)
        seen.update(record.get("image_labels") or ())
    if seen:  # semantic maps are not read here, and sentences have no classes
        for index, word in enumerate(words):
            if index not in seen:
                yield Problem("no_objects", f"{card.where}: class {index}, {word!r}: no object", False)


def _check_files(card: DatasetCard, records: Sequence[dict[str, Any]], threads: int) -> Iterator[Problem]:
    pictures: dict[str, str] = {}
    opened = in_threads(lambda record: _open(card, record), records, max(1, threads))
    for record, (problems, digest) in zip(records, opened):
        yield from problems
        name = str(record["file_name"])
        other = pictures.setdefault(digest, name) if digest else name
        if other != name:
            yield Problem("same_picture", f"{card.where}: {other} and {name} have the same content", False)


def _open(card: DatasetCard, record: dict[str, Any]) -> tuple[list[Problem], str]:
    """Read the image and the label map of a record; gives the problems and a digest of the image file."""
    where = f"{card.where}: image {record['image_id']}"
    missing = [path for key in FILE_KEYS if (path := record.get(key)) and not is_there(str(path))]
    problems = [Problem("missing_file", f"{where}: {path} does not exist", True) for path in missing]
    digest = ""
    try:
        if record["file_name"] not in missing:
            check_image_size(record, read_image(str(record["file_name"]), "RGB"))
            digest = hashlib.sha1(read_file(str(record["file_name"])), usedforsecurity=False).hexdigest()
        if not missing:
            check_label_maps(record)
    except ImageReadError as error:
        problems.append(Problem("unreadable", f"{where}: {error}", True))
    except ImageSizeError as error:
        problems.append(Problem("wrong_size", str(error), True))
    except LabelMapError as error:
        problems.append(Problem("label_map", str(error), True))
    return problems, digest

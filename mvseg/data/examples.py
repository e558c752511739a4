"""Pictures that show what a word means: from a folder, a list of boxes, or the boxes of a dataset."""

from __future__ import annotations

import csv
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from detectron2.data import DatasetCatalog
from detectron2.structures import BoxMode

from mvseg.data.catalog import get_records, get_vocabulary
from mvseg.vocabulary import Vocabulary, did_you_mean
from mvseg.vocabulary.suggestions import is_blank, normalize

WHOLE_IMAGE_AREA = 100.0 * 100.0  # what a whole image counts as in the draw, whatever its size
FORMS = (
    "a folder with a folder of images for every word, a .csv or .tsv file with columns word, image and, for a part of "
    "the image, x, y, w, h; or the name of a dataset with boxes or tags"
)
Box = tuple[float, float, float, float]


@dataclass(frozen=True, eq=False)
class Example:
    """One picture of a word.

    Args:
        image: an image file, or uint8 RGB pixels (H, W, 3).
        box: the part of it that shows the word, as x, y, w, h in pixels; None: the whole.
        where: what to call it in an error; "": the file.
    """

    image: str | np.ndarray
    box: Box | None = None
    where: str = ""

    @property
    def name(self) -> str:
        """What to call it in an error.

        Returns:
            ``where``, or the file.
        """
        return self.where or (self.image if isinstance(self.image, str) else "an image in memory")

    @property
    def area(self) -> float:
        """What it weighs in the draw.

        Returns:
            The area of the box in square pixels, or that of a square of 100 pixels for a whole image.
        """
        return WHOLE_IMAGE_AREA if self.box is None else self.box[2] * self.box[3]


Examples = dict[str, list[Example]]


def read_examples(place: str | Path, vocabulary: Vocabulary | None = None) -> Examples:
    """Find all example pictures of a place; none is opened yet.

    Args:
        place: a folder, a file or a dataset, see :data:`FORMS`.
        vocabulary: the words wanted; None: all words of the place. Words of a dataset that are not wanted are passed
            over, those of a folder or a file are an error.

    Returns:
        Word, as the vocabulary spells it, to its examples; words that have none are left out.

    Raises:
        FileNotFoundError: if there is no such place.
        ValueError: if it has another form, or a word that is not wanted.
    """
    path = Path(place)
    if str(place) in DatasetCatalog.list():
        return _of_dataset(str(place), vocabulary)
    if path.is_dir():
        found = _of_folder(path)
    elif path.suffix in (".csv", ".tsv") and path.is_file():
        found = _of_file(path)
    elif path.exists():
        raise ValueError(f"examples {place}: expected {FORMS}")
    else:
        hint = did_you_mean(str(place), DatasetCatalog.list(), show_all=0)
        raise FileNotFoundError(f"examples {place}: there is no such folder, file or dataset{hint}; write {FORMS}")
    return found if vocabulary is None else match_examples(found, vocabulary, f"examples {place}")


def match_examples(examples: Mapping[str, Sequence[Example]], vocabulary: Vocabulary, where: str) -> Examples:
    """Spell the words of examples as a vocabulary does.

    Args:
        examples: word to examples.
        vocabulary: the words wanted.
        where: the place of the examples, for the error.

    Returns:
        Word of the vocabulary to examples, in its order.

    Raises:
        ValueError: if there are examples of a word that is not wanted; the message lists the words.
    """
    own = {normalize(word): vocabulary.names[index] for word, index in _wanted(vocabulary).items()}
    unknown = [word for word in examples if normalize(word) not in own]
    if unknown:
        hint = did_you_mean(unknown[0], vocabulary.names)
        raise ValueError(
            f"{where}: {len(unknown)} words are not in vocabulary {vocabulary.name!r}: {', '.join(unknown[:10])}{hint}"
        )
    found: Examples = {}
    for word, pictures in examples.items():
        found.setdefault(own[normalize(word)], []).extend(pictures)
    return {word: found[word] for word in vocabulary.names if word in found}


def choose_examples(examples: Mapping[str, Sequence[Example]], per_word: int = 5, seed: int = 42) -> Examples:
    """Draw some examples of every word; a large box is drawn more often, in proportion to its area.

    The draw for a word depends on the seed, the word and its own examples, not on the other words.

    Source: the sampling of Kaul, Xie and Zisserman 2023, arXiv 2306.05493 (5 of each class, seed 42); its random
    numbers are our own.

    Args:
        examples: word to examples.
        per_word: how many are drawn, without repetition; a word with fewer keeps all; 0: all of every word.
        seed: of the draw.

    Returns:
        Word to the examples drawn.

    Raises:
        ValueError: if the number is negative.
    """
    if per_word < 0:
        raise ValueError(f"examples of a word: {per_word} is no number of examples (0: all)")
    chosen = {}
    for word, pictures in examples.items():
        if not per_word or len(pictures) <= per_word:
            chosen[word] = list(pictures)
            continue
        areas = np.array([picture.area for picture in pictures])
        draw = np.random.default_rng([seed, zlib.crc32(normalize(word).encode())])
        picked = draw.choice(len(pictures), per_word, replace=False, p=areas / areas.sum())
        chosen[word] = [pictures[index] for index in sorted(picked)]
    return chosen


def _wanted(vocabulary: Vocabulary) -> dict[str, int]:
    """Every spelling of the words wanted, names before spellings before synonyms."""
    found = dict(vocabulary.positions)
    for index, synonyms in enumerate(vocabulary.synonyms):
        for synonym in synonyms:
            found.setdefault(normalize(synonym), index)
    return found


def _of_folder(folder: Path) -> Examples:
    found = {}
    for inner in sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".")):
        files = sorted(path for path in inner.iterdir() if path.is_file() and not path.name.startswith("."))
        if not files:
            raise ValueError(f"examples {folder}: the folder {inner.name!r} has no image; add some or remove it")
        found[inner.name] = [Example(str(file)) for file in files]
    if not found:
        raise ValueError(f"examples {folder}: expected a folder of images for every word, {folder.name}/WORD/IMAGE")
    return found


def _of_file(path: Path) -> Examples:
    found: Examples = {}
    with path.open(newline="", encoding="utf-8-sig") as file:
        reader = csv.DictReader(file, delimiter="\t" if path.suffix == ".tsv" else ",", skipinitialspace=True)
        columns = set(reader.fieldnames or ())
        if not {"word", "image"} <= columns or (columns & {*"xywh"} and not {*"xywh"} <= columns):
            raise ValueError(
                f"examples {path}: expected a first line with the columns word, image and perhaps x, y, w, h, "
                f"found {', '.join(reader.fieldnames or ()) or 'nothing'}"
            )
        for row in reader:
            where = f"examples {path}, line {reader.line_num}"
            word, image = (row["word"] or "").strip(), (row["image"] or "").strip()
            if is_blank(word) or not image:
                raise ValueError(f"{where}: the word or the image is empty")
            box = _box([(row.get(side) or "").strip() for side in "xywh"], where)
            place = Path(image) if Path(image).is_absolute() else path.parent / image
            found.setdefault(word, []).append(Example(str(place), box, f"{where}, image {place}"))
    if not found:
        raise ValueError(f"examples {path}: no example is in it")
    return found


def _box(values: Sequence[str], where: str) -> Box | None:
    if not any(values):
        return None
    try:
        x, y, w, h = map(float, values)
    except ValueError as error:
        raise ValueError(f"{where}: the box {', '.join(values)} is not four numbers x, y, w, h") from error
    if not (np.isfinite([x, y, w, h]).all() and w > 0 and h > 0):
        raise ValueError(f"{where}: the box x={x:g}, y={y:g}, w={w:g}, h={h:g} has no area")
    return x, y, w, h


def _of_dataset(name: str, vocabulary: Vocabulary | None) -> Examples:
    words = get_vocabulary(name, embeddings=False)
    wanted = None if vocabulary is None else _wanted(vocabulary)
    spelled: list[str | None] = list(words.names)
    if vocabulary is not None and wanted is not None:
        places = [wanted.get(normalize(word)) for word in words.names]
        spelled = [None if place is None else vocabulary.names[place] for place in places]
    found: Examples = {}
    for record in get_records(name):
        for index, box in _shown(record):
            word = spelled[index]
            if word is not None:
                where = f"dataset {name!r}, image {record.get('image_id')!r}, {record['file_name']}"
                found.setdefault(word, []).append(Example(record["file_name"], box, where))
    if not found:
        raise ValueError(f"examples {name}: the dataset has no box and no tag of the words wanted")
    order = words.names if vocabulary is None else vocabulary.names
    return {word: found[word] for word in order if word in found}


def _shown(record: Mapping[str, Any]) -> Iterable[tuple[int, Box | None]]:
    """Class index and box of every single object; the whole image for a tag."""
    boxes = record.get("annotations") or ()
    for annotation in boxes:
        if annotation.get("iscrowd") or annotation.get("is_group_of") or "bbox" not in annotation:
            continue
        x, y, w, h = map(float, BoxMode.convert(list(annotation["bbox"]), annotation["bbox_mode"], BoxMode.XYWH_ABS))
        if w > 0 and h > 0:
            yield annotation["category_id"], (x, y, w, h)
    if not boxes:
        for index in record.get("image_labels") or ():
            yield index, None

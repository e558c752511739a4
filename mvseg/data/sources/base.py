"""What every source of annotations returns, and how its category names become class indices."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mvseg.vocabulary import Vocabulary, did_you_mean
from mvseg.vocabulary.suggestions import normalize

from ..card import EVALUATOR_OPTIONS, DatasetCard, missing_message
from ..checks import LoadReport, collecting, complain
from ..columns import ColumnRecords
from ..supervision import FIELDS
from ..tar_files import is_there

IGNORED = -1  # class index of categories that the card ignores
FILTERED = -2  # class index of categories that the card's filter leaves out


@dataclass
class LoadedDataset:
    """A dataset that has been read.

    Args:
        records: one dict for each image in Detectron2's standard form; category_id is the index in ``vocabulary``. A
            list, or a sequence that makes them when asked (:class:`mvseg.data.columns.ColumnRecords`).
        vocabulary: the words, without embeddings; None: the dataset has sentences instead of classes.
        report: counts of what was found.
        file_is_ground_truth: whether an evaluator can read the annotation file as it is: its categories are the
            vocabulary, with the same ids, and no annotation is left out.
        metadata: what the format adds to Detectron2's metadata of the dataset, or puts in place of the usual.
    """

    records: Sequence[dict[str, Any]]
    vocabulary: Vocabulary | None
    report: LoadReport
    file_is_ground_truth: bool = False
    metadata: dict[str, Any] = field(default_factory=dict)


Source = Callable[[DatasetCard, "Vocabulary | None"], LoadedDataset]
FORMATS: dict[str, Source] = {}


@dataclass(frozen=True)
class FormatDetails:
    """What a card of a format may say.

    Args:
        supervision: kinds of supervision that the format can hold; empty: any.
        files: role -> what the further file is.
        options: option -> what it means.
    """

    supervision: tuple[str, ...] = ()
    files: Mapping[str, str] = field(default_factory=dict)
    options: Mapping[str, str] = field(default_factory=dict)


DETAILS: dict[str, FormatDetails] = {}


def register_format(
    name: str,
    supervision: Sequence[str] = (),
    files: Mapping[str, str] | None = None,
    options: Mapping[str, str] | None = None,
) -> Callable[[Source], Source]:
    """Register the reader of an annotation format, so that cards can name it.

    Args:
        name: value of ``format`` in a card.
        supervision: kinds of supervision that the format can hold; empty: any.
        files: roles that a card may name under ``files``, with what they are.
        options: keys that a card may set under ``options``, with what they mean.

    Returns:
        A decorator for a function ``(card, vocabulary or None) -> LoadedDataset``.

    Raises:
        ValueError: if the name is taken.
    """

    def add(source: Source) -> Source:
        if name in FORMATS:
            raise ValueError(f"annotation format {name!r} is already registered by {FORMATS[name].__module__}")
        FORMATS[name] = source
        DETAILS[name] = FormatDetails(tuple(supervision), dict(files or {}), dict(options or {}))
        return source

    return add


def find_source(card: DatasetCard) -> Source:
    """Look up the reader of a card's format.

    Args:
        card: the card.

    Returns:
        The registered function.

    Raises:
        ValueError: if there is no such format, or the card says something that the format does not know; the message
            lists what exists.
    """
    if card.format not in FORMATS:
        raise ValueError(f"{card.where}: unknown format {card.format!r}{did_you_mean(card.format, FORMATS)}")
    details = DETAILS[card.format]
    if details.supervision and card.supervision not in details.supervision:
        raise ValueError(
            f"{card.where}: the format {card.format} has no supervision {card.supervision!r}; say supervision: "
            f"{' or '.join(details.supervision)}"
        )
    options = {**details.options, **EVALUATOR_OPTIONS.get(card.evaluator, {})}
    for field_name, known in (("files", details.files), ("options", options)):
        for key in getattr(card, field_name):
            if key not in known:
                nearest = did_you_mean(str(key), known) if known else f"; it has no {field_name}"
                raise ValueError(f"{card.where}: the format {card.format} does not know {field_name}.{key}{nearest}")
    return FORMATS[card.format]


def class_indices(
    card: DatasetCard,
    categories: Sequence[str],
    vocabulary: Vocabulary,
    examples: Mapping[str, str],
    where: str,
    report: LoadReport | None = None,
) -> dict[str, int]:
    """Find the class index of every category name of an annotation file.

    Args:
        card: gives ``aliases``, ``ignore`` and ``filter``.
        categories: the names in the file.
        vocabulary: the dataset's words; a category may be a word, one of its spellings, or its key.
        examples: category name -> an annotation that has it, for the error.
        where: file named in the error.
        report: is told which categories were found by something else than their name, and what has no category.

    Returns:
        Category name to class index, IGNORED or FILTERED.

    Raises:
        ValueError: if a category is neither in the vocabulary nor ignored, or the card mentions a category that
            the file does not have.
    """
    for key, mentioned in (("aliases", card.aliases), ("ignore", card.ignore)):
        for name in mentioned:
            if name not in categories:
                complain(f"{card.where}: {key} names {name!r}, not in {where}{did_you_mean(name, categories)}")
    by_key = {normalize(key): index for index, key in enumerate(vocabulary.keys or ())}
    result: dict[str, int] = {}
    unknown: list[str] = []
    found: set[int] = set()
    for name in categories:
        if name in card.ignore:
            result[name] = IGNORED
            continue
        word = normalize(card.aliases.get(name, name))
        index = vocabulary.positions.get(word, by_key.get(word))
        if index is None:
            result[name] = IGNORED  # matters only while problems are collected
            unknown.append(name)
            continue
        found.add(index)
        result[name] = FILTERED if is_filtered(card, vocabulary, index) else index
        if report is not None:
            _note_match(card, name, vocabulary, index, report)
    lacking = [word for index, word in enumerate(vocabulary.names) if index not in found]
    if unknown:
        complain(_unknown_message(card, unknown, lacking, vocabulary, examples, where), "unknown_category")
    if report is not None and lacking:
        report.note("words that no category has", *lacking)
    return result


def _note_match(card: DatasetCard, name: str, vocabulary: Vocabulary, index: int, report: LoadReport) -> None:
    """Write down how a category was found, unless simply by its name."""
    word = vocabulary.names[index]
    if name in card.aliases:
        report.note("categories found by the card's aliases", f"{name} = {word}")
    elif normalize(name) != normalize(word):
        is_key = vocabulary.keys is not None and normalize(name) == normalize(vocabulary.keys[index])
        report.note(f"categories found by {'key' if is_key else 'another spelling'}", f"{name} = {word}")


def _unknown_message(
    card: DatasetCard,
    unknown: Sequence[str],
    lacking: Sequence[str],
    vocabulary: Vocabulary,
    examples: Mapping[str, str],
    where: str,
) -> str:
    """The error for categories without a word: both sides of the difference."""
    listed = unknown if collecting() else unknown[:10]
    lines = []
    for name in listed:
        seen = f" ({examples[name]})" if name in examples else ""
        lines.append(f"\n  {name!r}{seen}{did_you_mean(name, vocabulary.names, show_all=0)}")
    if len(unknown) > len(listed):
        lines.append(f"\n  and {len(unknown) - len(listed)} more")
    if lacking:
        shown = lacking if collecting() else lacking[:10]
        more = f" and {len(lacking) - len(shown)} more" if len(lacking) > len(shown) else ""
        lines.append(f"\n{len(lacking)} words of the vocabulary have no category: {', '.join(shown)}{more}")
    return (
        f"{card.where}: {len(unknown)} categories of {where} are not in vocabulary {vocabulary.name!r}:"
        + "".join(lines)
        + "\nmap them in the card (aliases: {category: word}) or leave them out (ignore: [category])"
    )


def is_filtered(card: DatasetCard, vocabulary: Vocabulary, index: int) -> bool:
    """Say whether a card leaves out the annotations of a class.

    Args:
        card: the card.
        vocabulary: the words of the dataset.
        index: class index.

    Returns:
        True if the card's filter does not keep it.

    Raises:
        ValueError: if the vocabulary lacks what the card filters by.
    """
    for key, wanted in card.filter.items():
        values = getattr(vocabulary, key)
        if values is None:
            raise ValueError(f"{card.where}: filter by {key}, but vocabulary {vocabulary.name!r} does not have it")
        if values[index] not in (wanted if isinstance(wanted, list | tuple) else [wanted]):
            return True
    return False


def check_folder(card: DatasetCard, path: Path, what: str) -> Path:
    """Check that a folder of a card exists.

    Args:
        card: the card.
        path: the folder.
        what: what it is, such as "image folder".

    Returns:
        The folder.

    Raises:
        FileNotFoundError: naming the path that was tried, DETECTRON2_DATASETS and the card.
    """
    if not path.is_dir():
        raise FileNotFoundError(missing_message(card, what, path))
    return path


def check_images(card: DatasetCard, records: Sequence[Mapping[str, Any]], samples: int = 8) -> None:
    """Check that there is something to work with: annotated images whose files lie where the card says.

    Only a few files are looked up (a data set can have millions); single missing files are found when they are read.
    While problems are collected none is, for the one who does that looks up all.

    Args:
        card: the card.
        records: the dataset's records.
        samples: number of files looked up, spread over the dataset.

    Raises:
        ValueError: if no image has an annotation.
        FileNotFoundError: if none of the files looked up exists.
    """
    if not count_annotated(records):
        complain(f"{card.where}: no usable image: {len(records)} images, none with an annotation that could be kept")
    step = max(1, len(records) // samples)
    paths = [str(record["file_name"]) for record in records[::step][:samples]]
    if paths and not collecting() and not any(map(is_there, paths)):
        found = f"none of {len(paths)} images looked up is there; the first,"
        raise FileNotFoundError(missing_message(card, found, Path(paths[0])))


def new_record(card: DatasetCard, file_name: Path, height: int, width: int, image_id: int | str) -> dict[str, Any]:
    """Start the record of one image.

    Args:
        card: the card.
        file_name: path of the image.
        height: image height in pixels.
        width: image width in pixels.
        image_id: id of the image in the dataset.

    Returns:
        A record in Detectron2's standard form, with the dataset's name and supervision and no annotations yet.
    """
    return {
        "file_name": str(file_name),
        "height": height,
        "width": width,
        "image_id": image_id,
        "dataset": card.name,
        "supervision": card.supervision,
        "annotations": [],
    }


def count_annotated(records: Sequence[Mapping[str, Any]]) -> int:
    """Count the records that have something to learn from.

    Args:
        records: the dataset's records.

    Returns:
        How many have an annotation of their kind of supervision.
    """
    if isinstance(records, ColumnRecords):
        return int(records.annotated().sum())
    return sum(bool(record.get(FIELDS[record["supervision"]])) for record in records)


def count_images(records: Sequence[Mapping[str, Any]], report: LoadReport) -> None:
    """Count the images with and without something to learn from.

    Args:
        records: the dataset's records.
        report: gets the counts.
    """
    annotated = count_annotated(records)
    report.add("images", len(records))
    report.add("annotated_images", annotated)
    report.add("empty_images", len(records) - annotated)


def read_split(card: DatasetCard) -> set[str] | None:
    """Read the list of images that the card restricts itself to.

    Args:
        card: the card.

    Returns:
        Names without folder and ending; None if the card has no split.

    Raises:
        FileNotFoundError: if the file does not exist.
    """
    if card.split is None:
        return None
    path = card.resolve(card.split, near_card=True)
    if not path.is_file():
        raise FileNotFoundError(missing_message(card, "split file", path))
    lines: Iterable[str] = path.read_text(encoding="utf-8").splitlines()
    return {Path(line.split()[0]).stem for line in lines if line.strip()}

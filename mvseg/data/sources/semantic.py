"""Semantic label maps: a folder of index PNGs beside the folder of the images, as ADE20K and Cityscapes have them."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mvseg.vocabulary import Vocabulary

from ..card import DatasetCard, missing_message
from ..checks import LoadReport, collecting, complain
from ..label_maps import check_label_maps
from .base import LoadedDataset, check_folder, check_images, count_images, new_record, read_split, register_format
from .images import find_files, image_sizes, is_image
from .label_lists import Label, label_words, read_labels

SAMPLES = 8  # label maps that are read to see whether the card describes them; the others are checked when mapped


@register_format(
    "semantic",
    supervision=("semantic",),
    files={"labels": "list of the labels, JSON as Mapillary Vistas has it: their words, where the card names none"},
    options={
        "label_offset": "pixel value of the first word of the vocabulary (0)",
        "label_values": "pixel value of every word, where they do not follow each other; ids: the vocabulary's",
        "ignore_label": "pixel value, or list of them, that has no class; left out: 255 if no word has it",
        "image_suffix": "end of the images' names that the label maps do not have, such as _leftImg8bit",
        "label_suffix": "end of the label maps' names that the images do not have, such as _gtFine_labelIds",
    },
)
def load_semantic(card: DatasetCard, vocabulary: Vocabulary | None) -> LoadedDataset:
    """Read a folder of label maps.

    Args:
        card: the dataset's card; ``annotations`` is the folder of the maps, with the same subfolders as the images.
        vocabulary: the dataset's words; None: the evaluated labels of ``files.labels``, of which one is needed.

    Returns:
        Records with ``sem_seg_file_name`` and ``sem_seg_values``, image ids 1..n in the order of the file names.

    Raises:
        FileNotFoundError: if a folder or the image of a label map does not exist.
        ValueError: if there is no vocabulary, an option is wrong, or one of the maps looked at does not fit the card.
    """
    listed = card.file("labels")
    labels = read_labels(card, listed) if listed is not None else ()
    if vocabulary is None and labels:
        vocabulary = label_words(card, labels)
    if vocabulary is None:
        raise ValueError(f"{card.where}: label maps do not name their classes; say vocabulary: in the card")
    values = label_values(card, vocabulary, labels)
    root = check_folder(card, card.resolve(card.image_root), "image folder")
    folder = check_folder(card, card.resolve(card.annotations), "folder of label maps")
    report = LoadReport(card.name)
    pairs = pair_images(card, root, folder, report)
    records = []
    sizes = image_sizes(card, [image for image, _ in pairs])
    report.add("label_maps", len(pairs))
    report.add("sizes_read", len(sizes))
    for number, ((image, label), size) in enumerate(zip(pairs, sizes, strict=True), start=1):
        if size is None:
            continue
        record = new_record(card, image, *size, number)
        del record["annotations"]  # nothing was said about objects
        records.append({**record, "sem_seg_file_name": str(label), "sem_seg_values": values})
    check_images(card, records)
    sample_label_maps(records)
    count_images(records, report)
    return LoadedDataset(records, vocabulary, report)


def label_values(card: DatasetCard, vocabulary: Vocabulary, labels: Sequence[Label] = ()) -> dict[str, Any]:
    """Read what the pixel values mean from the card's options.

    Args:
        card: the card.
        vocabulary: the n words.
        labels: the list of labels, if there is one: pixel values are then the words' ids, those of all other labels
            have no class.

    Returns:
        ``sem_seg_values`` as :func:`mvseg.data.label_maps.read_semantic` takes it.

    Raises:
        ValueError: if an option is no number, or does not fit the words.
    """
    options: Mapping[str, Any] = card.options
    ignore = options.get("ignore_label")
    listed = options.get("label_values")
    if listed == "ids" or (listed is None and labels):
        listed = list(vocabulary.ids)
    if ignore is None and labels:
        ignore = sorted({label.value for label in labels} - set(vocabulary.ids if listed is None else listed))
    classes = len(vocabulary)
    result: dict[str, Any] = {"classes": classes}
    if listed is not None:
        if "label_offset" in options:
            raise ValueError(f"{card.where}: options has label_values and label_offset; say one of them")
        result["values"] = _numbers(card, "label_values", listed)
        if len(listed) != classes or len(set(listed)) != classes:
            raise ValueError(
                f"{card.where}: options.label_values needs {classes} different values, one for each word, found "
                f"{len(listed)}"
            )
    else:
        result["offset"] = _numbers(card, "label_offset", [options.get("label_offset", 0)])[0]
    meant = set(result.get("values") or range(result["offset"], result["offset"] + classes))
    if ignore is None:
        result["ignore"] = [255] if 255 not in meant else []
    else:
        result["ignore"] = _numbers(card, "ignore_label", ignore if isinstance(ignore, list | tuple) else [ignore])
    both = meant & set(result["ignore"])
    if both:
        raise ValueError(f"{card.where}: options.ignore_label {min(both)} is the pixel value of a class")
    return result


def sample_label_maps(records: Sequence[Mapping[str, Any]]) -> None:
    """Read a few label maps of a dataset; none while problems are collected, for the one who does that reads all.

    Args:
        records: the dataset's records.

    Raises:
        LabelMapError: if one does not fit; see :func:`mvseg.data.label_maps.check_label_maps`.
        ImageReadError: if one cannot be read.
    """
    if collecting():
        return
    for record in records[:: max(1, -(-len(records) // SAMPLES))]:
        check_label_maps(record)


def _numbers(card: DatasetCard, option: str, values: Any) -> list[int]:
    if not isinstance(values, list | tuple) or not all(
        isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 65536 for value in values
    ):
        raise ValueError(f"{card.where}: options.{option} must be whole numbers from 0 to 65535, found {values!r}")
    return list(values)


def pair_images(card: DatasetCard, root: Path, folder: Path, report: LoadReport) -> list[tuple[Path, Path]]:
    """Find the image of every label map.

    Args:
        card: the card, with ``image_suffix`` and ``label_suffix`` among its options.
        root: the image folder.
        folder: the folder of the maps.
        report: counts the files that are left out.

    Returns:
        Image and label map, in the order of the maps' names.

    Raises:
        FileNotFoundError: if a map has no image, or there is none.
        ValueError: if a map has two.
    """
    image_end, label_end = (str(card.options.get(f"{what}_suffix", "")) for what in ("image", "label"))
    images: dict[str, str] = {}
    for name in find_files(root):
        stem = os.path.splitext(name)[0]
        if not is_image(name) or not stem.endswith(image_end):
            continue
        stem = stem.removesuffix(image_end)
        if stem in images:
            complain(
                f"{card.where}: {root / images[stem]} and {root / name}: which is the image of label map {stem}? If "
                "one is the label map itself, put the maps into a folder of their own, or say label_suffix in the card"
            )
        images[stem] = name
    split, used, pairs = read_split(card), set(), []
    for name in find_files(folder):
        stem, ending = os.path.splitext(name)
        if ending.lower() != ".png" or not stem.endswith(label_end):
            report.add("other_files")
            continue
        stem = stem.removesuffix(label_end)
        if split is not None and not {Path(stem).name, Path(stem).name + image_end} & split:
            report.add("unlisted_images")
        elif stem not in images:
            place = root / f"{stem}{image_end}.jpg"
            message = missing_message(card, f"the image of label map {folder / name},", place)
            complain(message, "missing_file", FileNotFoundError)
        else:
            used.add(stem)
            pairs.append((root / images[stem], folder / name))
    if split is None:
        report.add("unlabelled_images", len(images) - len(used))
    if not pairs:
        raise FileNotFoundError(f"{card.where}: {folder} holds no label map *{label_end}.png with an image in {root}")
    return pairs

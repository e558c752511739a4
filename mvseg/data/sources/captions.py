"""COCO captions: sentences about whole images, and the words of a vocabulary in them as tags."""

from __future__ import annotations

from typing import Any

from mvseg.vocabulary import Vocabulary

from ..card import DatasetCard
from ..checks import LoadReport, complain
from .base import LoadedDataset, check_folder, check_images, count_images, register_format
from .caption_words import MATCH_OPTIONS, CaptionWords
from .coco import image_records, read_coco_json


@register_format(
    "coco_captions",
    supervision=("captions", "tags"),
    options={"first_sentence": "look for words in the first sentence of an image alone (false)", **MATCH_OPTIONS},
)
def load_captions(card: DatasetCard, vocabulary: Vocabulary | None) -> LoadedDataset:
    """Read a COCO captions file.

    Args:
        card: the dataset's card.
        vocabulary: words to be found in the sentences; None: none. Supervision
            "tags" needs it.

    Returns:
        Records with ``captions``, a list of sentences, and ``image_labels`` if there is a vocabulary.

    Raises:
        FileNotFoundError: if the annotation file or the image folder does not exist.
        ValueError: if the file is not COCO captions, or an annotation is wrong; the message names the annotation.
    """
    path = card.resolve(card.annotations)
    if card.supervision == "tags" and vocabulary is None:
        raise ValueError(f"{card.where}: to find tags in sentences, name their words (vocabulary: coco)")
    needed = {"images": ("id",), "annotations": ("image_id", "caption")}
    tree = read_coco_json(card, path, needed, "COCO captions")
    root = check_folder(card, card.resolve(card.image_root), "image folder")
    report = LoadReport(card.name)
    records = image_records(card, tree["images"], root, path, lambda image: str(image["file_name"]), report)
    for started in records.values():
        if card.supervision == "captions":
            del started["annotations"]
        started["captions"] = []
    for number, annotation in enumerate(tree["annotations"]):
        where = f"{card.where}: {path}: annotation {annotation.get('id', f'number {number}')}"
        record = records.get(annotation["image_id"])
        if record is None:
            if card.split is None:
                complain(f"{where} belongs to image {annotation['image_id']!r}, which the file does not have")
            continue
        text = check_sentence(annotation["caption"], where, report)
        if text:
            record["captions"].append(text)
            report.add("captions")
    result = list(records.values())
    if vocabulary is not None:
        _add_tags(card, vocabulary, result, report)
    check_images(card, result)
    count_images(result, report)
    return LoadedDataset(result, vocabulary, report)


def _add_tags(card: DatasetCard, vocabulary: Vocabulary, records: list[dict[str, Any]], report: LoadReport) -> None:
    words = CaptionWords(card, vocabulary, report)
    last = 1 if card.options.get("first_sentence", False) else None
    for record in records:
        record["image_labels"] = words.find("\n".join(record["captions"][:last]))


def check_sentence(text: object, where: str, report: LoadReport) -> str | None:
    """Check one sentence.

    Args:
        text: what the file says.
        where: file and annotation named in the error.
        report: counts empty sentences.

    Returns:
        The sentence without blanks at its ends and line breaks in it; None if it is empty.

    Raises:
        ValueError: if it is no text.
    """
    if not isinstance(text, str):
        complain(f"{where}: a sentence must be a text, found {text!r:.80}", "bad_sentence")
        return None
    text = " ".join(text.split())
    if not text:
        report.add("empty_sentences", where=where)
    return text or None

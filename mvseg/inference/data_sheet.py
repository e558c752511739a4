"""A sheet of a dataset's images as the mapper hands them to the model, with the augmented ones beside them if asked."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from detectron2.config import CfgNode

from mvseg.data.loader import seeded
from mvseg.data.mappers import MultiDatasetMapper
from mvseg.data.reading import ImageReadError, ImageSizeError
from mvseg.inference.drawing import captioned, sheet, side_by_side
from mvseg.inference.ground_truth import draw_sample
from mvseg.vocabulary import did_you_mean

Record = dict[str, Any]


def choose_records(records: Sequence[Record], images: str | None, count: int, dataset: str) -> list[Record]:
    """Choose the images of a sheet.

    Args:
        records: the dataset's records.
        images: ids or file names (with or without folder and ending), separated by commas; None: evenly spread ones.
        count: number of evenly spread images.
        dataset: name of the dataset, for errors.

    Returns:
        The chosen records, in the order asked for.

    Raises:
        ValueError: if there is no such image, or nothing to choose from; the message lists the nearest ids.
    """
    if not records or count < 1:
        raise ValueError(f"dataset {dataset!r}: {count} of {len(records)} images asked for")
    if images is None:
        chosen = np.unique(np.linspace(0, len(records) - 1, min(count, len(records))).astype(int))
        return [records[i] for i in chosen]
    known: dict[str, Record] = {}
    for record in records:
        path = Path(str(record["file_name"]))
        for key in (str(record["image_id"]), path.name, path.stem):
            known.setdefault(key, record)
    found = []
    for key in (part.strip() for part in images.split(",")):
        match = known.get(key) or known.get(Path(key).name)
        if match is None:
            raise ValueError(f"dataset {dataset!r} has no image {key!r}{did_you_mean(key, known)}")
        found.append(match)
    return found


def draw_sheet(
    cfg: CfgNode,
    records: Sequence[Record],
    words: Sequence[str],
    *,
    augmented: bool = False,
    seed: int = 0,
    height: int = 320,
    columns: int = 0,
) -> tuple[np.ndarray | None, list[str]]:
    """Draw images with their annotations as a mapper of the config gives them.

    Args:
        cfg: the config; a mixture entry's own augmentation counts.
        records: the images.
        words: the dataset's vocabulary.
        augmented: draw pairs of original and augmented image.
        seed: seed of the augmentation of the first image.
        height: height of each image in pixels.
        columns: images or pairs in a row; 0: 4, or 2 pairs.

    Returns:
        The sheet, uint8 RGB (height, width, 3), None if nothing could be drawn; and a text for each image that could
        not.
    """
    arguments = MultiDatasetMapper.from_config(cfg, is_train=True)
    plain = MultiDatasetMapper(**{**arguments, "augmentations": {}, "default_augmentations": []})
    training = MultiDatasetMapper(**arguments)
    rgb = cfg.INPUT.FORMAT == "RGB"
    pictures, failed = [], []
    for number, record in enumerate(records):
        try:
            original = plain(record)
            with seeded(seed + number):
                sample = training(record) if augmented else None
        except (ImageReadError, ImageSizeError) as error:
            failed.append(str(error))
            continue
        pictures.append(_cell(record, original, sample, words, rgb, height))
    return (sheet(pictures, columns or (2 if augmented else 4)) if pictures else None), failed


def _cell(
    record: Record, original: Record, augmented: Record | None, words: Sequence[str], rgb: bool, height: int
) -> np.ndarray:
    picture = draw_sample(original, words, rgb=rgb, height=height)
    title = f"{Path(str(record['file_name'])).name}: {describe(record, original)}"
    if augmented is None:
        return captioned(picture, title)
    right = draw_sample(augmented, words, rgb=rgb, height=height)
    size = " x ".join(str(side) for side in reversed(augmented["image"].shape[1:]))
    return side_by_side(picture, right, title, f"augmented, {size} pixels")


def describe(record: Record, sample: Record) -> str:
    """Say in a few words what is annotated in an image.

    Args:
        record: the dataset's record.
        sample: what the mapper made of it.

    Returns:
        Such as "640 x 480, 3 objects, 1 crowd region left out".
    """
    parts = [f"{sample['width']} x {sample['height']}"]
    instances = sample.get("instances")
    crowd = sum(bool(a.get("iscrowd")) for a in record.get("annotations") or ())
    if instances is not None and (record.get("annotations") or record.get("supervision") in ("boxes", "masks", None)):
        parts.append(_count(len(instances), "object"))
    for key, what in (("image_labels", "tag"), ("segments_info", "segment"), ("captions", "caption")):
        if record.get(key):
            parts.append(_count(len(record[key]), what))
    if record.get("phrases"):
        parts.append(_count(len(record["phrases"]), "phrase"))
    if crowd:
        parts.append(f"{_count(crowd, 'crowd region')} left out")
    return ", ".join(parts)


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"

"""The world's datasets of pixel maps: ADE20K's folders of index pictures, and COCO's panoptic pictures and JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from .datasets import WorldDataset, WorldSettings
from .facts import ImageFacts, SegmentFacts, tight_box
from .files_coco import image_entry, information, write_json
from .things import things
from .words import ground_words, word_list

Array = NDArray[Any]

ADE_FOLDERS = {"train": "training", "val": "validation"}


def map_words(dataset: WorldDataset) -> tuple[str, ...]:
    """List the classes of a dataset of maps.

    Args:
        dataset: the dataset.

    Returns:
        Its words for things, then those for grounds.
    """
    names = word_list(dataset.words).names
    return tuple(dict.fromkeys([*names, *ground_words(_column(dataset)).values()]))


def _column(dataset: WorldDataset) -> str:
    return "parse" if dataset.kind == "ade" else "panoptic"


def _ground_indices(dataset: WorldDataset, grounds: Sequence[str]) -> Array:
    """Class index of every ground of the painter, -1 where the dataset has no word for it."""
    names, words = map_words(dataset), ground_words(_column(dataset))
    return np.array([names.index(words[g]) if words.get(g) else -1 for g in grounds], np.int32)


def class_map(dataset: WorldDataset, objects: Sequence[Any], ground: Array, grounds: Sequence[str]) -> Array:
    """Make the semantic map of a scene.

    Args:
        dataset: the dataset.
        objects: the drawn things, back to front.
        ground: index of the ground (H, W) at every pixel, also under the objects.
        grounds: names of the grounds.

    Returns:
        Class indices (H, W), int32; -1 where nothing is labelled.
    """
    result: Array = _ground_indices(dataset, grounds)[ground]
    index = word_list(dataset.words).index
    for item in objects:
        result[item.mask] = index.get(item.thing, -1)
    return result


def write_class_map(path: Path, classes: Array) -> tuple[tuple[int, int], ...]:
    """Write a semantic map as ADE20K does: one higher than the class index, 0 where nothing is labelled.

    Args:
        path: PNG file.
        classes: class indices (H, W), -1 where nothing is labelled.

    Returns:
        (class index, number of pixels) of the classes that occur.
    """
    write_png(path, (classes + 1).astype(np.uint8))
    values, counts = np.unique(classes[classes >= 0], return_counts=True)
    return tuple(zip(values.tolist(), counts.tolist(), strict=True))


def panoptic_map(
    dataset: WorldDataset, objects: Sequence[Any], ground: Array, grounds: Sequence[str]
) -> tuple[Array, tuple[SegmentFacts, ...]]:
    """Make the panoptic map of a scene: a segment for every thing, and one for each kind of ground.

    Args:
        dataset: the dataset.
        objects: the drawn things, back to front.
        ground: index of the ground (H, W) at every pixel, also under the objects.
        grounds: names of the grounds.

    Returns:
        Segment ids (H, W), int32, 0 where nothing is labelled; and the segments.
    """
    index = word_list(dataset.words).index
    classes = _ground_indices(dataset, grounds)[ground]
    for item in objects:
        classes[item.mask] = -1
    ids = np.zeros(ground.shape, np.int32)
    segments: list[SegmentFacts] = []

    def add(word: int, mask: Array) -> None:
        # Ids are spread over the three colour channels, so that a reader which looks at one channel only is caught.
        number = (len(segments) + 1) * 257 + 65536 * (len(segments) % 5)
        ids[mask] = number
        segments.append(SegmentFacts(word, number, tight_box(mask), int(np.count_nonzero(mask))))

    for item in objects:
        if item.thing in index and item.mask.any():
            add(index[item.thing], item.mask)
    for word in np.unique(classes[classes >= 0]).tolist():
        add(word, classes == word)
    return ids, tuple(segments)


def write_panoptic_map(path: Path, ids: Array) -> None:
    """Write segment ids as COCO does: red + 256 green + 65536 blue.

    Args:
        path: PNG file.
        ids: segment ids (H, W).
    """
    write_png(path, np.stack([ids & 255, ids >> 8 & 255, ids >> 16 & 255], axis=2).astype(np.uint8))


def write_png(path: Path, picture: Array) -> None:
    """Write a picture without loss.

    Args:
        path: PNG file; its folder exists.
        picture: (H, W) or RGB (H, W, 3), uint8.

    Raises:
        OSError: if the file cannot be written.
    """
    pixels = picture if picture.ndim == 2 else np.ascontiguousarray(picture[:, :, ::-1])
    done, data = cv2.imencode(".png", pixels, [cv2.IMWRITE_PNG_COMPRESSION, 1])
    if not done:
        raise OSError(f"{path}: OpenCV could not encode a picture of shape {picture.shape}")
    path.write_bytes(data.tobytes())  # unlike cv2.imwrite this says why if it fails, such as a full disk


def write_ade(dataset: WorldDataset, folder: Path, facts: Mapping[str, Sequence[ImageFacts]], _: WorldSettings) -> None:
    """Write ``objectInfo.txt``, the list of classes that comes with ADE20K's folders.

    Args:
        dataset: the dataset.
        folder: its folder.
        facts: split to its pictures.
    """
    names = map_words(dataset)
    counts = {split: [0] * len(names) for split in facts}
    pixels = [0] * len(names)
    for split, pictures in facts.items():
        for picture in pictures:
            for word, number in picture.pixels:
                counts[split][word] += 1
                pixels[word] += number
    first_ground = len(word_list(dataset.words).names)
    lines = ["Idx\tRatio\tTrain\tVal\tStuff\tName"]
    for word, name in enumerate(names):
        ratio = pixels[word] / max(1, sum(pixels))
        shown = [counts.get(split, [0] * len(names))[word] for split in ("train", "val")]
        lines.append(f"{word + 1}\t{ratio:.4f}\t{shown[0]}\t{shown[1]}\t{int(word >= first_ground)}\t{name}")
    (folder / "objectInfo.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")


def write_panoptic(
    dataset: WorldDataset, folder: Path, facts: Mapping[str, Sequence[ImageFacts]], _: WorldSettings
) -> None:
    """Write ``annotations/panoptic_SPLIT.json``; the id pictures lie in the folder of the same name.

    Args:
        dataset: the dataset.
        folder: its folder.
        facts: split to its pictures.
    """
    words = word_list(dataset.words)
    categories = [
        {
            "id": number,
            "name": name,
            "supercategory": things()[words.covers[number - 1][0]].group if number <= len(words.names) else "ground",
            "isthing": int(number <= len(words.names)),
            "color": [number * 83 % 256, number * 151 % 256, number * 211 % 256],
        }
        for number, name in enumerate(map_words(dataset), start=1)
    ]
    for split, pictures in facts.items():
        annotations = [
            {"image_id": p.number, "file_name": p.file, "segments_info": [_segment(s) for s in p.segments]}
            for p in pictures
        ]
        tree = {
            "info": information(dataset),
            "licenses": [],
            "images": [image_entry(p) for p in pictures],
            "annotations": annotations,
            "categories": categories,
        }
        write_json(folder / "annotations" / f"panoptic_{split}.json", tree)


def _segment(segment: SegmentFacts) -> dict[str, Any]:
    return {
        "id": segment.segment_id,
        "category_id": segment.word + 1,
        "area": segment.area,
        "bbox": list(segment.box),
        "iscrowd": 0,
    }

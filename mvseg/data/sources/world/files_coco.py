"""The world's datasets in the file formats of COCO (instances, captions), LVIS v1 and RefCOCO."""

from __future__ import annotations

import functools
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from .datasets import WorldDataset, WorldSettings, picture_chance
from .facts import ImageFacts, ObjectFacts
from .federation import SKIPPED_COMMON, SKIPPED_FREQUENT, Federated, federate, frequency_of
from .sentences import captions, expressions
from .things import things
from .words import known_synonyms, rare_things, word_list

Tree = dict[str, Any]
Facts = Mapping[str, Sequence[ImageFacts]]


def write_json(path: Path, tree: Any) -> None:
    """Write a JSON file without spaces, the same bytes for the same tree.

    Args:
        path: the file; its folder is made.
        tree: the content.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(tree, separators=(",", ":"), ensure_ascii=False), encoding="utf-8")


def write_coco(dataset: WorldDataset, folder: Path, facts: Facts, settings: WorldSettings) -> None:
    """Write ``annotations/instances_SPLIT.json``.

    Args:
        dataset: the dataset.
        folder: its folder.
        facts: split to its pictures.
        settings: options of the world.
    """
    words = word_list(dataset.words)
    categories = [
        {"id": number, "name": word, "supercategory": things()[covered[0]].group}
        for number, (word, covered) in enumerate(zip(words.names, words.covers, strict=True), start=1)
    ]
    for split, pictures in facts.items():
        annotations: list[Tree] = []
        for picture in pictures:
            named = [item for item in picture.objects if item.thing in words.index]
            add_instances(annotations, picture, named, words.index)
        tree = {
            "info": information(dataset),
            "licenses": [],
            "images": [image_entry(picture) for picture in pictures],
            "annotations": [{**annotation, "iscrowd": 0} for annotation in annotations],
            "categories": categories,
        }
        write_json(folder / "annotations" / f"instances_{split}.json", tree)


def information(dataset: WorldDataset) -> dict[str, Any]:
    """Describe a dataset in its files.

    Args:
        dataset: the dataset.

    Returns:
        The entry ``info``.
    """
    return {"description": f"{dataset.name}, drawn by mvseg: {dataset.models}", "version": "1"}


def image_entry(picture: ImageFacts) -> Tree:
    """Describe a picture as COCO does.

    Args:
        picture: the picture.

    Returns:
        The entry of ``images``.
    """
    return {"id": picture.number, "file_name": picture.file, "height": picture.size, "width": picture.size}


def add_instances(
    annotations: list[Tree], picture: ImageFacts, objects: Iterable[ObjectFacts], index: Mapping[str, int]
) -> None:
    """Append the annotations of a picture.

    Args:
        annotations: gets the entries; ids go on counting.
        picture: the picture.
        objects: its objects that are annotated.
        index: thing to class index; category ids are one higher.
    """
    for item in objects:
        entry: Tree = {
            "id": len(annotations) + 1,
            "image_id": picture.number,
            "category_id": index[item.thing] + 1,
            "bbox": list(item.box),
            "area": item.area,
        }
        if item.polygons:
            entry["segmentation"] = list(item.polygons)
        annotations.append(entry)


def write_lvis(dataset: WorldDataset, folder: Path, facts: Facts, settings: WorldSettings) -> None:
    """Write ``lvis_v1_SPLIT.json``; every file has the frequencies of the training set, as LVIS has.

    Args:
        dataset: the dataset.
        folder: its folder.
        facts: split to its pictures.
        settings: options of the world.
    """
    words = word_list(dataset.words)
    skipped = _skipped(facts["train"], words.index)
    categories: list[Tree] = []
    for split in ("train", *(split for split in facts if split != "train")):
        annotations: list[Tree] = []
        images: list[Tree] = []
        for picture in facts[split]:
            chance = picture_chance(dataset, split, picture.number, "federation", settings.seed)
            made = federate(picture.objects, words.index, skipped, chance)
            add_instances(annotations, picture, [picture.objects[i] for i in made.kept], words.index)
            images.append(_lvis_image(picture, split, made))
        categories = categories or lvis_categories(annotations, settings.images)
        tree = {
            "info": information(dataset),
            "licenses": [],
            "images": images,
            "annotations": annotations,
            "categories": categories,
        }
        write_json(folder / f"lvis_v1_{split}.json", tree)


def _skipped(pictures: Sequence[ImageFacts], index: Mapping[str, int]) -> dict[int, float]:
    """Share of the images of each class that is left out of its positive set: the more images, the more."""
    counts = Counter(index[thing] for p in pictures for thing in {o.thing for o in p.objects})
    shares = {"r": 0.0, "c": SKIPPED_COMMON, "f": SKIPPED_FREQUENT}
    rare = {index[thing] for thing in rare_things()}
    return {c: 0.0 if c in rare else shares[frequency_of(n, len(pictures))] for c, n in counts.items()}


def _lvis_image(picture: ImageFacts, split: str, made: Federated) -> Tree:
    return {
        "id": picture.number,
        "height": picture.size,
        "width": picture.size,
        "license": 0,
        "coco_url": f"http://localhost/{split}/{picture.file}",  # LVIS names its files by the end of this address
        "flickr_url": "",
        "date_captured": "",
        "neg_category_ids": [c + 1 for c in made.negative],
        "not_exhaustive_category_ids": [c + 1 for c in made.not_exhaustive],
    }


def lvis_categories(annotations: Sequence[Tree], images: int) -> list[Tree]:
    """Describe the classes as LVIS v1 does, counted in the training annotations.

    Args:
        annotations: all training annotations.
        images: number of training images.

    Returns:
        The entries of ``categories``.
    """
    instances = Counter(a["category_id"] for a in annotations)
    shown = Counter(category for _, category in {(a["image_id"], a["category_id"]) for a in annotations})
    return [
        {
            "id": number,
            "name": name.replace(" ", "_"),
            "synset": f"{name.replace(' ', '_')}.n.01",
            "synonyms": [word.replace(" ", "_") for word in (name, *known_synonyms(name))],
            "def": things()[name].definition,
            "frequency": frequency_of(shown[number], images),
            "image_count": shown[number],
            "instance_count": instances[number],
        }
        for number, name in enumerate(word_list("all").names, start=1)
    ]


def write_captions(dataset: WorldDataset, folder: Path, facts: Facts, settings: WorldSettings) -> None:
    """Write ``annotations/captions_SPLIT.json``.

    Args:
        dataset: the dataset.
        folder: its folder.
        facts: split to its pictures.
        settings: options of the world.
    """
    for split, pictures in facts.items():
        annotations: list[Tree] = []
        for picture in pictures:
            chance = picture_chance(dataset, split, picture.number, "captions", settings.seed)
            for text in captions(picture, chance):
                annotations.append({"id": len(annotations) + 1, "image_id": picture.number, "caption": text})
        tree = {
            "info": information(dataset),
            "licenses": [],
            "images": [image_entry(picture) for picture in pictures],
            "annotations": annotations,
        }
        write_json(folder / "annotations" / f"captions_{split}.json", tree)


def write_phrases(dataset: WorldDataset, folder: Path, facts: Facts, settings: WorldSettings) -> None:
    """Write ``refs_SPLIT.json``: images, and objects (refs), each with expressions that point at it alone.

    Args:
        dataset: the dataset.
        folder: its folder.
        facts: split to its pictures.
        settings: options of the world.
    """
    for split, pictures in facts.items():
        refs: list[Tree] = []
        for picture in pictures:
            chance = picture_chance(dataset, split, picture.number, "phrases", settings.seed)
            for target, item in enumerate(picture.objects):
                texts = expressions(picture, target, chance)
                if texts:
                    refs.append(_ref(len(refs), split, picture, item, texts))
        tree = {"info": information(dataset), "images": [image_entry(p) for p in pictures], "refs": refs}
        write_json(folder / f"refs_{split}.json", tree)


def _ref(number: int, split: str, picture: ImageFacts, item: ObjectFacts, texts: Sequence[str]) -> Tree:
    return {
        "ref_id": number,
        "image_id": picture.number,
        "split": split,
        "category_id": _all_index()[item.thing] + 1,
        "bbox": list(item.box),
        "sentences": [{"sent": text} for text in texts],
    }


@functools.cache
def _all_index() -> Mapping[str, int]:
    return word_list("all").index

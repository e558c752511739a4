"""COCO JSON of Visual Genome's boxes for a vocabulary (``python datasets/prepare_visual_genome.py``).

Reads objects.json, image_data.json and, if it is there, object_alias.txt. An object gets the first of its names that is
a word, a spelling, an alias or a synonym; other objects are left out, counted, and the most frequent printed. About
half of the images are COCO's: --leave-out takes annotation files of COCO or LVIS whose images must not be trained on.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import mvseg  # noqa: F401  (lets detectron2 resolve)
from mvseg.data.card import datasets_root
from mvseg.data.coco_file import write_json
from mvseg.vocabulary import Vocabulary, builtin_tables
from mvseg.vocabulary.suggestions import normalize

HOW = ("word", "alias", "synonym")


def read_words(entry: str) -> Vocabulary:
    """Read the vocabulary; a line of a .txt file may be a word and its synonyms, divided by commas.

    Args:
        entry: a built-in table, or a file of names.

    Returns:
        The vocabulary.

    Raises:
        ValueError: if the file is wrong.
        FileNotFoundError: if it does not exist.
    """
    if entry in builtin_tables():
        return Vocabulary.from_table(entry)
    if Path(entry).suffix != ".txt":
        return Vocabulary.from_file(entry)
    lines = [line.split(",") for line in Path(entry).read_text(encoding="utf-8").splitlines() if line.strip()]
    groups = [[word.strip() for word in line if word.strip()] for line in lines]
    return Vocabulary(
        name=Path(entry).stem,
        names=tuple(group[0] for group in groups),
        synonyms=tuple(tuple(group[1:]) for group in groups),
    )


def read_aliases(path: Path) -> list[list[str]]:
    """Read Visual Genome's groups of names for one thing.

    Args:
        path: text file with a group on each line, divided by commas.

    Returns:
        The groups, in reduced form.
    """
    lines = path.read_text(encoding="utf-8").splitlines()
    return [[normalize(name) for name in line.split(",") if name.strip()] for line in lines if line.strip()]


def name_table(words: Vocabulary, aliases: Iterable[Sequence[str]]) -> dict[str, tuple[int, str]]:
    """Find out which names mean which word.

    Args:
        words: the vocabulary.
        aliases: groups of names for one thing.

    Returns:
        Reduced name -> class index, and "word", "alias" or "synonym". What would mean two words means none.
    """
    table = {name: (index, "word") for name, index in words.positions.items()}
    groups: dict[str, list[tuple[set[int], list[str]]]] = {"alias": [], "synonym": []}
    for names in (list(map(normalize, group)) for group in aliases):
        groups["alias"].append(({words.positions[name] for name in names if name in words.positions}, names))
    for index, synonyms in enumerate(words.synonyms):
        groups["synonym"].append(({index}, list(map(normalize, synonyms))))
    for how, listed in groups.items():
        claims: dict[str, set[int]] = {}
        for meant, names in listed:
            for name in names:
                claims.setdefault(name, set()).update(meant)
        for name, meant in claims.items():
            if len(meant) == 1:
                table.setdefault(name, (next(iter(meant)), how))
    return table


def boxes_of(
    objects: Iterable[Mapping[str, Any]], table: Mapping[str, tuple[int, str]], counts: Counter[str]
) -> Iterator[tuple[int, list[float]]]:
    """Find the objects of an image that have a word.

    Args:
        objects: entries with ``names``, x, y, w and h.
        table: from :func:`name_table`.
        counts: is told how each was found, and the names of those that were not ("- name").

    Yields:
        Class index, and box (x, y, width, height).
    """
    for entry in objects:
        names = [normalize(str(name)) for name in entry.get("names") or [entry.get("name", "")]]
        found = [table[name] for name in names if name in table]
        if not found:
            counts[f"- {names[0] if names else ''}"] += 1
            continue
        index, how = min(found, key=lambda match: HOW.index(match[1]))
        counts[how] += 1
        yield index, [float(entry[key]) for key in ("x", "y", "w", "h")]


def image_entry(image: Mapping[str, Any]) -> dict[str, Any]:
    """Make the entry of an image.

    Args:
        image: entry of image_data.json; the last two parts of its ``url`` are folder and file.

    Returns:
        ``id``, ``file_name``, ``height`` and ``width``.
    """
    name = "/".join(str(image["url"]).split("/")[-2:])
    return {"id": image["image_id"], "file_name": name, "height": image["height"], "width": image["width"]}


def split_images(
    images: Sequence[Mapping[str, Any]], left_out: set[int], val: set[int] | int
) -> tuple[dict[str, list[dict[str, Any]]], int]:
    """Choose the images of training and validation.

    Args:
        images: entries of image_data.json.
        left_out: COCO's ids of images that belong to no split.
        val: ids of the images for validation, or how many, spread evenly over the ids.

    Returns:
        The image entries of "train" and "val", and how many are left out.

    Raises:
        ValueError: if an id for validation is that of no image.
    """
    kept = sorted((image for image in images if image.get("coco_id") not in left_out), key=lambda i: i["image_id"])
    if isinstance(val, int):
        count = min(val, len(kept))
        val = {kept[place * len(kept) // count]["image_id"] for place in range(count)}
    unknown = sorted(val - {image["image_id"] for image in images})
    if unknown:
        raise ValueError(
            f"{len(unknown)} validation ids are those of no image in image_data.json, such as {unknown[0]}"
        )
    parts: dict[str, list[dict[str, Any]]] = {"train": [], "val": []}
    for image in kept:
        parts["val" if image["image_id"] in val else "train"].append(image_entry(image))
    return parts, len(images) - len(kept)


def write_splits(root: Path, words: Vocabulary, parts: Mapping[str, list[dict[str, Any]]]) -> Counter[str]:
    """Write a COCO file for every split.

    Args:
        root: folder of the dataset.
        words: the vocabulary.
        parts: split -> its image entries.

    Returns:
        How many objects were found in which way; "- name" those that were not.

    Raises:
        ValueError: if a file is not as Visual Genome's.
    """
    alias_file = root / "object_alias.txt"
    table = name_table(words, read_aliases(alias_file) if alias_file.is_file() else [])
    objects = {entry["image_id"]: entry["objects"] for entry in read_list(root / "objects.json", "image_id", "objects")}
    counts: Counter[str] = Counter()
    for split, images in parts.items():
        annotations: list[dict[str, Any]] = []
        for image in images:
            try:
                found = list(boxes_of(objects.get(image["id"], ()), table, counts))
            except (KeyError, TypeError, ValueError, AttributeError) as error:
                message = (
                    f"{root / 'objects.json'}: image {image['id']}: an object needs names, x, y, w and h: {error!r}"
                )
                raise ValueError(message) from error
            for index, box in found:
                made = {"image_id": image["id"], "category_id": words.ids[index], "bbox": box, "area": box[2] * box[3]}
                annotations.append({"id": len(annotations) + 1, **made, "iscrowd": 0})
        categories = [{"id": i, "name": n} for i, n in zip(words.ids, words.names, strict=True)]
        target = root / "annotations" / f"{words.name}_{split}.json"
        write_json(target, {"images": images, "annotations": annotations, "categories": categories})
        unlisted = sum(image["id"] not in objects for image in images)
        note = f"; objects.json does not have {unlisted:,} of the images" if unlisted else ""
        print(f"{target}: {len(images):,} images, {len(annotations):,} boxes{note}")
    return counts


def read_list(path: Path, *keys: str) -> list[dict[str, Any]]:
    """Read a JSON list of Visual Genome.

    Args:
        path: the file.
        *keys: what every entry must have.

    Returns:
        The list.

    Raises:
        ValueError: if it is none, or an entry lacks a key; the message names it.
    """
    try:
        tree = json.loads(path.read_bytes())
    except ValueError as error:
        raise ValueError(f"{path} is not JSON: {error}") from error
    if not isinstance(tree, list):
        raise ValueError(f"{path} must be a list of images, its top level is a {type(tree).__name__}")
    for number, entry in enumerate(tree):
        if not isinstance(entry, dict) or any(key not in entry for key in keys):
            raise ValueError(f"{path}: entry {number} needs {', '.join(keys)}: {entry!r:.100}")
    return tree


def main(arguments: Sequence[str] | None = None) -> int:
    """Read the command line and write the files.

    Args:
        arguments: the command line without the program's name; None: that of the process.

    Returns:
        Exit status.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", help="folder of the dataset; default: visual_genome under $DETECTRON2_DATASETS")
    parser.add_argument("--words", default="visual_genome", help="built-in table or file of names")
    parser.add_argument("--val", default="5000", help="number of validation images, or file with an image id a line")
    parser.add_argument("--leave-out", nargs="*", default=[], help="COCO or LVIS files whose images are left out")
    args = parser.parse_args(arguments)
    root = Path(args.root) if args.root else datasets_root() / "visual_genome"
    try:
        words = read_words(args.words)
        images = read_list(root / "image_data.json", "image_id", "url", "width", "height")
        left_out = {i["id"] for file in args.leave_out for i in json.loads(Path(file).read_bytes())["images"]}
        val = int(args.val) if args.val.isdecimal() else {int(x) for x in Path(args.val).read_text().split()}
        parts, count = split_images(images, left_out, val)
        if args.leave_out:
            print(f"{count:,} images of {', '.join(args.leave_out)} are left out")
        counts = write_splits(root, words, parts)
    except (ValueError, OSError, KeyError) as error:
        print(f"prepare_visual_genome: {error}", file=sys.stderr)
        return 1
    lost = {name[2:]: number for name, number in counts.most_common() if name.startswith("- ")}
    print(", ".join(f"{counts[how]:,} objects found by {how}" for how in HOW))
    print(f"{sum(lost.values()):,} objects of {len(lost):,} other names left out, most of them:")
    print(", ".join(f"{name} {number:,}" for name, number in list(lost.items())[:20]))
    return 0


if __name__ == "__main__":
    sys.exit(main())

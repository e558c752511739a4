"""Drawing one picture of a dataset of the world: the picture, its pixel maps, and what annotators need to know."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .datasets import DATASETS, WorldDataset, WorldSettings, scene_spec
from .facts import ImageFacts, object_facts
from .files_maps import ADE_FOLDERS, class_map, panoptic_map, write_class_map, write_panoptic_map, write_png
from .files_openimages import OPEN_SPLITS, open_image_id
from .files_tags import tag_label
from .grounds import GROUNDS
from .scene import draw_scene
from .words import word_list


@dataclass(frozen=True)
class Job:
    """One picture to be drawn.

    Args:
        dataset: name of the dataset.
        split: "train" or "val".
        number: 1-based number in the split.
        settings: options of the world.
        folder: folder that the dataset is written into.
    """

    dataset: str
    split: str
    number: int
    settings: WorldSettings
    folder: str


def picture_folder(dataset: WorldDataset, split: str) -> str:
    """Name the folder of the pictures, relative to that of the dataset.

    Args:
        dataset: the dataset.
        split: "train" or "val".

    Returns:
        The folder, as the dataset's format has it.
    """
    if dataset.kind == "ade":
        return f"images/{ADE_FOLDERS[split]}"
    return OPEN_SPLITS[split] if dataset.kind == "openimages" else split


def picture_file(dataset: WorldDataset, split: str, number: int, dominant: str | None) -> str:
    """Name a picture, relative to the folder of its split.

    Args:
        dataset: the dataset.
        split: "train" or "val".
        number: 1-based number in the split.
        dominant: the thing that the picture is about; only with tags.

    Returns:
        The name, as the dataset's format has it.
    """
    if dataset.kind == "tags":
        label = tag_label(str(dominant))
        return f"{label}/{label}_{number}.png"
    if dataset.kind == "ade":
        return f"ADE_{split}_{number:08d}.png"
    if dataset.kind == "openimages":
        return f"{open_image_id(split, number)}.png"
    return f"{number:012d}.png"


def folders_of(dataset: WorldDataset) -> list[str]:
    """List the folders that pictures and maps are written into, so that drawing need not make them.

    Args:
        dataset: the dataset.

    Returns:
        Folders relative to that of the dataset.
    """
    folders = [picture_folder(dataset, split) for split in dataset.splits]
    if dataset.kind == "ade":
        folders += [f"annotations/{ADE_FOLDERS[split]}" for split in dataset.splits]
    elif dataset.kind == "panoptic":
        folders += [f"annotations/panoptic_{split}" for split in dataset.splits]
    elif dataset.kind == "tags":
        folders = [f"{folders[0]}/{tag_label(name)}" for name in word_list(dataset.words).names]
    return folders


def draw_picture(job: Job) -> ImageFacts:
    """Draw one picture and write it, with its pixel map if the dataset has any.

    Args:
        job: what to draw.

    Returns:
        What annotators need to know.

    Raises:
        OSError: if a file cannot be written; the error names it.
    """
    dataset = DATASETS[job.dataset]
    spec = scene_spec(dataset, job.split, job.number, job.settings)
    scene = draw_scene(spec)
    file = picture_file(dataset, job.split, job.number, spec.dominant)
    folder = Path(job.folder)
    write_png(folder / picture_folder(dataset, job.split) / file, scene.image)
    facts = ImageFacts(
        number=job.number,
        file=file,
        size=scene.image.shape[0],
        objects=object_facts(scene.objects, dataset.masks and dataset.kind != "panoptic"),
        grounds=_by_size(scene.ground),
    )
    if dataset.kind == "ade":
        classes = class_map(dataset, scene.objects, scene.ground, GROUNDS)
        return replace(facts, pixels=write_class_map(folder / "annotations" / ADE_FOLDERS[job.split] / file, classes))
    if dataset.kind == "panoptic":
        ids, segments = panoptic_map(dataset, scene.objects, scene.ground, GROUNDS)
        write_panoptic_map(folder / "annotations" / f"panoptic_{job.split}" / file, ids)
        return replace(facts, segments=segments)
    return facts


def _by_size(ground: NDArray[Any]) -> tuple[str, ...]:
    counts = np.bincount(ground.ravel(), minlength=len(GROUNDS))
    order = np.argsort(-counts, kind="stable")
    return tuple(GROUNDS[i] for i in order.tolist() if counts[i])

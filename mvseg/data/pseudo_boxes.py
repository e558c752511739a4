"""Boxes that a detector found in images of training, of classes that their dataset does not annotate.

A file of them is COCO JSON with a few more fields: ``info`` says of which dataset and of which version of its images it
is, a category says the ``dataset`` of its word, an annotation its ``weight`` from 0 to 1. ``python -m
mvseg.inference.pseudo_boxes`` writes it; ``pseudo_boxes`` in ``DATASETS.MIX`` names it.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.structures import Boxes, Instances

from mvseg.data.catalog import get_records, get_vocabulary
from mvseg.data.mixing import mixture_from_config
from mvseg.data.proposals import images_fingerprint
from mvseg.vocabulary import did_you_mean

FORMAT = "mvseg pseudo boxes 1"


@dataclass(frozen=True)
class PseudoBoxes:
    """The pseudo boxes of a dataset.

    Args:
        datasets: whose words they have.
        images: image id -> (M, 7) float64: x0, y0, x1, y1 in pixels of the file, weight, index of the dataset, index of
            the class in that dataset's vocabulary.
    """

    datasets: tuple[str, ...]
    images: Mapping[Any, np.ndarray]

    def of(self, image_id: Any, transforms: Any, size: tuple[int, int]) -> Instances | None:
        """Move the boxes of an image along with an augmentation.

        Args:
            image_id: the image.
            transforms: Detectron2's transforms of the image.
            size: height and width of the augmented image, pixels.

        Returns:
            ``gt_boxes`` (N, 4), clipped to the augmented image, without those that lie outside, ``gt_weights`` (N,)
            float32, ``gt_sources`` and ``gt_classes`` (N,) int64; None where the image has no pseudo boxes.
        """
        rows = self.images.get(image_id)
        if rows is None:
            return None
        boxes = Boxes(torch.from_numpy(transforms.apply_box(rows[:, :4].copy())).float())
        boxes.clip(size)
        kept = boxes.nonempty().nonzero()[:, 0]
        found = Instances(size, gt_boxes=boxes[kept])
        values = torch.from_numpy(rows[:, 4:].copy())[kept]
        found.gt_weights = values[:, 0].float()
        found.gt_sources, found.gt_classes = values[:, 1].long(), values[:, 2].long()
        return found


def read_pseudo_boxes(path: str | Path, dataset: str) -> PseudoBoxes:
    """Read the file of a dataset.

    Args:
        path: the file.
        dataset: whose images it must belong to.

    Returns:
        The boxes.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is of another dataset or of other images, is damaged, or has words that nobody has.
    """
    where = f"dataset {dataset!r}, pseudo boxes {path}"
    if not Path(path).is_file():
        raise FileNotFoundError(
            f"{where}: no such file; make it: python -m mvseg.inference.pseudo_boxes --dataset {dataset}"
        )
    try:
        tree = json.loads(Path(path).read_text(encoding="utf-8"))
        info, categories, annotations = tree["info"], tree["categories"], tree["annotations"]
        if info["format"] != FORMAT:
            raise ValueError(f"format {info['format']!r}")
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{where} is no file of pseudo boxes, or damaged ({error!r}): make it anew") from error
    if info["dataset"] != dataset:
        raise ValueError(f"{where} is of dataset {info['dataset']!r}: name the file of this dataset, or make one")
    if info["images_fingerprint"] != images_fingerprint(get_records(dataset)):
        raise ValueError(f"{where} was made for other images than the dataset has now: make it anew")
    datasets = tuple(dict.fromkeys(category["dataset"] for category in categories))
    classes = {c["id"]: (datasets.index(c["dataset"]), _class_of(c, where)) for c in categories}
    rows: dict[Any, list[list[float]]] = defaultdict(list)
    for found in annotations:
        rows[found["image_id"]].append(_row(found, classes, where))
    return PseudoBoxes(datasets, {image: np.array(values) for image, values in rows.items()})


def _class_of(category: Mapping[str, Any], where: str) -> int:
    names = get_vocabulary(category["dataset"], embeddings=False).names
    if category["name"] not in names:
        raise ValueError(
            f"{where}: dataset {category['dataset']!r} has no word {category['name']!r}"
            f"{did_you_mean(category['name'], names)}; make the file anew"
        )
    return names.index(category["name"])


def _row(found: Mapping[str, Any], classes: Mapping[Any, tuple[int, int]], where: str) -> list[float]:
    at = f"{where}, image {found['image_id']!r}, annotation {found.get('id')!r}"
    if found["category_id"] not in classes:
        raise ValueError(f"{at}: there is no category {found['category_id']!r}")
    x, y, width, height = found["bbox"]
    if not 0 <= found["weight"] <= 1 or width <= 0 or height <= 0:
        raise ValueError(f"{at}: weight {found['weight']} must be from 0 to 1, box {found['bbox']} must have an area")
    return [x, y, x + width, y + height, found["weight"], *classes[found["category_id"]]]


def open_pseudo_boxes(cfg: CfgNode) -> dict[str, PseudoBoxes]:
    """Read the pseudo boxes of the training sets of a config.

    Args:
        cfg: the config; ``pseudo_boxes`` in the entries of ``DATASETS.MIX``.

    Returns:
        Dataset name to its pseudo boxes, of those that have a file.

    Raises:
        ValueError: if the model learns masks, which pseudo boxes do not have.
    """
    if not cfg.DATASETS.MIX:
        return {}
    files = {entry.name: entry.pseudo_boxes for entry in mixture_from_config(cfg) if entry.pseudo_boxes}
    if files and cfg.MODEL.MASK_ON:
        raise ValueError(
            f"DATASETS.MIX, dataset {next(iter(files))!r}: pseudo boxes have no masks: set MODEL.MASK_ON False"
        )
    return {name: read_pseudo_boxes(file, name) for name, file in files.items()}

"""PASCAL VOC folders: ImageSets/Main, Annotations (one xml for each image), JPEGImages."""

from __future__ import annotations

import os
import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence

from detectron2.structures import BoxMode
from detectron2.utils.file_io import PathManager

from ..catalog import DatasetCatalog, MetadataCatalog

__all__ = ["load_voc_instances", "register_pascal_voc"]

_VOC_CLASSES = """
aeroplane bicycle bird boat bottle bus car cat chair cow
diningtable dog horse motorbike person pottedplant sheep sofa train tvmonitor
"""
CLASS_NAMES = tuple(_VOC_CLASSES.split())


def read_image_set(dirname: str, split: str) -> list[str]:
    """Return the image names of a split."""
    with PathManager.open(os.path.join(dirname, "ImageSets", "Main", f"{split}.txt")) as file:
        return [line.split()[0] for line in file if line.strip()]


def read_box(element: ElementTree.Element) -> list[float]:
    """Return (xmin, ymin, xmax, ymax) as written in a <bndbox>."""
    return [float(element.findtext(key)) for key in ("xmin", "ymin", "xmax", "ymax")]


def _load_image(dirname: str, name: str, class_names: Sequence[str]) -> dict:
    path = os.path.join(dirname, "Annotations", f"{name}.xml")
    with PathManager.open(path) as file:
        tree = ElementTree.parse(file)
    objects = []
    for element in tree.iter("object"):
        label = element.findtext("name")
        if label not in class_names:
            raise ValueError(f"{path}: class {label!r} is not among the class names of the dataset")
        left, top, right, bottom = read_box(element.find("bndbox"))
        # The files count pixels from 1 and include the last one.
        box = [left - 1.0, top - 1.0, right, bottom]
        objects.append({"category_id": class_names.index(label), "bbox": box, "bbox_mode": BoxMode.XYXY_ABS})
    return {
        "file_name": os.path.join(dirname, "JPEGImages", f"{name}.jpg"),
        "image_id": name,
        "height": int(tree.findtext("./size/height")),
        "width": int(tree.findtext("./size/width")),
        "annotations": objects,
    }


def load_voc_instances(dirname: str, split: str, class_names: list[str] | tuple[str, ...]) -> list[dict]:
    """Read the boxes of one split ("train", "val", "trainval", "test") of a VOC folder into standard records."""
    dirname = PathManager.get_local_path(dirname)
    return [_load_image(dirname, name, class_names) for name in read_image_set(dirname, split)]


def register_pascal_voc(
    name: str, dirname: str, split: str, year: int, class_names: list[str] | tuple[str, ...] = CLASS_NAMES
) -> None:
    """Register a split of a VOC folder."""
    DatasetCatalog.register(name, lambda: load_voc_instances(dirname, split, class_names))
    MetadataCatalog.get(name).set(thing_classes=list(class_names), dirname=dirname, year=year, split=split)

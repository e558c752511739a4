"""Registers the well-known datasets below $DETECTRON2_DATASETS (default: datasets). No file is touched by that."""

import os
from functools import partial

from .builtin_meta import _get_builtin_metadata
from .coco import register_coco_instances
from .coco_panoptic import register_coco_panoptic
from .lvis import get_lvis_instances_meta, register_lvis_instances

_COCO = {
    # name: (image folder, annotation file) below coco/ and coco/annotations/
    "coco_2014_train": ("train2014", "instances_train2014"),
    "coco_2014_val": ("val2014", "instances_val2014"),
    "coco_2014_minival": ("val2014", "instances_minival2014"),
    "coco_2014_valminusminival": ("val2014", "instances_valminusminival2014"),
    "coco_2017_train": ("train2017", "instances_train2017"),
    "coco_2017_val": ("val2017", "instances_val2017"),
    "coco_2017_test": ("test2017", "image_info_test2017"),
    "coco_2017_test-dev": ("test2017", "image_info_test-dev2017"),
    "coco_2017_val_100": ("val2017", "instances_val2017_100"),
}
_LVIS = {
    "train": "train",
    "val": "val",
    "test_dev": "image_info_test_dev",
    "test_challenge": "image_info_test_challenge",
}


def register_all_coco(root: str) -> None:
    """Register COCO instances and panoptic."""
    folder = partial(os.path.join, root, "coco")
    for name, (images, file) in _COCO.items():
        meta = _get_builtin_metadata("coco")
        register_coco_instances(name, meta, folder("annotations", f"{file}.json"), folder(images))
    for part in ("train2017", "val2017", "val2017_100"):
        split, _, subset = part.partition("2017")
        paths = (folder(f"{split}2017"), folder(f"panoptic_{part}"), folder("annotations", f"panoptic_{part}.json"))
        instances = folder("annotations", f"instances_{part}.json")
        meta = _get_builtin_metadata("coco_panoptic_standard")
        register_coco_panoptic(f"coco_2017_{split}{subset}_panoptic", meta, *paths, instances)


def register_all_lvis(root: str) -> None:
    """Register LVIS v1, whose images are those of COCO."""
    for split, file in _LVIS.items():
        name, json_file = f"lvis_v1_{split}", os.path.join(root, "lvis", f"lvis_v1_{file}.json")
        register_lvis_instances(name, get_lvis_instances_meta(name), json_file, os.path.join(root, "coco/"))


_root = os.path.expanduser(os.environ.get("DETECTRON2_DATASETS", "datasets"))
register_all_coco(_root)
register_all_lvis(_root)

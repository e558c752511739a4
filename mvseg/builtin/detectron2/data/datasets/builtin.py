"""Registers the well-known datasets below $DETECTRON2_DATASETS (default: datasets). No file is touched by that."""

from __future__ import annotations

import os
from functools import partial

from ..catalog import DatasetCatalog, MetadataCatalog
from .builtin_meta import ADE20K_SEM_SEG_CATEGORIES, _get_builtin_metadata
from .cityscapes import load_cityscapes_instances, load_cityscapes_semantic
from .cityscapes_panoptic import register_all_cityscapes_panoptic
from .coco import load_sem_seg, register_coco_instances
from .coco_panoptic import register_coco_panoptic, register_coco_panoptic_separated
from .lvis import get_lvis_instances_meta, register_lvis_instances
from .pascal_voc import register_pascal_voc

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
_COCO_PANOPTIC = ("train2017", "val2017", "val2017_100")
_LVIS = {
    "lvis_v1_train": "lvis_v1_train",
    "lvis_v1_val": "lvis_v1_val",
    "lvis_v1_test_dev": "lvis_v1_image_info_test_dev",
    "lvis_v1_test_challenge": "lvis_v1_image_info_test_challenge",
    "lvis_v0.5_train": "lvis_v0.5_train",
    "lvis_v0.5_val": "lvis_v0.5_val",
    "lvis_v0.5_val_rand_100": "lvis_v0.5_val_rand_100",
    "lvis_v0.5_test": "lvis_v0.5_image_info_test",
    "lvis_v0.5_train_cocofied": "lvis_v0.5_train_cocofied",
    "lvis_v0.5_val_cocofied": "lvis_v0.5_val_cocofied",
}
_VOC = {2007: ("trainval", "train", "val", "test"), 2012: ("trainval", "train", "val")}


def register_all_coco(root: str) -> None:
    """Register COCO instances and panoptic."""
    folder = partial(os.path.join, root, "coco")
    for name, (images, file) in _COCO.items():
        meta = _get_builtin_metadata("coco")
        register_coco_instances(name, meta, folder("annotations", f"{file}.json"), folder(images))
    for part in _COCO_PANOPTIC:
        split, _, subset = part.partition("2017")
        name = f"coco_2017_{split}{subset}_panoptic"
        paths = (folder(f"{split}2017"), folder(f"panoptic_{part}"), folder("annotations", f"panoptic_{part}.json"))
        instances = folder("annotations", f"instances_{part}.json")
        register_coco_panoptic_separated(
            name, _get_builtin_metadata("coco_panoptic_separated"), *paths, folder(f"panoptic_stuff_{part}"), instances
        )
        register_coco_panoptic(name, _get_builtin_metadata("coco_panoptic_standard"), *paths, instances)


def register_all_lvis(root: str) -> None:
    """Register LVIS, whose images are those of COCO."""
    for name, file in _LVIS.items():
        json_file = os.path.join(root, "lvis", f"{file}.json")
        register_lvis_instances(name, get_lvis_instances_meta(name), json_file, os.path.join(root, "coco/"))


def register_all_cityscapes(root: str) -> None:
    """Register the fine annotations of Cityscapes, as instances and as semantic labels."""
    meta = _get_builtin_metadata("cityscapes")
    for split in ("train", "val", "test"):
        dirs = {
            "image_dir": os.path.join(root, f"cityscapes/leftImg8bit/{split}/"),
            "gt_dir": os.path.join(root, f"cityscapes/gtFine/{split}/"),
        }
        instances, semantic = (f"cityscapes_fine_{task}_{split}" for task in ("instance_seg", "sem_seg"))
        DatasetCatalog.register(instances, partial(load_cityscapes_instances, **dirs))
        MetadataCatalog.get(instances).set(evaluator_type="cityscapes_instance", **dirs, **meta)
        DatasetCatalog.register(semantic, partial(load_cityscapes_semantic, **dirs))
        MetadataCatalog.get(semantic).set(evaluator_type="cityscapes_sem_seg", ignore_label=255, **dirs, **meta)


def register_all_pascal_voc(root: str) -> None:
    """Register VOC 2007 and 2012."""
    for year, splits in _VOC.items():
        for split in splits:
            name = f"voc_{year}_{split}"
            register_pascal_voc(name, os.path.join(root, f"VOC{year}"), split, year)
            MetadataCatalog.get(name).evaluator_type = "pascal_voc"


def register_all_ade20k(root: str) -> None:
    """Register ADE20K's 150 classes, with label images whose values were lowered by one (255 is unlabelled)."""
    folder = partial(os.path.join, root, "ADEChallengeData2016")
    for split, subfolder in (("train", "training"), ("val", "validation")):
        images, labels = folder("images", subfolder), folder("annotations_detectron2", subfolder)
        name = f"ade20k_sem_seg_{split}"
        DatasetCatalog.register(name, partial(load_sem_seg, labels, images, gt_ext="png", image_ext="jpg"))
        MetadataCatalog.get(name).set(
            stuff_classes=list(ADE20K_SEM_SEG_CATEGORIES),
            image_root=images,
            sem_seg_root=labels,
            evaluator_type="sem_seg",
            ignore_label=255,
        )


_root = os.path.expanduser(os.environ.get("DETECTRON2_DATASETS", "datasets"))
for _register_all in (
    register_all_coco,
    register_all_lvis,
    register_all_cityscapes,
    register_all_cityscapes_panoptic,
    register_all_pascal_voc,
    register_all_ade20k,
):
    _register_all(_root)

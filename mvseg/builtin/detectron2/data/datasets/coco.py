"""COCO json: reading it into records, writing any dataset as one, and folders of semantic label images."""

import contextlib
import datetime
import io
import json
import logging
import os
import shutil
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pycocotools.mask as mask_util
from detectron2.structures import BoxMode, PolygonMasks
from detectron2.utils.file_io import PathManager
from iopath.common.file_io import file_lock

from ..catalog import DatasetCatalog, MetadataCatalog

logger = logging.getLogger(__name__)


def open_coco(json_file: str) -> Any:
    """Open a COCO json with pycocotools, without its printing."""
    from pycocotools.coco import COCO

    with contextlib.redirect_stdout(io.StringIO()):
        return COCO(PathManager.get_local_path(json_file))


def _write_class_metadata(coco_api: Any, dataset_name: str | None) -> dict[int, int] | None:
    """Put names and the id map of the file into the metadata; return the map from the file's ids to 0..n-1."""
    if dataset_name is None:
        return None
    categories = sorted(coco_api.loadCats(coco_api.getCatIds()), key=lambda category: category["id"])
    id_map = {category["id"]: index for index, category in enumerate(categories)}
    meta = MetadataCatalog.get(dataset_name)
    meta.thing_classes = [category["name"] for category in categories]
    if sorted(id_map) != list(range(1, len(id_map) + 1)) and "coco" not in dataset_name:
        logger.warning("dataset %r: category ids are not 1..%d; they are renumbered", dataset_name, len(id_map))
    meta.thing_dataset_id_to_contiguous_id = id_map
    return id_map


def usable_segmentation(segmentation: Any) -> Any:
    """Return an RLE with bytes, or the polygons that have at least three points; an empty list if none has."""
    if isinstance(segmentation, dict):
        as_list = isinstance(segmentation["counts"], list)
        return mask_util.frPyObjects(segmentation, *segmentation["size"]) if as_list else segmentation
    return [polygon for polygon in segmentation if len(polygon) % 2 == 0 and len(polygon) >= 6]


def _read_annotation(anno: dict, where: str, keys: Sequence[str], id_map: dict[int, int] | None) -> dict | None:
    where = f"{where}, annotation {anno.get('id')}"
    if anno.get("ignore", 0):
        raise AssertionError(f'{where}: "ignore" is not part of the COCO format; mark crowds with "iscrowd" instead')
    obj = {key: anno[key] for key in keys if key in anno}
    if "bbox" in obj and len(obj["bbox"]) == 0:
        raise ValueError(f"{where}: the box is empty; remove the annotation or give it a box of four numbers")
    if anno.get("segmentation"):
        obj["segmentation"] = usable_segmentation(anno["segmentation"])
        if not obj["segmentation"]:
            return None
    obj["bbox_mode"] = BoxMode.XYWH_ABS
    if id_map:
        if obj["category_id"] not in id_map:
            raise KeyError(f"{where}: category_id {obj['category_id']} is not among the file's categories")
        obj["category_id"] = id_map[obj["category_id"]]
    return obj


def load_coco_json(json_file, image_root, dataset_name=None, extra_annotation_keys=None) -> list[dict]:
    """Read a COCO instances file.

    Args:
        json_file: the annotation file.
        image_root: folder of the images.
        dataset_name: if given, category ids are made contiguous, and names and map are written to its metadata.
        extra_annotation_keys: further keys of each annotation to keep.

    Returns:
        Records in standard form, by image id; annotations without a usable polygon are left out (and logged).
    """
    coco_api = open_coco(json_file)
    id_map = _write_class_metadata(coco_api, dataset_name)
    anno_ids = Counter(anno["id"] for annos in coco_api.imgToAnns.values() for anno in annos)
    repeated = [anno_id for anno_id, count in anno_ids.items() if count > 1]
    # The old minival files are the only official ones with repeated ids.
    if repeated and "minival" not in json_file:
        raise AssertionError(f"{json_file}: annotation ids {repeated[:5]} occur more than once; renumber them")

    keys = ["iscrowd", "bbox", "keypoints", "category_id", *(extra_annotation_keys or [])]
    records, unusable = [], 0
    for image_id in sorted(coco_api.imgs):
        image = coco_api.imgs[image_id]
        where = f"{json_file}, image {image_id}"
        objs = [_read_annotation(anno, where, keys, id_map) for anno in coco_api.imgToAnns.get(image_id, [])]
        unusable += objs.count(None)
        record = {"file_name": os.path.join(image_root, image["file_name"]), "image_id": image_id}
        record |= {key: image[key] for key in ("height", "width")}
        records.append(record | {"annotations": [obj for obj in objs if obj is not None]})
    logger.info("read %d images from %s", len(records), json_file)
    if unusable:
        logger.warning("%s: left out %d annotations whose polygons have fewer than three points", json_file, unusable)
    return records


def _files_by_stem(folder: str, extension: str) -> dict[str, str]:
    """Map path below the folder, without extension, to the full path."""
    root = Path(PathManager.get_local_path(folder))
    return {str(path.relative_to(root).with_suffix("")): str(path) for path in root.rglob(f"*{extension}")}


def load_sem_seg(gt_root: str, image_root: str, gt_ext: str = "png", image_ext: str = "jpg") -> list[dict]:
    """Pair the images of one folder with the label images of the same name in another.

    Returns:
        Records with file_name and sem_seg_file_name, in the order of the names.
    """
    labels, images = _files_by_stem(gt_root, gt_ext), _files_by_stem(image_root, image_ext)
    if not labels:
        raise AssertionError(f"no *.{gt_ext} label images below {gt_root}")
    common = sorted(labels.keys() & images.keys())
    if labels.keys() != images.keys():
        sizes = (len(images), len(labels), len(common))
        logger.warning("%s: %d images and %d label images, %d pairs are used", image_root, *sizes)
    return [{"file_name": images[stem], "sem_seg_file_name": labels[stem]} for stem in common]


def _to_coco_annotation(annotation: dict, where: str) -> dict:
    """Write box, area and segmentation of a record's annotation in COCO's way."""
    box = BoxMode.convert(annotation["bbox"], annotation["bbox_mode"], BoxMode.XYWH_ABS)
    segmentation = annotation.get("segmentation")
    if isinstance(segmentation, list):
        area = PolygonMasks([segmentation]).area()[0].item()
    elif isinstance(segmentation, dict):
        area, counts = mask_util.area(segmentation).item(), segmentation["counts"]
        counts = counts.decode("ascii") if isinstance(counts, bytes) else counts
        segmentation = {"size": segmentation["size"], "counts": counts}
    elif segmentation is None:
        area = box[2] * box[3]
    else:
        raise TypeError(f"{where}: a segmentation of type {type(segmentation).__name__} is neither polygons nor RLE")
    result = {"bbox": [round(float(x), 3) for x in box], "area": float(area)}
    result["iscrowd"] = int(annotation.get("iscrowd", 0))
    return result | ({"segmentation": segmentation} if segmentation is not None else {})


def convert_to_coco_dict(dataset_name: str) -> dict[str, Any]:
    """Express a registered dataset as the content of a COCO json.

    Category ids are the dataset's original ones where the metadata knows them, else 0..n-1.
    """
    records = DatasetCatalog.get(dataset_name)  # first: reading a dataset may complete its metadata
    meta = MetadataCatalog.get(dataset_name)
    original = {new: old for old, new in meta.get("thing_dataset_id_to_contiguous_id", {}).items()}
    images, annotations = [], []
    for index, record in enumerate(records):
        image_id = record.get("image_id", index)
        size = {"width": int(record["width"]), "height": int(record["height"])}
        images.append({"id": image_id, **size, "file_name": str(record["file_name"])})
        for annotation in record.get("annotations", []):
            category = int(annotation["category_id"])
            ids = {"id": len(annotations) + 1, "image_id": image_id, "category_id": original.get(category, category)}
            where = f"dataset {dataset_name!r}, image {image_id}"
            annotations.append({**ids, **_to_coco_annotation(annotation, where)})
    logger.info("dataset %r as COCO: %d images, %d annotations", dataset_name, len(images), len(annotations))
    categories = [{"id": original.get(index, index), "name": name} for index, name in enumerate(meta.thing_classes)]
    info = {"date_created": str(datetime.datetime.now()), "description": f"{dataset_name} as COCO json"}
    content = {"info": info, "images": images, "categories": categories, "licenses": None}
    return content | ({"annotations": annotations} if annotations else {})


def convert_to_coco_json(dataset_name: str, output_file: str, allow_cached: bool = True) -> None:
    """Write a registered dataset as COCO json, unless the file exists and may be reused."""
    PathManager.mkdirs(os.path.dirname(output_file))
    with file_lock(output_file):
        if PathManager.exists(output_file) and allow_cached:
            logger.warning("using %s of an earlier run; remove it if the dataset has changed", output_file)
            return
        content = convert_to_coco_dict(dataset_name)
        unfinished = output_file + ".tmp"
        with PathManager.open(unfinished, "w") as file:
            json.dump(content, file, default=lambda value: value.tolist())  # numpy's numbers and arrays
        shutil.move(unfinished, output_file)


def register_coco_instances(name: str, metadata: dict, json_file: str, image_root: str) -> None:
    """Register a COCO instances file under a name; it is read when the dataset is asked for."""
    for what, value in (("name", name), ("json_file", json_file), ("image_root", image_root)):
        if not isinstance(value, (str, os.PathLike)):
            raise AssertionError(f"register_coco_instances: {what} must be a string, not {value!r}")
    DatasetCatalog.register(name, lambda: load_coco_json(json_file, image_root, name))
    MetadataCatalog.get(name).set(json_file=json_file, image_root=image_root, evaluator_type="coco", **metadata)

"""Writing COCO JSON: the instances of any dataset that mvseg reads, and files that the prepare scripts make."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from detectron2.structures import BoxMode

from mvseg.vocabulary import Vocabulary


def coco_tree(records: Sequence[Mapping[str, Any]], vocabulary: Vocabulary, image_root: Path) -> dict[str, Any]:
    """Turn records with instances into the tree of a COCO file.

    Args:
        records: dataset records with ``annotations``.
        vocabulary: the dataset's words; their ids become the category ids.
        image_root: folder that ``file_name`` is relative to in the file.

    Returns:
        ``images``, ``annotations`` (numbered from 1) and ``categories``; masks as they are, run lengths as text.
    """
    categories = [{"id": id_, "name": name} for id_, name in zip(vocabulary.ids, vocabulary.names, strict=True)]
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for record in records:
        name = os.path.relpath(record["file_name"], image_root).replace(os.sep, "/")
        images.append({"id": record["image_id"], "file_name": name, **{k: record[k] for k in ("height", "width")}})
        for found in record["annotations"]:
            box = BoxMode.convert(list(found["bbox"]), found["bbox_mode"], BoxMode.XYWH_ABS)
            made = {
                "id": len(annotations) + 1,
                "image_id": record["image_id"],
                "category_id": vocabulary.ids[found["category_id"]],
                "bbox": box,
                "area": box[2] * box[3],
                "iscrowd": int(found.get("iscrowd", 0)),
            }
            if "segmentation" in found:
                made["segmentation"] = _as_text(found["segmentation"])
                made["area"] = _mask_area(found["segmentation"], record)
            annotations.append(made)
    return {"images": images, "annotations": annotations, "categories": categories}


def write_json(path: Path, tree: Any) -> None:
    """Write JSON so that the file is there whole or not at all.

    Args:
        path: the file; its folder is made.
        tree: what to write.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(path.name + ".part")
    draft.write_text(json.dumps(tree), encoding="utf-8")
    draft.replace(path)


def _as_text(segmentation: Any) -> Any:
    if isinstance(segmentation, dict) and isinstance(segmentation["counts"], bytes):
        return {"size": list(segmentation["size"]), "counts": segmentation["counts"].decode("ascii")}
    return segmentation


def _mask_area(segmentation: Any, record: Mapping[str, Any]) -> float:
    from pycocotools import mask as mask_util

    if isinstance(segmentation, dict):
        return float(mask_util.area(segmentation))
    return float(
        mask_util.area(mask_util.merge(mask_util.frPyObjects(segmentation, record["height"], record["width"])))
    )

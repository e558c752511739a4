"""Class names, ids and colours of the well-known datasets (tables in names/, colours from our palette)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from detectron2._missing import missing_attribute
from detectron2.utils.colormap import palette

_NAMES = Path(__file__).parent / "names"


def _read_table(file: str) -> list[dict[str, Any]]:
    """Read a tab-separated table with a header; numeric columns become int."""
    lines = [line for line in (_NAMES / file).read_text().split("\n") if line.strip() and not line.startswith("#")]
    header = lines[0].split("\t")
    rows = [dict(zip(header, line.split("\t"))) for line in lines[1:]]
    return [{key: value if key == "name" else int(value) for key, value in row.items()} for row in rows]


def _colors(count: int) -> list[list[int]]:
    return (palette(count) * 255).round().astype(int).tolist()


def _categories(file: str) -> list[dict[str, Any]]:
    rows = _read_table(file)
    return [
        {
            "color": color,
            "isthing": row.pop("thing"),
            **({"trainId": row.pop("train_id")} if "train_id" in row else {}),
            **row,
        }
        for row, color in zip(rows, _colors(len(rows)))
    ]


COCO_CATEGORIES = _categories("coco_panoptic.tsv")
CITYSCAPES_CATEGORIES = _categories("cityscapes.tsv")
ADE20K_SEM_SEG_CATEGORIES = [row["name"] for row in _read_table("ade20k.tsv")]


def _things(categories: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [category for category in categories if category["isthing"]]


def _get_coco_instances_meta() -> dict[str, Any]:
    things = _things(COCO_CATEGORIES)
    return {
        "thing_dataset_id_to_contiguous_id": {category["id"]: index for index, category in enumerate(things)},
        "thing_classes": [category["name"] for category in things],
        "thing_colors": [category["color"] for category in things],
    }


def _get_coco_panoptic_separated_meta() -> dict[str, Any]:
    """Things as instances, and 54 stuff classes of which 0 is "any thing"."""
    stuff = [category for category in COCO_CATEGORIES if not category["isthing"]]
    return {
        "stuff_dataset_id_to_contiguous_id": {category["id"]: index for index, category in enumerate(stuff, 1)}
        | {0: 0},
        "stuff_classes": [
            "things",
            *(category["name"].replace("-other", "").replace("-merged", "") for category in stuff),
        ],
        "stuff_colors": [[82, 18, 128], *(category["color"] for category in stuff)],
        **_get_coco_instances_meta(),
    }


def panoptic_meta(categories: list[dict[str, Any]], id_key: str) -> dict[str, Any]:
    """One list of names for things and stuff; the ids map to positions in it."""
    names, colors = [c["name"] for c in categories], [c["color"] for c in categories]

    def positions(is_thing: int) -> dict[int, int]:
        return {c[id_key]: index for index, c in enumerate(categories) if c["isthing"] == is_thing}

    return {
        "thing_classes": names,
        "thing_colors": colors,
        "stuff_classes": names,
        "stuff_colors": colors,
        "thing_dataset_id_to_contiguous_id": positions(1),
        "stuff_dataset_id_to_contiguous_id": positions(0),
    }


def _get_builtin_metadata(dataset_name: str) -> dict[str, Any]:
    makers = {
        "coco": _get_coco_instances_meta,
        "coco_panoptic_separated": _get_coco_panoptic_separated_meta,
        "coco_panoptic_standard": lambda: panoptic_meta(COCO_CATEGORIES, "id"),
        "cityscapes": lambda: {
            "thing_classes": [category["name"] for category in _things(CITYSCAPES_CATEGORIES)],
            "stuff_classes": [category["name"] for category in CITYSCAPES_CATEGORIES],
        },
    }
    if dataset_name not in makers:
        raise KeyError(f"no built-in metadata for {dataset_name!r}; there is {', '.join(makers)}")
    return makers[dataset_name]()


def __getattr__(name: str) -> Any:
    keypoint_names = ("COCO_PERSON_KEYPOINT_NAMES", "COCO_PERSON_KEYPOINT_FLIP_MAP", "KEYPOINT_CONNECTION_RULES")
    raise missing_attribute(__name__, name, known=keypoint_names)

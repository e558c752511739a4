"""Class names and ids of COCO (a table in names/), with colours from our palette."""

from pathlib import Path
from typing import Any

from detectron2._missing import module_getattr
from detectron2.utils.colormap import palette

__getattr__ = module_getattr(__name__)


def read_table(path: Path) -> list[dict[str, Any]]:
    """Read a tab-separated table with a header; whole numbers become int."""
    header, *rows = (line.split("\t") for line in path.read_text().split("\n") if line.strip() and line[0] != "#")
    return [{key: int(value) if value.isdecimal() else value for key, value in zip(header, row)} for row in rows]


def _read_coco() -> list[dict[str, Any]]:
    rows = read_table(Path(__file__).parent / "names" / "coco_panoptic.tsv")
    colors = (palette(len(rows)) * 255).round().astype(int).tolist()
    return [{"color": color, "isthing": row.pop("thing"), **row} for row, color in zip(rows, colors)]


COCO_CATEGORIES = _read_coco()


def _class_meta(kind: str, categories: list[dict[str, Any]], positions: dict[int, int]) -> dict[str, Any]:
    return {
        f"{kind}_dataset_id_to_contiguous_id": positions,
        f"{kind}_classes": [category["name"] for category in categories],
        f"{kind}_colors": [category["color"] for category in categories],
    }


def _get_coco_instances_meta() -> dict[str, Any]:
    things = [category for category in COCO_CATEGORIES if category["isthing"]]
    return _class_meta("thing", things, {category["id"]: index for index, category in enumerate(things)})


def _get_coco_panoptic_meta() -> dict[str, Any]:
    """One list of names for things and stuff; the ids map to positions in it."""
    meta = {}
    for kind, is_thing in (("thing", 1), ("stuff", 0)):
        positions = {c["id"]: index for index, c in enumerate(COCO_CATEGORIES) if c["isthing"] == is_thing}
        meta |= _class_meta(kind, COCO_CATEGORIES, positions)
    return meta


def _get_builtin_metadata(dataset_name: str) -> dict[str, Any]:
    makers = {"coco": _get_coco_instances_meta, "coco_panoptic_standard": _get_coco_panoptic_meta}
    if dataset_name not in makers:
        raise KeyError(f"no built-in metadata for {dataset_name!r}; there is {', '.join(makers)}")
    return makers[dataset_name]()

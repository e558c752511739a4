"""The 1203 categories of LVIS v1, from the table of class names that mvseg ships (data, not an import)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

# mvseg/vocabulary/names, four folders up from mvseg/builtin/detectron2/data/datasets.
_TABLE = Path(__file__).resolve().parents[4] / "vocabulary" / "names" / "lvis_v1.tsv"
_NUMBERS = {"id", "image_count", "instance_count"}


def _read() -> list[dict[str, Any]]:
    if not _TABLE.is_file():
        return []
    lines = [line for line in _TABLE.read_text().split("\n") if line and not line.startswith("#")]
    header = lines[0].split("\t")
    categories = []
    for line in lines[1:]:
        row = {key: int(value) if key in _NUMBERS else value for key, value in zip(header, line.split("\t"))}
        row["synonyms"] = [row["name"], *filter(None, row["synonyms"].split("|"))]
        categories.append(row)
    return categories


LVIS_CATEGORIES = _read()

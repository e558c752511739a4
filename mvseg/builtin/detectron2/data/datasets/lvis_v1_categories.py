"""The 1203 categories of LVIS v1, from the table of class names that mvseg ships (data, not an import)."""

from pathlib import Path

from .builtin_meta import read_table

# mvseg/vocabulary/names, four folders up from mvseg/builtin/detectron2/data/datasets.
_TABLE = Path(__file__).resolve().parents[4] / "vocabulary" / "names" / "lvis_v1.tsv"

LVIS_CATEGORIES = read_table(_TABLE) if _TABLE.is_file() else []
for _row in LVIS_CATEGORIES:
    _row["synonyms"] = [_row["name"], *filter(None, _row["synonyms"].split("|"))]

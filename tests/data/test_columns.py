"""Records in columns behave like lists of dictionaries."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest

from mvseg.data.columns import ColumnRecords, Columns, ListColumn, TextColumn, text_column
from mvseg.data.records import without_empty
from mvseg.data.streams import ClassCounts, repeat_factors
from mvseg.data.supervision import is_empty

LISTS = [[2, 0], [], [1], [0, 3, 1], [3], [3, 0]]


def records(classes: list[int] | None = None, rows: list[int] | None = None, **more) -> ColumnRecords:
    columns = Columns(
        text_column([f"ä{i}.jpg" for i in range(len(LISTS))]),
        "root",
        labels=ListColumn.of(LISTS),
        classes=None if classes is None else np.array(classes, np.int32),
        **more,
    )
    return ColumnRecords("d", "tags", columns, None if rows is None else np.array(rows, np.int64))


@pytest.mark.parametrize("classes", [None, [5, 5, 0, 2], [-1, 3, -2, -1], [-1, -1, -1, -1]])
@pytest.mark.parametrize("rows", [None, [4, 0, 0, 3], []])
def test_against_a_list(classes: list[int] | None, rows: list[int] | None):
    found = records(classes, rows)
    table = classes or [0, 1, 2, 3]
    chosen = range(len(LISTS)) if rows is None else rows
    expected = [
        {
            "file_name": f"root/ä{row}.jpg",
            "image_id": row + 1,
            "dataset": "d",
            "supervision": "tags",
            "annotations": [],
            "image_labels": sorted({table[label] for label in LISTS[row]} - {-1, -2}),
        }
        for row in chosen
    ]
    assert list(found) == expected and len(found) == len(expected)
    assert list(found[1:]) == expected[1:] and list(found[::-2]) == expected[::-2]
    assert list(found[::2][:2]) == expected[::2][:2]
    assert found.annotated().tolist() == [not is_empty(record) for record in expected]
    assert list(without_empty(found)) == [record for record in expected if not is_empty(record)]
    assert list(pickle.loads(pickle.dumps(found))) == expected
    counts, by_hand = ClassCounts.from_records(found, 4), ClassCounts.from_records(expected, 4)
    for field in ("images", "classes", "instances", "num_images", "num_classes"):
        assert np.array_equal(getattr(counts, field), getattr(by_hand, field)), field


def test_places():
    found = records()
    assert found[-1] == found[5] and found[np.int64(2)]["image_id"] == 3
    for place in (6, -7):
        with pytest.raises(IndexError, match=f"has 6 records, there is no record {place}"):
            found[place]
    assert found.without_empty().without_empty()[1]["image_id"] == 3


def test_repeat_factors_of_tags():
    # A tag in the share f of the images: max(1, sqrt(t / f)); an image gets the largest of its tags.
    lists = [[0]] * 16 + [[0, 1]] * 3 + [[2], []]
    found = ColumnRecords("d", "tags", Columns(text_column([""] * 21), labels=ListColumn.of(lists)))
    share = np.array([19, 3, 1]) / 21
    factor = np.maximum(1, np.sqrt(0.5 / share))
    expected = [factor[0]] * 16 + [factor[1]] * 3 + [factor[2], 1]
    assert np.allclose(repeat_factors(ClassCounts.from_records(found, 3), 0.5), expected)
    assert factor[0] == 1 < factor[1] < factor[2]


def test_further_columns(tmp_path: Path):
    text = tmp_path / "text"
    text.write_bytes("one\ttwö\n\nfour".encode())
    data = np.memmap(text, np.uint8, "r")
    captions = TextColumn(data, np.array([0, 4, 8, 9, 9, 0]), np.array([3, 4, 0, 0, 5, 0], np.int32))
    found = records(negatives=ListColumn.of([[1], [], [0, 2], [], [], []]), captions=captions, named_ids=True)
    assert [r["captions"] for r in found] == [["one"], ["twö"], [], [], ["four"], []]
    assert found[2]["neg_category_ids"] == [0, 2] and found[2]["verified_category_ids"] == [1]
    assert found[2]["image_id"] == "ä2"
    spoken = ColumnRecords("d", "captions", found.columns)
    assert [r["captions"] for r in spoken.without_empty()] == [["one"], ["twö"], ["four"]]
    sent = pickle.dumps(found)
    assert "twö".encode() not in sent and list(pickle.loads(sent)) == list(found)


def test_names_by_template():
    columns = Columns(text_column(["http://a.b/c/d.jpg?x=1/2", "e/f"]), "r", file_name="{row:04d}_{name}")
    assert [r["file_name"] for r in ColumnRecords("d", "captions", columns)] == ["r/0000_d.jpg", "r/0001_f"]
    assert "image_labels" not in ColumnRecords("d", "captions", columns)[0]
    assert not ColumnRecords("d", "tags", columns).annotated().any()
    assert not ColumnRecords("d", "captions", columns).annotated().any()
    assert len(ColumnRecords("d", "tags", columns).class_pairs()[0]) == 0


def test_parts_of_mapped_arrays_are_sent_whole(tmp_path: Path):
    np.arange(10, dtype=np.int32).tofile(tmp_path / "numbers")
    whole = np.memmap(tmp_path / "numbers", np.int32, "r")
    for values in (whole, whole[4:7], whole[::-1]):
        column = ListColumn(values, np.array([0, 2]))
        assert pickle.loads(pickle.dumps(column))[0].tolist() == values[:2].tolist()

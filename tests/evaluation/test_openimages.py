"""Open Images AP50: hand cases, a brute-force evaluation written from the rules, and the evaluator on files."""

from __future__ import annotations

import csv
import json
import math

import numpy as np
import pytest
import torch
from detectron2.structures import Boxes, BoxMode, Instances
from PIL import Image

from mvseg.data import get_records, register_dataset
from mvseg.data.catalog import unregister_card
from mvseg.evaluation import build_evaluator, overall
from mvseg.evaluation.openimages import Detections, Truth, average_precision, open_images_ap

ANIMAL, CAT, DOG, CAR = range(4)
ANCESTORS = [[], [ANIMAL], [ANIMAL], []]


def record(*boxes, verified=(), absent=()):
    """A record from (class, x0, y0, x1, y1[, group])."""
    annotations = [
        {"category_id": b[0], "bbox": list(b[1:5]), "bbox_mode": BoxMode.XYXY_ABS, "is_group_of": int(len(b) > 5)}
        for b in boxes
    ]
    return {"annotations": annotations, "verified_category_ids": list(verified), "neg_category_ids": list(absent)}


def detections(*rows):
    """Detections from (image, class, x0, y0, x1, y1, score)."""
    table = np.array(rows, dtype=float).reshape(-1, 7)
    return Detections(table[:, 0].astype(int), table[:, 1].astype(int), table[:, 2:6], table[:, 6])


def ap(records, found, ancestors=None, n=4):
    return open_images_ap(Truth.from_records(records, ancestors), found, n)


def test_detections_of_a_class_that_nobody_looked_for_are_ignored():
    records = [record((CAT, 0, 0, 10, 10)), record(absent=[CAT]), record(verified=[CAR]), record()]
    right = (0, CAT, 0, 0, 10, 10, 0.5)
    assert ap(records, detections(right))[CAT] == 1
    assert ap(records, detections(right, (1, CAT, 0, 0, 10, 10, 0.9)))[CAT] == 0.5  # known to be absent: wrong
    assert ap(records, detections(right, (2, CAT, 0, 0, 10, 10, 0.9)))[CAT] == 1  # not verified
    assert ap(records, detections(right, (3, CAT, 0, 0, 10, 10, 0.9)))[CAT] == 1
    values = ap(records, detections(right, (2, CAR, 0, 0, 9, 9, 0.9)))
    assert np.isnan(values[[ANIMAL, DOG, CAR]]).all()  # no box, nothing to find
    # verified to be there, but without a box: the detection is wrong
    assert ap([*records[:1], record(verified=[CAT])], detections(right, (1, CAT, 0, 0, 9, 9, 0.9)))[CAT] == 0.5


def test_groups():
    records = [record((CAT, 0, 0, 100, 100, "group"), (CAT, 200, 0, 220, 20))]
    single, inside = (
        (0, CAT, 200, 0, 220, 20, 0.5),
        [(0, CAT, 10 * i, 0, 10 * i + 10, 10, 0.9 - i / 100) for i in range(5)],
    )
    assert ap(records, detections(single, *inside))[CAT] == 1  # five detections in the group are one right one
    assert ap(records, detections(*inside))[CAT] == 0.5
    assert ap(records, detections(single))[CAT] == 0.5  # the group is an object to find
    # 40 % of the area inside is not enough, 60 % is: IoA and not IoU
    assert ap(records, detections(single, (0, CAT, 94, 0, 109, 10, 0.1)))[CAT] == 0.5
    assert ap(records, detections(single, (0, CAT, 94, 0, 104, 10, 0.1)))[CAT] == 1
    # a detection that hits a single object does not count for the group around it
    around = [record((CAT, 0, 0, 100, 100, "group"), (CAT, 0, 0, 20, 20))]
    assert ap(around, detections((0, CAT, 0, 0, 20, 20, 0.9)))[CAT] == 0.5
    # but a second detection of it does
    assert ap(around, detections((0, CAT, 0, 0, 20, 20, 0.9), (0, CAT, 0, 0, 20, 19, 0.8)))[CAT] == 1
    # without a group around it is wrong
    alone = [record((CAT, 0, 0, 20, 20), (CAT, 50, 0, 60, 10))]
    twice = detections((0, CAT, 0, 0, 20, 20, 0.9), (0, CAT, 0, 0, 20, 19, 0.8), (0, CAT, 50, 0, 60, 10, 0.7))
    assert ap(alone, twice)[CAT] == pytest.approx(0.5 * 1 + 0.5 * 2 / 3)


def test_hierarchy():
    records = [record((CAT, 0, 0, 10, 10), absent=[]), record((DOG, 0, 0, 10, 10)), record(absent=[ANIMAL])]
    found = detections((0, CAT, 0, 0, 10, 10, 0.9), (1, ANIMAL, 0, 0, 10, 10, 0.8), (2, DOG, 0, 0, 5, 5, 0.95))
    flat = ap(records, found)
    assert np.isnan(flat[ANIMAL]) and flat[CAT] == 1 and flat[DOG] == 0
    # both boxes are animals, of which one is found; that there is no animal means that there is no dog
    grown = ap(records, found, ANCESTORS)
    assert grown[ANIMAL] == 0.5 and grown[CAT] == 1 and grown[DOG] == 0
    copied = found.expanded(ANCESTORS)
    assert copied.classes.tolist() == [CAT, ANIMAL, ANIMAL, DOG, ANIMAL]
    assert copied.scores.tolist() == [0.9, 0.9, 0.8, 0.95, 0.95]
    # scores 0.95 wrong, 0.9 right, 0.8 right
    assert ap(records, copied, ANCESTORS)[ANIMAL] == pytest.approx(2 / 3)
    # absence of the wider class tells about the narrower: a dog in image 2 is wrong even where a dog is found
    dogs = detections((1, DOG, 0, 0, 10, 10, 0.5), (2, DOG, 0, 0, 5, 5, 0.95))
    assert ap(records, dogs, ANCESTORS)[DOG] == 0.5 and ap(records, dogs)[DOG] == 1


def test_average_precision_is_the_area_under_every_point():
    assert average_precision(np.array([True, False, True, True, False]), 4) == pytest.approx((1 + 0.75 + 0.75) / 4)
    assert average_precision(np.zeros(3, bool), 2) == 0 == average_precision(np.zeros(0, bool), 2)


def slow_ap(records, found, ancestors, n):
    """The rules one image, class and detection at a time."""
    below = {i: [j for j in range(n) if i in ancestors[j]] for i in range(n)}
    result = []
    for c in range(n):
        marks, total = [], 0
        for number, rec in enumerate(records):
            boxes = [a for a in rec["annotations"] if a["category_id"] == c or c in ancestors[a["category_id"]]]
            total += len(boxes)
            there = any(v == c or c in ancestors[v] for v in rec["verified_category_ids"])
            gone = any(v == c or c in below[v] for v in rec["neg_category_ids"])
            if not (boxes or there or gone):
                continue
            rows = [i for i in range(len(found.scores)) if found.images[i] == number and found.classes[i] == c]
            rows.sort(key=lambda i: -found.scores[i])
            marks += _match(boxes, rows, found)
        marks.sort(key=lambda mark: -mark[0])
        if not total:
            result.append(math.nan)
            continue
        points, right = [], 0
        for place, (_, hit) in enumerate(marks, start=1):
            right += hit
            points.append((right / total, right / place))
        area, recall = 0.0, 0.0
        for place, (reached, _) in enumerate(points):
            area += (reached - recall) * max(p for _, p in points[place:])
            recall = reached
        result.append(area)
    return np.array(result)


def _match(boxes, rows, found):
    def common(a, b):
        return max(0, min(a[2], b[2]) - max(a[0], b[0])) * max(0, min(a[3], b[3]) - max(a[1], b[1]))

    def area(a):
        return (a[2] - a[0]) * (a[3] - a[1])

    marks, left, taken = [], [], set()
    singles = [a["bbox"] for a in boxes if not a["is_group_of"]]
    for i in rows:
        box = found.boxes[i]
        overlaps = [common(box, s) / (area(box) + area(s) - common(box, s)) for s in singles]
        best = max(range(len(singles)), key=lambda k: (overlaps[k], -k), default=None)
        if best is not None and overlaps[best] >= 0.5 and best not in taken:
            taken.add(best)
            marks.append((found.scores[i], 1))
        else:
            left.append(i)
    groups = [a["bbox"] for a in boxes if a["is_group_of"]]
    scores = {}
    for i in left:
        shares = [common(found.boxes[i], g) / area(found.boxes[i]) for g in groups]
        best = max(range(len(groups)), key=lambda k: (shares[k], -k), default=None)
        if best is not None and shares[best] >= 0.5:
            scores[best] = max(scores.get(best, 0), found.scores[i])
        else:
            marks.append((found.scores[i], 0))
    return marks + [(score, 1) for score in scores.values()]


@pytest.mark.parametrize("seed", range(12))
def test_brute_force(seed):
    rng = np.random.default_rng(seed)
    n = 6
    ancestors = [[], [0], [0, 1], [0, 1], [], [4]]

    def box():
        x, y, w, h = rng.integers(0, 12), rng.integers(0, 12), rng.integers(2, 12), rng.integers(2, 12)
        return float(x), float(y), float(x + w), float(y + h)

    records = []
    for _ in range(15):
        boxes = [
            (int(rng.integers(n)), *box(), *(["group"] if rng.random() < 0.3 else [])) for _ in range(rng.integers(6))
        ]
        lists = [sorted(set(rng.integers(n, size=2).tolist())) if rng.random() < 0.6 else [] for _ in range(2)]
        records.append(record(*boxes, verified=lists[0], absent=lists[1]))
    rows = []
    for number, rec in enumerate(records):
        for annotation in rec["annotations"]:
            for _ in range(rng.integers(3)):
                shifted = [v + rng.integers(-1, 2) for v in annotation["bbox"]]
                if shifted[2] > shifted[0] and shifted[3] > shifted[1]:
                    wider = [annotation["category_id"], *ancestors[annotation["category_id"]]]
                    rows.append((number, rng.choice(wider), *shifted, rng.random()))
        rows += [(number, rng.integers(n), *box(), rng.random()) for _ in range(4)]
    rng.shuffle(rows)
    found = detections(*rows)
    expected = slow_ap(records, found, ancestors, n)
    np.testing.assert_allclose(ap(records, found, ancestors, n), expected, rtol=0, atol=1e-12)
    flat = [[] for _ in range(n)]
    np.testing.assert_allclose(ap(records, found, None, n), slow_ap(records, found, flat, n), rtol=0, atol=1e-12)
    assert 0 < np.nanmean(expected) < 1


def test_nothing_found_and_nothing_to_find():
    assert ap([record((CAT, 0, 0, 1, 1))], detections())[CAT] == 0
    assert np.isnan(ap([record()], detections((0, CAT, 0, 0, 1, 1, 0.5)))).all()
    # an annotation or a detection without area matches nothing
    assert ap([record((CAT, 0, 0, 0, 0))], detections((0, CAT, 0, 0, 0, 0, 0.5)))[CAT] == 0


@pytest.fixture
def files(tmp_path):
    for name in ("a", "b"):
        Image.fromarray(np.zeros((50, 100, 3), np.uint8)).save(tmp_path / f"{name}.png")
    rows = {
        "boxes.csv": [
            ("ImageID", "LabelName", "XMin", "XMax", "YMin", "YMax", "IsGroupOf"),
            ("a", "/m/cat", 0, 0.2, 0, 0.4, 0),
            ("b", "/m/dog", 0.5, 1, 0, 1, 1),
        ],
        "labels.csv": [("ImageID", "LabelName", "Confidence"), ("b", "/m/cat", 0)],
        "classes.csv": [("/m/animal", "Animal"), ("/m/cat", "Cat"), ("/m/dog", "Dog")],
    }
    for name, content in rows.items():
        with open(tmp_path / name, "w", newline="") as file:
            csv.writer(file).writerows(content)
    under = [{"LabelName": "/m/cat"}, {"LabelName": "/m/dog"}]
    tree = {"LabelName": "/m/entity", "Subcategory": [{"LabelName": "/m/animal", "Subcategory": under}]}
    (tmp_path / "tree.json").write_text(json.dumps(tree))
    return {
        "format": "openimages",
        "image_root": str(tmp_path),
        "annotations": str(tmp_path / "boxes.csv"),
        "files": {
            "classes": str(tmp_path / "classes.csv"),
            "image_labels": str(tmp_path / "labels.csv"),
            "hierarchy": str(tmp_path / "tree.json"),
        },
    }


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, {"Animal": 0.0, "Cat": 50.0, "Dog": 100.0}),
        ({"expand_detections": True}, {"Animal": 100 * (0.5 * 1 + 0.5 * 2 / 3), "Cat": 50.0, "Dog": 100.0}),
        ({"expand_hierarchy": False}, {"Animal": math.nan, "Cat": 50.0, "Dog": 100.0}),
    ],
)
def test_the_evaluator_of_a_card(files, tmp_path, options, expected):
    register_dataset(name="oid_hand", **files, options=options)
    try:
        evaluator = build_evaluator("oid_hand", str(tmp_path / "out"))
        ids = {r["image_id"]: r["file_name"] for r in get_records("oid_hand")}
        assert list(ids) == ["a", "b"]
        evaluator.reset()
        answers = {
            "a": ([[0, 0, 20, 20]], [0.7], [1]),
            # wrong cat, then two dogs in the group
            "b": ([[0, 0, 9, 9], [60, 0, 70, 20], [70, 0, 80, 20]], [0.9, 0.95, 0.2], [1, 2, 2]),
        }
        for image_id, (boxes, scores, classes) in answers.items():
            found = Instances((50, 100))
            found.pred_boxes, found.scores = Boxes(torch.tensor(boxes, dtype=torch.float)), torch.tensor(scores)
            found.pred_classes = torch.tensor(classes)
            evaluator.process([{"image_id": image_id}], [{"instances": found}])
        results = evaluator.evaluate()
        for word, value in expected.items():
            assert results["bbox"][f"AP-{word}"] == pytest.approx(value, nan_ok=True), word
        assert results["bbox"]["AP50"] == pytest.approx(np.nanmean(list(expected.values())))
        assert overall(results) == {"bbox": {"AP50": results["bbox"]["AP50"]}}
        written = json.loads((tmp_path / "out" / "openimages_results.json").read_text())
        assert written[0] == {"image_id": "a", "category": "Cat", "bbox": [0, 0, 20, 20], "score": pytest.approx(0.7)}
        evaluator.reset()
        assert evaluator.evaluate()["bbox"]["AP50"] == 0
    finally:
        unregister_card("oid_hand")


def test_many_detections_do_not_take_long():
    import time

    rng = np.random.default_rng(0)
    images, n = 2000, 600
    corner = rng.random((images * 100, 2)) * 500
    found = Detections(
        np.repeat(np.arange(images), 100),
        rng.integers(n, size=images * 100),
        np.concatenate([corner, corner + 1 + rng.random((images * 100, 2)) * 200], axis=1),
        rng.random(images * 100),
    )
    records = [record(*[(int(c), 10, 10, 200, 200) for c in rng.integers(n, size=8)]) for _ in range(images)]
    truth = Truth.from_records(records, [[]] * n)
    start = time.process_time()
    assert np.nanmax(open_images_ap(truth, found, n)) >= 0
    assert time.process_time() - start < 5

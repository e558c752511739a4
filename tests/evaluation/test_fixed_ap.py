"""Fixed AP of LVIS: a budget of detections for each class in the whole test set instead of one for each image."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from detectron2.data import MetadataCatalog
from detectron2.structures import Boxes, Instances

from mvseg.data import get_records, register_dataset
from mvseg.data.catalog import unregister_card
from mvseg.evaluation import PerClassLVISEvaluator, build_evaluator, overall, summary_table
from mvseg.evaluation import class_budget as budgets
from mvseg.evaluation.class_budget import ClassBudget, Kept
from mvseg.evaluation.lvis import lvis_metrics

ANT, BEE, COW = range(3)
SIZE = (48, 64)
PLACES = ([4, 4, 20, 20], [30, 30, 10, 10], [40, 2, 12, 18])  # x, y, width, height


def write(folder, images):
    """An LVIS file from (objects, absent classes) of every image; an object is (class, box)."""
    annotations = []
    for image_id, (objects, _) in enumerate(images, start=1):
        for index, (x, y, w, h) in objects:
            corners = [[x, y, x + w, y, x + w, y + h, x, y + h]]
            annotations.append(
                {"id": len(annotations) + 1, "image_id": image_id, "category_id": 10 * (index + 1),
                 "bbox": [x, y, w, h], "area": w * h, "segmentation": corners}
            )  # fmt: skip
    entries = [
        {"id": i, "height": SIZE[0], "width": SIZE[1], "file_name": f"{i}.jpg", "not_exhaustive_category_ids": [],
         "neg_category_ids": [10 * (c + 1) for c in absent]}
        for i, (_, absent) in enumerate(images, start=1)
    ]  # fmt: skip
    categories = [
        {"id": 10 * (i + 1), "name": name, "frequency": "rcf"[i], "image_count": 2, "instance_count": 2, "synonyms": []}
        for i, name in enumerate(("ant", "bee", "cow"))
    ]
    for entry in entries:
        (folder / entry["file_name"]).touch()
    content = {"info": {}, "images": entries, "annotations": annotations, "categories": categories}
    (folder / "lvis.json").write_text(json.dumps(content))


@pytest.fixture
def lvis_set(tmp_path):
    names = []

    def make(images, **fields):
        write(tmp_path, images)
        name = f"fixed_{len(names)}"
        files = {"image_root": str(tmp_path), "annotations": str(tmp_path / "lvis.json")}
        register_dataset(name=name, format="lvis", **{"supervision": "boxes", **files, **fields})
        names.append(name)
        get_records(name)
        return name

    yield make
    for name in names:
        unregister_card(name)


def answer(*rows, masks=False):
    """Instances from (class, (x, y, width, height), score)."""
    found = Instances(SIZE)
    boxes = torch.tensor([[x, y, x + w, y + h] for _, (x, y, w, h), _ in rows], dtype=torch.float32).reshape(-1, 4)
    found.pred_boxes = Boxes(boxes)
    found.scores = torch.tensor([s for *_, s in rows])
    found.pred_classes = torch.tensor([c for c, *_ in rows], dtype=torch.long)
    if masks:
        found.pred_masks = torch.zeros((len(rows), *SIZE), dtype=torch.bool)
        for mask, (x0, y0, x1, y1) in zip(found.pred_masks, boxes.int().tolist()):
            mask[y0:y1, x0:x1] = True
    return {"instances": found}


def evaluate(evaluator, answers):
    evaluator.reset()
    for image_id, given in enumerate(answers, start=1):
        evaluator.process([{"image_id": image_id}], [given])
    return evaluator.evaluate()


def test_classes_do_not_compete_for_the_places_of_an_image(lvis_set):
    name = lvis_set([([(ANT, PLACES[0]), (BEE, PLACES[1])], [COW])])
    right = answer((ANT, PLACES[0], 0.9), (BEE, PLACES[1], 0.8), (COW, PLACES[2], 0.1))
    found = evaluate(PerClassLVISEvaluator(name, ("bbox",), fixed_ap=5, max_dets_per_image=1), [right])["bbox"]
    # plain: the one place of the image is the ant's
    assert (found["AP"], found["APr"], found["APc"]) == pytest.approx((50, 100, 0))
    assert [found[f"APfixed{k}"] for k in ("", "-r", "-c")] == pytest.approx([100, 100, 100])
    assert np.isnan(found["APfixed-f"])  # no cow to find
    assert set(overall({"bbox": found})["bbox"]) >= {"AP", "APfixed", "APfixed-r", "APfixed-c", "APfixed-f"}
    assert "bbox AP " in summary_table({"x": {"bbox": found}}) and "bbox APfixed-r" in summary_table(
        {"x": {"bbox": found}}
    )


def test_a_class_has_its_budget_for_all_images(lvis_set):
    name = lvis_set([([(ANT, PLACES[0])], []), ([(ANT, PLACES[1])], []), ([(BEE, PLACES[0])], [ANT])])
    answers = [answer((ANT, PLACES[0], 0.9)), answer((ANT, PLACES[1], 0.8)), answer((ANT, PLACES[2], 0.85))]
    values = {}
    for budget in (1, 2, 3):
        found = evaluate(PerClassLVISEvaluator(name, ("bbox",), fixed_ap=budget), answers)["bbox"]
        values[budget] = found["APfixed-r"]
        # plain AP takes all: right, wrong, right; precision 1 up to a recall of a half, then 2/3
        assert found["APr"] == pytest.approx(100 * (51 + 50 * 2 / 3) / 101)
    assert values[1] == pytest.approx(100 * 51 / 101)  # recall a half, 51 of 101 points
    assert values[2] == pytest.approx(100 * 51 / 101)  # the wrong one has taken the second place
    assert values[3] == pytest.approx(100 * (51 + 50 * 2 / 3) / 101)


def test_a_detection_in_an_image_where_nobody_looked_takes_up_a_place(lvis_set):
    name = lvis_set([([(ANT, PLACES[0])], []), ([(BEE, PLACES[0])], [])])
    answers = [answer((ANT, PLACES[0], 0.5)), answer((ANT, PLACES[2], 0.9))]
    assert evaluate(PerClassLVISEvaluator(name, ("bbox",), fixed_ap=1), answers)["bbox"]["APfixed-r"] == 0
    found = evaluate(PerClassLVISEvaluator(name, ("bbox",), fixed_ap=2), answers)["bbox"]
    assert found["APfixed-r"] == pytest.approx(100) == found["APr"]


def test_nothing_found_and_no_budget(lvis_set):
    name = lvis_set([([(ANT, PLACES[0])], [])], options={"fixed_ap": 3})
    evaluator = build_evaluator(name)
    found = evaluate(evaluator, [answer()])["bbox"]
    assert found["AP"] == 0 == found["APfixed"]
    plain = lvis_set([([(ANT, PLACES[0])], [])])
    assert "APfixed" not in evaluate(build_evaluator(plain), [answer((ANT, PLACES[0], 0.5))])["bbox"]


@pytest.mark.parametrize("value", [-1, "many", 2.5, True])
def test_a_wrong_budget_is_an_error(lvis_set, value):
    name = lvis_set([([(ANT, PLACES[0])], [])], options={"fixed_ap": value})
    with pytest.raises(ValueError, match=rf"{name}.*options.fixed_ap is the number of detections .*, not {value!r}"):
        build_evaluator(name)


@pytest.mark.parametrize("masks", [False, True])
def test_brute_force(lvis_set, masks, monkeypatch):
    """The budget collected image by image against sorting everything at the end, with the lvis package on both."""
    monkeypatch.setattr(budgets, "_SLACK", 5)  # the surplus is dropped again and again
    rng = np.random.default_rng(3)
    images, answers = [], []
    for _ in range(12):
        objects = [(int(rng.integers(3)), PLACES[p]) for p in range(3) if rng.random() < 0.5]
        images.append((objects, [c for c in range(3) if rng.random() < 0.4 and all(c != o for o, _ in objects)]))
        rows = [
            (int(rng.integers(3)), (np.array(PLACES[rng.integers(3)]) + rng.integers(-1, 2, 4)).tolist(),
             float(np.float32(rng.integers(1, 9) / 8)))  # many equal scores
            for _ in range(rng.integers(9))
        ] + [(c, box, float(np.float32(rng.random()))) for c, box in objects if rng.random() < 0.8]  # fmt: skip
        answers.append(rows)
    name = lvis_set(images, supervision="masks" if masks else "boxes")
    tasks = ("bbox", "segm") if masks else ("bbox",)
    metadata = MetadataCatalog.get(name)
    classes = [(10, "ant"), (20, "bee"), (30, "cow")]
    seen = set()
    for budget in (1, 4, 9, 1000):
        evaluator = PerClassLVISEvaluator(name, tasks, fixed_ap=budget, max_dets_per_image=2)
        results = evaluate(evaluator, [answer(*rows, masks=masks) for rows in answers])
        for task in tasks:
            everything = [
                {"image_id": i, "category_id": 10 * (c + 1), "score": s,
                 **({"bbox": [float(v) for v in box]} if task == "bbox" else {"segmentation": rle(box)})}
                for i, rows in enumerate(answers, start=1) for c, box, s in rows
            ]  # fmt: skip
            chosen = []
            for category, _ in classes:
                own = [r for r in everything if r["category_id"] == category]
                chosen += sorted(own, key=lambda r: -r["score"])[:budget]
            chosen.sort(key=lambda r: r["image_id"])
            expected = lvis_metrics(evaluator._lvis_api, chosen, task, classes, max_detections=-1)
            for fixed, plain in (("APfixed", "AP"), ("APfixed-r", "APr"), ("APfixed-c", "APc"), ("APfixed-f", "APf")):
                assert results[task][fixed] == pytest.approx(expected[plain], nan_ok=True), (budget, task, fixed)
            # plain AP is what it is without fixed AP
            without = PerClassLVISEvaluator(name, tasks, max_dets_per_image=2)
            plain_results = evaluate(without, [answer(*rows, masks=masks) for rows in answers])
            assert results[task]["AP"] == pytest.approx(plain_results[task]["AP"])
            seen.add(round(results[task]["APfixed"], 3))
    assert len(seen) >= 4 and metadata.thing_classes == ["ant", "bee", "cow"]


def rle(box):
    from pycocotools import mask as mask_util

    x, y, w, h = (int(v) for v in box)
    mask = np.zeros(SIZE, np.uint8, order="F")
    mask[y : y + h, x : x + w] = 1
    return mask_util.encode(mask)


def random_rows(rng, rows, n, image=0):
    scores = rng.integers(0, 50, rows) / 50
    boxes = rng.random((rows, 4)).astype(np.float32)
    masks = np.full(rows, None, object)
    return Kept(np.full(rows, image), rng.integers(n, size=rows).astype(np.int32), scores, boxes, masks)


def test_the_memory_is_bounded_and_the_first_of_equal_scores_stay(monkeypatch):
    monkeypatch.setattr(budgets, "_SLACK", 100)
    rng, n, k = np.random.default_rng(0), 7, 20
    parts = [random_rows(rng, 60, n, image) for image in range(200)]
    budget = ClassBudget(k, n)
    for part in parts:
        budget.add(part)
        assert budget._rows <= 2 * n * k + 160
    kept = budget.settle()
    rows = [
        (i, int(c), s, p) for i, part in enumerate(parts) for p, (c, s) in enumerate(zip(part.classes, part.scores))
    ]
    for c in range(n):
        expected = sorted((r for r in rows if r[1] == c), key=lambda r: -r[2])[:k]
        found = kept.take(kept.classes == c)
        assert sorted(zip(found.images.tolist(), found.scores.tolist())) == sorted((i, s) for i, _, s, _ in expected)
    # the parts of two processes together give the same
    halves = [ClassBudget(k, n), ClassBudget(k, n)]
    for image, part in enumerate(parts):
        halves[image >= 100].add(part)
    both = Kept.join([half.settle() for half in halves]).best(k)
    for ours, theirs in zip((both.images, both.classes, both.scores), (kept.images, kept.classes, kept.scores)):
        np.testing.assert_array_equal(ours, theirs)

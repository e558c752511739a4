"""COCO evaluation: hand-made detections with known AP."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from detectron2.config import get_cfg
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_coco_instances
from detectron2.evaluation import (
    COCOEvaluator,
    DatasetEvaluator,
    DatasetEvaluators,
    inference_on_dataset,
    print_csv_format,
    verify_results,
)
from detectron2.evaluation.coco_evaluation import (
    _evaluate_predictions_on_coco,
    instances_to_coco_json,
)
from detectron2.evaluation.testing import flatten_results_dict
from detectron2.structures import Boxes, BoxMode, Instances
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from mvseg.provider import detectron2_provider

only_builtin = pytest.mark.skipif(detectron2_provider() != "builtin", reason="about mvseg's own provider")
NAME = "contract_coco_evaluation"
# Two images, two classes (dataset ids 4 and 8); boxes XYXY.
TRUTH = [(1, 4, [10, 10, 30, 30]), (1, 8, [50, 50, 90, 90]), (2, 4, [10, 10, 30, 30]), (2, 4, [60, 10, 90, 40])]


@pytest.fixture
def dataset(tmp_path):
    annotations = [
        {
            "id": number,
            "image_id": image,
            "category_id": category,
            "bbox": [x0, y0, x1 - x0, y1 - y0],
            "area": (x1 - x0) * (y1 - y0),
            "iscrowd": 0,
            "segmentation": [[x0, y0, x1, y0, x1, y1, x0, y1]],
        }
        for number, (image, category, (x0, y0, x1, y1)) in enumerate(TRUTH, 1)
    ]
    images = [{"id": number, "file_name": f"{number}.jpg", "height": 100, "width": 100} for number in (1, 2)]
    content = {
        "info": {},
        "images": images,
        "annotations": annotations,
        "categories": [{"id": 4, "name": "four"}, {"id": 8, "name": "eight"}],
    }
    (tmp_path / "x.json").write_text(json.dumps(content))
    register_coco_instances(NAME, {}, str(tmp_path / "x.json"), "")
    DatasetCatalog.get(NAME)
    yield str(tmp_path / "x.json")
    DatasetCatalog.remove(NAME)
    MetadataCatalog.remove(NAME)


def predictions(rows, masks: bool = False) -> Instances:
    """Make Instances from (contiguous class, score, box)."""
    instances = Instances((100, 100))
    instances.pred_boxes = Boxes(torch.tensor([row[2] for row in rows], dtype=torch.float32).reshape(-1, 4))
    instances.scores = torch.tensor([row[1] for row in rows])
    instances.pred_classes = torch.tensor([row[0] for row in rows], dtype=torch.int64)
    if masks:
        instances.pred_masks = torch.zeros(len(rows), 100, 100, dtype=torch.bool)
        for mask, (_, _, (x0, y0, x1, y1)) in zip(instances.pred_masks, rows):
            mask[y0:y1, x0:x1] = True
    return instances


def evaluate(evaluator, first, second, **kwargs):
    evaluator.reset()
    evaluator.process([{"image_id": 1}, {"image_id": 2}], [{"instances": first}, {"instances": second}])
    return evaluator.evaluate(**kwargs)


PERFECT = (
    [(0, 0.9, [10, 10, 30, 30]), (1, 0.8, [50, 50, 90, 90])],
    [(0, 0.7, [10, 10, 30, 30]), (0, 0.6, [60, 10, 90, 40])],
)


def test_perfect_boxes_and_masks(dataset, tmp_path):
    evaluator = COCOEvaluator(NAME, output_dir=str(tmp_path / "out"), use_fast_impl=False)
    results = evaluate(evaluator, *(predictions(rows, masks=True) for rows in PERFECT))
    assert set(results) == {"bbox", "segm"}
    for task in ("bbox", "segm"):
        assert results[task]["AP"] == pytest.approx(100) and results[task]["AP-four"] == pytest.approx(100)
        assert results[task]["APs"] == pytest.approx(100) and np.isnan(results[task]["APl"])
    written = json.loads((tmp_path / "out" / "coco_instances_results.json").read_text())
    assert [row["category_id"] for row in written] == [4, 8, 4, 4] and written[0]["bbox"] == [10, 10, 20, 20]
    assert (tmp_path / "out" / "instances_predictions.pth").exists()


def test_average_precision_by_hand(dataset):
    # Class four: hit, false alarm, hit, of three objects: precisions 1, 1/2, 2/3 at recalls 1/3, 1/3, 2/3.
    # Interpolated at 101 recalls: 1 for 0..0.33 (34 of them), 2/3 up to 0.66 (33 of them), 0 beyond.
    first = predictions([(0, 0.9, [10, 10, 30, 30]), (0, 0.8, [70, 70, 80, 80])])
    second = predictions([(0, 0.7, [10, 10, 30, 30])])
    results = evaluate(COCOEvaluator(NAME, tasks=("bbox",), use_fast_impl=False), first, second)
    expected = (34 * 1 + 33 * 2 / 3) / 101 * 100
    assert results["bbox"]["AP-four"] == pytest.approx(expected) and results["bbox"]["AP-eight"] == 0
    assert results["bbox"]["AP50"] == pytest.approx(expected / 2)


def test_images_can_be_chosen(dataset):
    first, second = predictions(PERFECT[0]), predictions([])
    evaluator = COCOEvaluator(NAME, tasks=("bbox",), use_fast_impl=False)
    assert evaluate(evaluator, first, second)["bbox"]["AP"] == pytest.approx((34 / 101 * 100 + 100) / 2)
    assert evaluate(evaluator, first, second, img_ids=[1])["bbox"]["AP"] == pytest.approx(100)


def test_limit_of_detections(dataset):
    # Eleven wrong but confident boxes in image 2 crowd out everything else of their class there.
    wrong = [(0, 0.99, [0, 50 + number, 20, 70 + number]) for number in range(11)]
    second = predictions([*wrong, *PERFECT[1]])
    aps = []
    for limit in (11, None):
        evaluator = COCOEvaluator(NAME, tasks=("bbox",), max_dets_per_image=limit, use_fast_impl=False)
        aps.append(evaluate(evaluator, predictions(PERFECT[0]), second)["bbox"]["AP-four"])
    # Limited: one hit of three, twelfth in order. Free: three hits of three after eleven false alarms.
    assert aps == pytest.approx([34 / 12 / 101 * 100, 3 / 14 * 100])


def test_nothing_predicted(dataset):
    evaluator = COCOEvaluator(NAME, tasks=("bbox",), use_fast_impl=False)
    assert np.isnan(evaluate(evaluator, predictions([]), predictions([]))["bbox"]["AP"])
    evaluator.reset()
    assert evaluator.evaluate() == {}


def test_a_class_number_beyond_the_dataset_is_an_error(dataset):
    with pytest.raises(AssertionError):
        evaluate(COCOEvaluator(NAME, use_fast_impl=False), predictions([(2, 0.5, [0, 0, 5, 5])]), predictions([]))


def test_a_dataset_without_json_is_converted(tmp_path):
    name = NAME + "_converted"
    box = {"bbox": [10.0, 10.0, 30.0, 30.0], "bbox_mode": BoxMode.XYXY_ABS, "category_id": 0}
    DatasetCatalog.register(
        name, lambda: [{"file_name": "1.jpg", "image_id": 1, "height": 100, "width": 100, "annotations": [box]}]
    )
    MetadataCatalog.get(name).thing_classes = ["a"]
    try:
        with pytest.raises(ValueError):
            COCOEvaluator(name)
        evaluator = COCOEvaluator(name, output_dir=str(tmp_path), use_fast_impl=False)
        evaluator.reset()
        evaluator.process([{"image_id": 1}], [{"instances": predictions([(0, 0.5, [10, 10, 30, 30])])}])
        assert evaluator.evaluate()["bbox"]["AP"] == pytest.approx(100)
    finally:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


def test_size_of_a_mask_is_not_that_of_its_box(dataset):
    instances = predictions([(1, 0.9, [50, 50, 90, 90])], masks=True)
    results = instances_to_coco_json(instances, 1)
    results[0]["category_id"] = 8
    api = COCO(dataset)
    stats = _evaluate_predictions_on_coco(api, results, "segm", cocoeval_fn=COCOeval).stats
    assert "bbox" in results[0], "the caller's results must not change"
    bare = [{key: value for key, value in results[0].items() if key != "bbox"}]
    plain = COCOeval(api, api.loadRes(bare), "segm")
    plain.evaluate()
    plain.accumulate()
    plain.summarize()
    assert np.array_equal(stats, plain.stats)


def test_the_fast_evaluation_is_a_class_of_its_own():
    from detectron2.evaluation.fast_eval_api import COCOeval_opt

    assert issubclass(COCOeval_opt, COCOeval) and COCOeval_opt is not COCOeval


class Count(DatasetEvaluator):
    def __init__(self, task="count"):
        self.task = task

    def reset(self):
        self.seen = []

    def process(self, inputs, outputs):
        self.seen += [i + o for i, o in zip(inputs, outputs)]

    def evaluate(self):
        return {self.task: sum(self.seen)}


def test_the_evaluation_loop():
    class Model(torch.nn.Module):
        def forward(self, batch):
            assert not self.training and not torch.is_grad_enabled()
            return [10 * item for item in batch]

    model, calls = Model(), []
    names = ("on_start", "before_inference", "after_inference", "on_end")
    callbacks = {name: (lambda name=name: calls.append(name)) for name in names}
    results = inference_on_dataset(model, [[1, 2], [3]], [Count(), Count("other")], callbacks=callbacks)
    assert results == {"count": 66, "other": 66} and model.training
    assert calls == ["on_start", *["before_inference", "after_inference"] * 2, "on_end"]
    assert inference_on_dataset(model, [[1]], None) == {}
    same = DatasetEvaluators([Count(), Count()])
    same.reset()
    with pytest.raises(AssertionError):
        same.evaluate()


def test_results_are_printed_flattened_and_checked(caplog):
    results = {"bbox": {"AP": 12.34567, "AP-cat": 5.0}}
    with caplog.at_level("INFO"):
        print_csv_format(results)
    lines = [record.getMessage() for record in caplog.records]
    assert "copypaste: AP" in lines and "copypaste: 12.3457" in lines
    assert flatten_results_dict({"a": {"b": {"c": 1}}, "d": 2}) == {"a/b/c": 1, "d": 2}
    cfg = get_cfg()
    cfg.TEST.EXPECTED_RESULTS = [["bbox", "AP", 12.3, 0.1]]
    assert verify_results(cfg, results)
    cfg.TEST.EXPECTED_RESULTS = [["bbox", "AP", 12.0, 0.1]]
    with pytest.raises(SystemExit):
        verify_results(cfg, results)

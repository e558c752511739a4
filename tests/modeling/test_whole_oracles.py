"""Two whole detectors against the original CenterNet2 and Detic: every feature, box, score, loss and gradient."""

from __future__ import annotations

import copy
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from detectron2.structures import Boxes, Instances, pairwise_iou
from oracle_numbers import Oracle, close
from torch import Tensor
from whole_models import build, centernet2_cfg, detic_cfg, oracle_inputs, recording

from mvseg.data.catalog import register_dataset

LEVELS = ("p3", "p4", "p5", "p6", "p7")


@dataclass
class Run:
    """One evaluation and one training step of a detector with the oracle's weights."""

    oracle: Oracle
    model: Any
    eval: dict[str, Any]
    train: dict[str, Any]

    @property
    def classes(self) -> int:
        return self.oracle.config["classes"]


def fix_samples(model: Any, oracle: Oracle) -> None:
    """Put the stored random choices in the place of the model's own."""

    def sample(proposals: list[Instances], targets: list[Instances]) -> list[Instances]:
        model.sampled_from = proposals
        chosen = []
        for i, target in enumerate(targets):
            regions = Instances(target.image_size)
            regions.proposal_boxes = Boxes(oracle(f"train_box/sampled_boxes_{i}"))
            regions.objectness_logits = torch.logit(oracle(f"train_box/sampled_scores_{i}"), eps=1e-6)
            regions.gt_classes = oracle(f"train_box/sampled_classes_{i}")
            regions.gt_boxes = Boxes(oracle(f"train_box/sampled_gt_boxes_{i}"))
            if target.has("gt_masks"):
                regions.gt_masks = target.gt_masks[oracle(f"train_box/sampled_gt_index_{i}")]
            chosen.append(regions)
        return chosen

    model.roi_heads.label_and_sample_proposals = sample
    if "train_box/fed_classes_stage0" in oracle.io:
        draws = iter([oracle(f"train_box/fed_classes_stage{stage}") for stage in range(3)])
        background = oracle.config["classes"]
        model.roi_heads.objectives["masks"].columns = lambda targets: (d := next(draws))[d < background]


def run(oracle: Oracle, cfg: Any, text: Any, with_masks: bool, **more: Any) -> Run:
    model = build(cfg, oracle.state_dict(text))
    modules = {"backbone": model.backbone, "head": model.proposal_generator.centernet_head}
    modules |= {"generator": model.proposal_generator, "pooled": model.roi_heads.box_pooler}
    for stage, predictor in enumerate(model.roi_heads.box_predictor):
        modules |= {f"logits{stage}": predictor.cls_score, f"deltas{stage}": predictor.bbox_pred}
    batch = oracle_inputs(oracle, with_masks, **more)
    model.eval()
    for i, record in enumerate(batch):
        record["height"], record["width"] = oracle(f"eval/post_size_{i}").tolist()
    with recording(modules) as evaluated, torch.no_grad():
        evaluated["detections"] = model.inference(batch, do_postprocess=False)
        sizes = model.preprocess_image(batch).image_sizes
        evaluated["results"] = model._postprocess(copy.deepcopy(evaluated["detections"]), batch, sizes)
    model.train()
    fix_samples(model, oracle)
    with recording(modules) as trained:
        trained["losses"] = model(batch)
        sum(trained["losses"].values()).backward()
    return Run(oracle, model, evaluated, trained)


@pytest.fixture(scope="module", params=["centernet2_r50_coco", "detic_r50_lvis_base"])
def done(request: pytest.FixtureRequest, oracles: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    oracle = Oracle(oracles / request.param)
    if request.param == "centernet2_r50_coco":
        return run(oracle, centernet2_cfg(), None, with_masks=False)
    folder = tmp_path_factory.mktemp("detic")
    np.save(folder / "text.npy", oracle.io["text_embeddings"])
    register_dataset(
        name="oracle_lvis",
        format="lvis",
        image_root=str(folder),
        annotations=str(folder / "none.json"),
        vocabulary="lvis_v1",
        supervision="masks",
        embeddings=str(folder / "text.npy"),
    )
    cfg = detic_cfg("oracle_lvis")
    return run(oracle, cfg, oracle.io["text_embeddings"], with_masks=True, dataset="oracle_lvis", supervision="masks")


def by_std(actual: Tensor, expected: Tensor, scale: float, tolerance: float = 1e-4) -> None:
    assert actual.shape == expected.shape
    assert float((actual - expected).abs().max()) <= tolerance * scale


def test_names_are_the_original_ones(done: Run):
    manifest = json.loads((done.oracle.folder / "manifest.json").read_text())
    unused = ("zs_weight", "freq_weight", "num_batches_tracked", "base.fc.")
    original = {k: tuple(v[0]) for k, v in manifest.items() if not any(u in k for u in unused)}
    own = {k: tuple(v.shape) for k, v in done.model.state_dict().items() if "num_batches_tracked" not in k}
    assert own == original


def test_weights_are_generated_right(done: Run):
    state = done.model.state_dict()
    for name, check in done.oracle.config["weights_check"].items():
        assert float(state[name].double().norm()) == pytest.approx(check["l2"], rel=1e-6)


def test_features(done: Run):
    for level in LEVELS:
        actual = done.eval["backbone"][level]
        mean, std = done.oracle(f"eval/features/{level}/mean_std").tolist()
        assert abs(float(actual.mean()) - mean) <= 1e-4 * std
        by_std(actual.flatten()[:64], done.oracle(f"eval/features/{level}/first"), std)


def test_heatmaps_and_distances(done: Run):
    logits, distances = done.eval["head"]
    for level, own_logits, own_distances in zip(LEVELS, logits, distances):
        expected = done.oracle(f"eval/heatmap_logits/{level}")
        by_std(own_logits, expected, float(expected.std()))
        expected = done.oracle(f"eval/reg/{level}")
        by_std(own_distances, expected, float(expected.std()))


def test_proposals(done: Run):
    for i, proposals in enumerate(done.eval["generator"][0]):
        scores = done.oracle(f"eval/proposal_scores_{i}")
        torch.testing.assert_close(proposals.objectness_logits.sigmoid(), scores, rtol=0, atol=1e-4)
        assert not proposals.has("scores")
        own, expected = proposals.proposal_boxes.tensor, done.oracle(f"eval/proposal_boxes_{i}")
        nearest = torch.cdist(own.double(), expected.double(), p=torch.inf).amin(1)
        assert (nearest > 0.01).sum() <= 1


def test_stage_outputs(done: Run):
    for stage in range(3):
        _, std = done.oracle(f"eval/stage{stage}/logits_mean_std").tolist()
        logits = done.eval[f"logits{stage}"]
        expected = done.oracle(f"eval/stage{stage}/logits_first")
        by_std(logits[: len(expected)], expected[:, : logits.shape[1]], std)
        expected = done.oracle(f"eval/stage{stage}/deltas")
        by_std(done.eval[f"deltas{stage}"], expected, float(expected.std()), 1e-3)


def matched(own: Instances, boxes: Tensor, classes: Tensor) -> Tensor:
    """Row of the detection that belongs to each expected one, -1 for none."""
    overlap = pairwise_iou(Boxes(boxes), own.pred_boxes) * (classes[:, None] == own.pred_classes[None])
    best, row = overlap.max(1)
    return torch.where(best > 0.99, row, -1)


def test_detections(done: Run):
    for i, own in enumerate(done.eval["detections"]):
        boxes, classes = done.oracle(f"eval/det_boxes_{i}"), done.oracle(f"eval/det_classes_{i}")
        rows = matched(own, boxes, classes)
        assert len(own) == len(boxes)
        found = rows >= 0
        assert (~found).sum() <= 1
        torch.testing.assert_close(own.pred_boxes.tensor[rows[found]], boxes[found], rtol=0, atol=0.01)
        torch.testing.assert_close(
            own.scores[rows[found]], done.oracle(f"eval/det_scores_{i}")[found], rtol=0, atol=1e-4
        )


def test_results_in_the_original_size(done: Run):
    for i, result in enumerate(done.eval["results"]):
        own = result["instances"]
        assert list(own.image_size) == done.oracle(f"eval/post_size_{i}").tolist()
        rows = matched(own, done.oracle(f"eval/post_boxes_{i}"), done.oracle(f"eval/det_classes_{i}"))
        assert (rows < 0).sum() <= 1
        if f"eval/post_mask_area_{i}" in done.oracle.io:
            area = own.pred_masks.flatten(1).sum(1)[rows]
            expected = done.oracle(f"eval/post_mask_area_{i}")
            assert ((area - expected).abs() > 2 + 1e-3 * expected)[rows >= 0].sum() == 0


def test_masks(done: Run):
    if "eval/mask_probs_0" not in done.oracle.io:
        pytest.skip("no masks")
    for i, own in enumerate(done.eval["detections"]):
        expected = done.oracle(f"eval/mask_probs_{i}")
        rows = matched(own, done.oracle(f"eval/det_boxes_{i}"), done.oracle(f"eval/det_classes_{i}"))[: len(expected)]
        assert (rows >= 0).all()
        torch.testing.assert_close(own.pred_masks[rows, 0], expected, rtol=0, atol=1e-4)


def test_given_regions(done: Run):
    heads = done.model.roi_heads
    features = [done.eval["backbone"][name] for name in heads.box_in_features]
    boxes = [Boxes(b) for b in done.oracle.images("roi/boxes")]
    with torch.no_grad():
        pooled = heads.box_pooler(features, boxes)
        std = float(done.oracle("roi/pooled/mean_std")[1])
        by_std(pooled.mean((2, 3)), done.oracle("roi/pooled_mean_7x7"), std)
        for stage in range(3):
            hidden = heads.box_head[stage](pooled)
            expected = done.oracle(f"roi/stage{stage}/hidden")
            by_std(hidden[: len(expected)], expected, float(expected.std()))
            logits = heads.box_predictor[stage].cls_score(hidden)
            expected = done.oracle(f"roi/stage{stage}/logits")
            by_std(logits[: len(expected)], expected[:, : logits.shape[1]], float(expected.std()))


def test_classifier(done: Run):
    features = done.oracle("classifier/features")
    for stage, predictor in enumerate(done.model.roi_heads.box_predictor):
        with torch.no_grad():
            logits = predictor.cls_score(features)
        expected = done.oracle(f"classifier/logits_stage{stage}")
        close(logits, expected[:, : logits.shape[1]])
        assert (expected[:, logits.shape[1] :] == 0).all()  # the original's background column


def test_training_proposals(done: Run):
    for i, proposals in enumerate(done.model.sampled_from):
        assert abs(len(proposals) - int(done.oracle(f"train_box/proposal_count_{i}"))) <= 1
        scores = done.oracle(f"train_box/proposal_scores_{i}")
        torch.testing.assert_close(proposals.objectness_logits[:100].sigmoid(), scores, rtol=0, atol=1e-4)


def test_training_stages(done: Run):
    for stage in range(3):
        expected = done.oracle(f"train_box/stage{stage}/deltas")
        by_std(done.train[f"deltas{stage}"], expected, float(expected.std()), 1e-3)
        logits, all_columns = done.train[f"logits{stage}"], done.oracle(f"train_box/stage{stage}/logits_first")
        std = float(done.oracle(f"train_box/stage{stage}/logits_mean_std")[1])
        if f"train_box/fed_classes_stage{stage}" in done.oracle.io:  # only the columns of the loss are computed
            columns = done.oracle(f"train_box/fed_classes_stage{stage}")
            all_columns = all_columns[:, columns[columns < done.classes]]
        assert logits.shape[1] == all_columns.shape[1]
        by_std(logits[: len(all_columns)], all_columns, std)


def test_losses(done: Run):
    expected = {k.rsplit("/", 1)[1]: float(done.oracle(k)) for k in done.oracle.io if k.startswith("train_box/loss/")}
    own = {k: float(v) for k, v in done.train["losses"].items()}
    ours_alone = {"image_loss"}  # Detic reports image-label losses of 0 for a box batch
    expected = {k: v for k, v in expected.items() if not any(k.startswith(o) for o in ours_alone)}
    assert own == pytest.approx(expected, rel=1e-4)


def test_gradients(done: Run):
    parameters = dict(done.model.named_parameters())
    assert [name for name, p in parameters.items() if p.grad is None] == []
    stored = [k.removeprefix("train_box/grad/") for k in done.oracle.io if k.startswith("train_box/grad/")]
    stored = [name for name in stored if ".base.fc." not in name]  # an image classifier that nothing uses
    assert len(stored) > 20
    for name in stored:
        norm, total, *first = done.oracle(f"train_box/grad/{name}").double().tolist()
        gradient = parameters[name].grad.double()
        count = min(8, gradient.numel())
        error = np.abs(gradient.flatten()[:count].numpy() - np.array(first[:count])).max()
        assert float(gradient.norm()) == pytest.approx(norm, rel=1e-3, abs=1e-12), name
        assert error <= 1e-3 * norm, name
        assert abs(float(gradient.sum()) - total) <= 5e-3 * norm * gradient.numel() ** 0.5, name

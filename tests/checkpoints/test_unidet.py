"""UniDet's files: recognised, joined and refused; the imported models give the numbers of the released code.

The numbers come from UniDet 94cd0e8 on Detectron2 02b5c4e with the weights, images and boxes made here (and the random
sampling in order). Training as released cannot run there, see projects/UniDet: the logits were handed to the loss by
hand, and the class numbers that its box loss takes for objects were set to those that are objects.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from detectron2.modeling import build_model
from detectron2.structures import Boxes, Instances
from detectron2.utils.events import EventStorage
from foreign_models import layer, timm_resnet
from torch import Tensor
from unidet_models import CLASSES, lively_weights, unidet

from mvseg.checkpoints import AtomicCheckpointer
from mvseg.checkpoints.importing import import_weights, read_passport
from mvseg.checkpoints.importing.comparison import joined_rows
from mvseg.checkpoints.readers import Unrecognised, get_reader
from mvseg.config import load_config
from mvseg.data import register_cards
from mvseg.data.catalog import get_vocabulary, register_dataset, unregister_card
from mvseg.vocabulary import Vocabulary

PARENTS = ((), ("q0",), ("q1",), ("q1",), (), ("q4",), ("q4",))  # of oid's words
WORDS = {
    "coco": [f"c{k}" for k in range(6)],
    "o365": [f"o{k}" for k in range(5)],
    "oid": [f"q{k}" for k in range(7)],
}
# Column of every class in the unified label space of 14 words.
UNIFIED = {"coco": [0, 3, 1, 4, 5, 6], "o365": [0, 7, 8, 2, 9], "oid": [10, 0, 11, 12, 1, 2, 13]}
SMALL = {
    "MODEL.RPN.PRE_NMS_TOPK_TRAIN": 200,
    "MODEL.RPN.PRE_NMS_TOPK_TEST": 100,
    "MODEL.RPN.POST_NMS_TOPK_TRAIN": 200,
    "MODEL.RPN.POST_NMS_TOPK_TEST": 100,
    "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE": 64,
    "MODEL.DEVICE": "cpu",
}


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files of names and the mapping of the unified label space."""
    folder = tmp_path_factory.mktemp("tables")
    for dataset, words in WORDS.items():
        above = PARENTS if dataset == "oid" else [()] * len(words)
        lines = ["name\tparents", *(f"{w}\t{'|'.join(p)}" for w, p in zip(words, above, strict=True))]
        (folder / f"{dataset}.tsv").write_text("\n".join(lines) + "\n")
    rows = ["unified,coco,o365,oid"]
    for column in range(14):
        cells = [next((w for w, c in zip(WORDS[d], UNIFIED[d]) if c == column), "") for d in WORDS]
        rows.append(f"u{column},{','.join(cells)}")
    (folder / "unified.csv").write_text("\n".join(rows) + "\n")
    return folder


def imported(kind: str, folder: Path, tables: Path) -> tuple[Any, Path]:
    shapes = unidet(14 if kind == "unified" else CLASSES, stored=kind == "unified")
    source, target = folder / f"{kind}_old.pth", folder / f"{kind}.pth"
    torch.save({"model": lively_weights(shapes), "iteration": 7}, source)
    space = None if kind == "partitioned" else tables / "unified.csv"
    names = [str(tables / f"{dataset}.tsv") for dataset in WORDS]
    return import_weights("unidet", source, target, vocabulary=names, label_space=space), target


@pytest.fixture(scope="module", params=["partitioned", "merged", "unified"])
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, tables: Path):
    """Kind, what the import said, config, model with the file's weights."""
    folder = tmp_path_factory.mktemp(request.param)
    result, target = imported(request.param, folder, tables)
    cfg = load_config(target.with_suffix(".yaml"))
    cfg.merge_from_list([part for item in SMALL.items() for part in item])
    names = register_cards(cfg.DATASETS.CARDS)
    oid = names[-1]
    unregister_card(oid)  # the card of an import does not know the parents
    register_dataset(name=oid, format="coco", image_root="none", annotations="", vocabulary=str(tables / "oid.tsv"))
    cfg.DATASETS.MIX = [{"name": n} | ({"annotation_scope": "own_hierarchy"} if n == oid else {}) for n in names]
    model = build_model(cfg)
    checkpointer = AtomicCheckpointer(model, save_to_disk=False)
    checkpointer.load(str(target))
    assert checkpointer.report.complete and not checkpointer.report.unexpected
    yield request.param, result, names, model
    for name in names:
        unregister_card(name)


def image(seed: int) -> Tensor:
    coarse = torch.rand(3, 6, 8, generator=torch.Generator().manual_seed(seed)) * 255
    return torch.nn.functional.interpolate(coarse[None], size=(96, 128), mode="bilinear")[0].round().to(torch.uint8)


def batch(dataset: str, classes: int) -> list[dict[str, Any]]:
    records = []
    for seed, chosen in ((1, [0, 1, 2, 4]), (2, [3, 1, 4, 2])):
        draw = torch.Generator().manual_seed(10 + seed)
        corner = torch.rand(4, 2, generator=draw) * torch.tensor([70.0, 40.0])
        boxes = torch.cat([corner, corner + 20 + 30 * torch.rand(4, 2, generator=draw)], 1)
        instances = Instances((96, 128), gt_boxes=Boxes(boxes), gt_classes=torch.tensor(chosen) % classes)
        records.append({"image": image(seed), "instances": instances, "dataset": dataset, "supervision": "boxes"})
    return records


def check_detections(model: Any, count: int, total: float, rows: dict[int, tuple[list[float], float, int]]) -> None:
    """Some detections, by their place in the list: box, score, class; and the sum of all scores."""
    with torch.no_grad():
        found = model.eval()([{"image": image(1), "height": 96, "width": 128}])[0]["instances"]
    assert len(found) == count
    assert float(found.scores.double().sum()) == pytest.approx(total, abs=2e-3)
    for place, (box, score, number) in rows.items():
        assert found.pred_boxes.tensor[place].tolist() == pytest.approx(box, abs=0.01)
        assert float(found.scores[place]) == pytest.approx(score, abs=1e-4)
        assert int(found.pred_classes[place]) == number


def test_detections_are_those_of_the_released_code(case):
    kind, _, names, model = case
    speak = {name: get_vocabulary(name) for name in names}
    if kind == "partitioned":
        model.set_vocabulary(speak[names[0]])
        first = {
            0: ([0.0803, 35.34, 2.3391, 86.0213], 0.937323, 3),
            150: ([13.3558, 18.1078, 30.8253, 36.9747], 0.500953, 3),
        }
        check_detections(model, 300, 142.637118, first)
        model.set_vocabulary(speak[names[2]])
        third = {
            0: ([0.0803, 35.34, 2.3391, 86.0213], 0.752402, 1),
            150: ([0.7401, 59.1502, 9.8869, 87.2568], 0.471241, 0),
        }
        check_detections(model, 300, 151.457055, third)
        model.set_vocabulary(None)  # a test set of which nothing is known: the words of all classifiers
        every = {
            0: ([60.4341, 18.4734, 65.3006, 59.1319], 0.99702, 6),
            150: ([0.2392, 55.3803, 4.6605, 90.4376], 0.6635, 2),
        }
        check_detections(model, 300, 205.641656, every)
    elif kind == "merged":
        model.set_vocabulary(Vocabulary(name="unified", names=tuple(f"u{k}" for k in range(14))))
        rows = {
            0: ([0.0803, 35.34, 2.3391, 86.0213], 0.937323, 4),
            150: ([32.2358, 51.4051, 55.2252, 59.3991], 0.509613, 6),
        }
        check_detections(model, 300, 159.318759, rows)
    else:
        model.set_vocabulary(speak[names[1]])
        rows = {
            0: ([111.4195, 16.5972, 126.2164, 73.4378], 0.868226, 4),
            150: ([0.6645, 28.4189, 11.5679, 39.5915], 0.334353, 3),
        }
        check_detections(model, 300, 122.022288, rows)
        model.set_vocabulary(None)
        every = {
            0: ([23.7554, 54.2868, 48.8878, 65.1019], 0.998654, 5),
            150: ([3.3379, 47.5468, 26.2519, 57.8863], 0.67851, 13),
        }
        check_detections(model, 300, 209.291676, every)


LOSSES = {  # of a batch of two images: class losses of the three stages
    ("partitioned", 2): (1.800191, 7.489244, 18.134506),
    ("partitioned", 0): (1.563836, 7.667677, 6.162166),
    ("unified", 2): (3.098794, 9.413588, 15.424322),
    ("unified", 1): (3.392244, 3.956372, 9.041981),
}


def losses_of(model: Any, records: list[dict[str, Any]]) -> dict[str, Tensor]:
    with EventStorage():
        return model.train()(records)


def test_losses_are_those_of_the_released_code(case, monkeypatch: pytest.MonkeyPatch):
    """With the hierarchy of oid, and of the dataset's own columns alone; the boxes learn from the objects alone."""
    kind, _, names, model = case
    monkeypatch.setattr(torch, "randperm", lambda n, **kwargs: torch.arange(n))
    for (of, number), expected in LOSSES.items():
        if of != kind:
            continue
        model.zero_grad()
        losses = losses_of(model, batch(names[number], CLASSES[number]))
        assert [losses[f"loss_cls_stage{k}"].item() for k in range(3)] == pytest.approx(expected, rel=1e-5)
        boxes = [float(losses[f"loss_box_reg_stage{k}"]) for k in range(3)]
        assert boxes == pytest.approx([0.288825, 0.482944, 0.359773], abs=2e-6)
        assert float(losses["loss_rpn_cls"]) == pytest.approx(0.99654, abs=2e-6)
        assert float(losses["loss_rpn_loc"]) == pytest.approx(0.05181, abs=2e-6)
        if (of, number) == ("partitioned", 2):
            sum(losses.values()).backward()
            heads = model.roi_heads.box_predictor
            gradient = heads[0].cls_score.weight.grad
            assert not gradient[:11].any() and not gradient[-1].any()  # other datasets learn nothing
            assert float(gradient[11:18].double().norm()) == pytest.approx(0.85045117, rel=1e-4)
            assert float(heads[1].bbox_pred.weight.grad.double().norm()) == pytest.approx(0.36015211, rel=1e-4)
            rpn = model.proposal_generator.rpn_head.conv.weight.grad
            assert float(rpn.double().norm()) == pytest.approx(2.38289489, rel=1e-4)


@pytest.mark.parametrize("case", ["partitioned"], indirect=True)
def test_a_mixed_batch_is_the_mean_of_what_processes_with_one_dataset_each_would_learn(case, monkeypatch):
    _, _, names, model = case
    monkeypatch.setattr(torch, "randperm", lambda n, **kwargs: torch.arange(n))
    one, other = batch(names[0], 6)[0], batch(names[2], 7)[1]
    mixed = losses_of(model, [one, other])
    apart = [losses_of(model, [record]) for record in (one, other)]
    for stage in range(3):
        name = f"loss_cls_stage{stage}"
        assert float(mixed[name]) == pytest.approx(sum(float(x[name]) for x in apart) / 2, rel=1e-5)


def test_what_an_import_says_and_writes(case):
    kind, result, _, _ = case
    target = result.files[0]
    text = result.describe()
    assert "RPN on p3 to p7, 9 anchors" in text and "softmax" not in text
    assert "0 missing" in text
    written = {path.name for path in result.files}
    assert {f"{kind}_words_{k}_{d}.yaml" for k, d in enumerate(WORDS, start=1)} <= written
    assert read_passport(target)["words"] == "coco, o365, oid"
    if kind == "unified":
        assert "one classifier for all datasets" in text and "7 left over" in text
        assert "unified_label_space.csv" in written
    else:
        assert "a classifier for each of 3 datasets (6, 5, 7 classes)" in text and "0 left over" in text
        rows = [row for row in result.rows if row.target.endswith("box_predictor.0.cls_score.weight")]
        assert [row.why.split(";")[0] for row in rows] == ["rows 0 to 5", "rows 6 to 10", "rows 11 to 17"]
    assert (f"{kind}_label_space.csv" in written) == (kind != "partitioned")


def test_rows_are_joined():
    one, two = torch.tensor([[1.0], [2.0], [10.0]]), torch.tensor([[3.0], [30.0]])
    assert joined_rows([one, two]).flatten().tolist() == [1, 2, 3, 20]
    assert joined_rows([one[:, 0], two[:, 0]]).tolist() == [1, 2, 3, 20]


def without(shapes: dict, *ends: str) -> dict:
    return {name: shape for name, shape in shapes.items() if not name.endswith(ends)}


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        (unidet(CLASSES) | layer("backbone.bottom_up.res2.0.conv2.fc1", 32, 64, 1, 1), "ResNeSt"),
        (unidet(CLASSES) | layer("proposal_generator.centernet_head.agn_hm", 1, 32, 3, 3), "centernet2"),
        (without(unidet(CLASSES), "1.cls_score.1.weight"), "classifiers are missing"),
        (without(unidet(CLASSES), "2.cls_score.2.weight", "2.cls_score.2.bias"), "classifiers are missing"),
        (without(unidet(CLASSES), "objectness_logits.weight"), "no RPN"),
        (unidet(CLASSES) | layer("proposal_generator.rpn_head.objectness_logits", 15, 32, 1, 1), "15 anchors"),
        (unidet(CLASSES) | layer("roi_heads.mask_head.predictor", 1, 32, 1, 1), "mask head"),
        (unidet(CLASSES) | layer("roi_heads.box_head.0.conv1", 32, 32, 3, 3), "convolutions"),
        (without(unidet(CLASSES), "res4.5.conv1.weight", "res4.5.conv2.weight"), None),
        (without(unidet(5), "top_block.p7.weight"), "pyramid"),
        (timm_resnet(18), "no RPN|region heads|pyramid"),
    ],
)
def test_other_files_are_refused(shapes: dict, message: str | None, tmp_path: Path, tables: Path):
    if message is not None:
        with pytest.raises(Unrecognised, match=message):
            get_reader("unidet").read(shapes)
        return
    torch.save({"model": lively_weights(shapes)}, tmp_path / "in.pth")
    names = [str(tables / f"{dataset}.tsv") for dataset in WORDS]
    with pytest.raises(ValueError, match="2 of the model are missing in the file"):
        import_weights("unidet", tmp_path / "in.pth", tmp_path / "out.pth", vocabulary=names)
    assert not (tmp_path / "out.pth").exists()


def test_words_are_not_guessed(tmp_path: Path, tables: Path):
    torch.save({"model": lively_weights(unidet(CLASSES))}, tmp_path / "in.pth")
    files = [str(tables / f"{dataset}.tsv") for dataset in WORDS]

    def run(**options: Any) -> None:
        import_weights("unidet", tmp_path / "in.pth", tmp_path / "out.pth", **options)

    with pytest.raises(ValueError, match="classifiers of 6, 5, 7 classes, and nothing in the file says"):
        run()
    with pytest.raises(ValueError, match="classifiers of 6, 5, 7 classes, but the vocabularies have oid: 7, o365: 5"):
        run(vocabulary=[files[2], files[1]])
    with pytest.raises(ValueError, match="called alike"):
        run(vocabulary=[files[0], files[0], files[2]])
    torch.save({"model": lively_weights(unidet(13))}, tmp_path / "in.pth")
    with pytest.raises(ValueError, match="add --label-space"):
        run(vocabulary=files)
    with pytest.raises(ValueError, match=r"13 classes, but .*unified\.csv makes 14 words"):
        run(vocabulary=files, label_space=tables / "unified.csv")
    with pytest.raises(ValueError, match="say them with --vocabulary"):
        run(label_space=tables / "unified.csv")
    assert [path.name for path in tmp_path.iterdir()] == ["in.pth"]

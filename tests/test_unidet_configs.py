"""The configs of projects/UniDet: the published recipe, label spaces of the published sizes, models that are built."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
import torch
from detectron2.modeling import build_model

import mvseg.modeling  # noqa: F401
from mvseg.config import load_config
from mvseg.data.catalog import get_card, get_vocabulary
from mvseg.data.label_spaces import label_space
from mvseg.data.mixing import mixture_from_config
from mvseg.modeling.columns import scopes_of
from mvseg.vocabulary.__main__ import main

FOLDER = Path(__file__).resolve().parents[1] / "projects" / "UniDet" / "configs"
MODELS = [path for path in sorted(FOLDER.glob("*.yaml")) if not path.name.startswith("Base-")]
STEPS = {"1x": (90000, (60000, 80000)), "2x": (180000, (120000, 160000))}
STEPS |= {"6x": (540000, (480000, 500000)), "8x": (720000, (660000, 700000))}
TABLES = ["coco=coco", "objects365=objects365_v1", "oid=openimages_500"]


@pytest.mark.parametrize("path", MODELS, ids=lambda path: path.stem)
def test_published_recipe(path: Path):
    cfg = load_config(path)
    solver, mix = cfg.SOLVER, mixture_from_config(cfg)
    further = "Mapillary" in path.stem
    expected = (180000, (160000,)) if further else STEPS[path.stem.rsplit("_", 1)[1]]
    assert (solver.MAX_ITER, tuple(solver.STEPS)) == expected
    assert solver.BASE_LR == (0.001 if further else 0.01)  # noqa: SIM300
    assert (solver.IMS_PER_BATCH, solver.WARMUP_ITERS) == (16, 4000)
    assert f"output/UniDet/{path.stem}" == cfg.OUTPUT_DIR
    names = [entry.name for entry in mix]
    aware = {"objects365_v1_train", "openimages_challenge_2019_train"}
    assert {entry.name for entry in mix if entry.sampler == "class_aware"} == aware & set(names)
    assert all(entry.ratio == 1 for entry in mix)
    scopes = scopes_of(cfg)
    assert scopes.pop("") == ("own",)
    assert scopes == {n: ("own_hierarchy",) for n in names if n.startswith("openimages")}
    assert [get_card(name).evaluator for name in cfg.DATASETS.TEST] == [
        "openimages" if name.startswith("openimages") else "coco" for name in names
    ]
    alone = len(names) == 1 and not names[0].startswith("openimages")
    assert ("softmax" if alone else "sigmoid") == cfg.MODEL.CLASSIFIER.LOSS
    sizes = [32 * 2 ** (k / 3) for k in range(15)]
    assert torch.tensor(cfg.MODEL.ANCHOR_GENERATOR.SIZES).flatten().tolist() == pytest.approx(sizes, abs=1e-3)


@pytest.mark.parametrize(("name", "columns"), [("learned_mAP", 701), ("manual", 659), ("learned_mAP+M", 722)])
def test_published_label_spaces(name: str, columns: int, shared: Path, tmp_path: Path):
    """As the page says: UniDet's files become mappings, and the datasets of the cards the published number of words."""
    source, out = shared / "data" / "labels" / "unidet_label_spaces" / f"{name}.json", tmp_path / "space.csv"
    datasets = ["coco_2017_train", "objects365_v1_train", "openimages_challenge_2019_train"]
    tables = list(TABLES)
    if name.endswith("M"):
        tables.append("mapillary=mapillary_65")
        datasets.append("mapillary_v1.2_instance_train")
    main(["unidet", str(source), "--out", str(out), *(part for table in tables for part in ("--words", table))])
    out.write_text(out.read_text().replace("mapillary_65", "mapillary_v1.2_instance_train", 1))
    space = label_space(datasets, str(out), embeddings=False)
    assert space.n == columns
    rows = [row[0].strip().lower() for row in csv.reader(out.open())][1:]
    assert [word.lower() for word in space.names] == rows  # the columns of its files


@pytest.mark.parametrize("stem", ["Partitioned_R50_2x", "Merged_R50_2x", "COCO_R50_1x"])
def test_model_can_be_built(stem: str, tmp_path: Path):
    table = tmp_path / "merge.csv"
    table.write_text("unified,coco,objects365_v1,openimages_500\nhuman,person,person,Person\ncar,car,car,Car\n")
    merge = str(table) if stem.startswith("Merged") else ""
    changes = ["MODEL.DEVICE", "cpu", "MODEL.WEIGHTS", "", "MODEL.CLASSIFIER.TEST_MERGE", merge]
    narrow = ["MODEL.ROI_BOX_HEAD.FC_DIM", "8", "MODEL.FPN.OUT_CHANNELS", "8"]
    model = build_model(load_config(FOLDER / f"{stem}.yaml", [*changes, *narrow])).eval()
    classifier = model.roi_heads.box_predictor[0].cls_score
    assert model.roi_heads.num_classes == (80 if stem.startswith("COCO") else 945)
    assert classifier.background == stem.startswith("COCO")
    model.set_vocabulary(get_vocabulary("coco_2017_val"))
    assert classifier.num_columns == 80
    if merge:
        features = torch.randn(2, 8)
        rows = [0, 80 + get_vocabulary("objects365_v1_train").index("person")]
        rows.append(445 + get_vocabulary("openimages_challenge_2019_train").index("Person"))
        person = (features @ classifier.weight[rows].t() + classifier.bias[rows]).mean(1)
        torch.testing.assert_close(classifier(features)[:, 0], person)

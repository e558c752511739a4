"""Files of UniDetector's second stage become a detector whose region features are those of the CLIP model in them."""

from __future__ import annotations

import open_clip.modified_resnet
import pytest
import torch
from detectron2.modeling import build_model
from detectron2.structures import Boxes
from torch.nn import functional as F

import mvseg.modeling  # noqa: F401  (registers the parts)
from mvseg.checkpoints import AtomicCheckpointer
from mvseg.checkpoints.importing import import_weights
from mvseg.checkpoints.readers import Unrecognised, get_reader
from mvseg.config import load_config
from mvseg.data.catalog import register_cards, unregister_card

HEAD = "roi_head.bbox_head."


def renamed(name: str) -> str:
    """Name of an entry of CLIP's image side in UniDetector's model, from the attributes of its code."""
    part = name.partition(".")[0]
    return f"{ {'layer4': 'roi_head.shared_head.', 'attnpool': HEAD}.get(part, 'backbone.') }{name}".replace(" ", "")


@pytest.fixture(scope="module")
def clip() -> open_clip.modified_resnet.ModifiedResNet:
    torch.manual_seed(0)
    network = open_clip.modified_resnet.ModifiedResNet([3, 4, 6, 3], 1024, 32, 224, 64).eval()
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.weight, 0.3, 0.6)
    return network


def file_of(network: torch.nn.Module, rows: dict[str, int]) -> dict[str, torch.Tensor]:
    state = {renamed(name): value for name, value in network.state_dict().items()}
    draw = torch.Generator().manual_seed(1)
    state |= {f"{HEAD}fc_reg.weight": torch.randn(4, 1024, generator=draw), f"{HEAD}fc_reg.bias": torch.ones(4)}
    for name, classes in rows.items():
        columns = torch.randn(1024, classes + 1, generator=draw)
        columns[:, -1] = 0
        state[f"{HEAD}{name}"] = columns
    return state


def test_second_stage_becomes_the_same_network(clip, tmp_path):
    state = file_of(clip, {"zs_weights": 80})
    torch.save({"meta": {"epoch": 12}, "state_dict": state}, tmp_path / "theirs.pth")
    result = import_weights("unidetector", tmp_path / "theirs.pth", tmp_path / "ours.pth")
    assert not [row for row in result.rows if "missing" in str(row).lower()]
    assert any("80 classes are taken for coco" in note for note in result.notes)
    cfg = load_config(tmp_path / "ours.yaml", ["MODEL.DEVICE", "cpu", "MODEL.CLASSIFIER.TEXT_ENCODER", ""])
    for place in cfg.DATASETS.CARDS:
        register_cards(place)
    try:
        model = build_model(cfg).eval()
    finally:
        for name in cfg.DATASETS.TRAIN:
            unregister_card(name)
    checkpointer = AtomicCheckpointer(model)
    checkpointer.load(str(tmp_path / "ours.pth"))
    assert checkpointer.report.complete
    image = torch.randn(1, 3, 224, 224, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        expected = clip(image)
        whole = [Boxes(torch.tensor([[0.0, 0.0, 224.0, 224.0]]))]
        found = model.roi_heads._region_features(model.backbone(image), whole)
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))
        logits = model.roi_heads.box_predictor.cls_score(found)
    cosines = F.normalize(expected, dim=1) @ F.normalize(state[f"{HEAD}zs_weights"][:, :80], dim=0)
    torch.testing.assert_close(logits, 100 * cosines, rtol=1e-3, atol=1e-2)
    torch.testing.assert_close(model.roi_heads.box_predictor.bbox_pred.weight, state[f"{HEAD}fc_reg.weight"])


def test_what_is_not_known_is_refused(clip):
    shapes = {name: tuple(value.shape) for name, value in file_of(clip, {"zs_weights": 3}).items()}
    read = get_reader("unidetector").read
    found = read(shapes)
    assert not found.unknown and found.num_columns == 3 and found.text_width == 1024
    with pytest.raises(Unrecognised, match="an end-to-end model"):
        read({**shapes, "rpn_head.rpn_cls.weight": (15, 1024, 1, 1)})
    with pytest.raises(Unrecognised, match="first stage"):
        read({**shapes, "rpn_head.rpn_obj.weight": (1, 256, 1, 1)})
    with pytest.raises(Unrecognised, match=r"one box for all classes, \(4, 1024\)"):
        read({**shapes, f"{HEAD}fc_reg.weight": (320, 1024)})
    with pytest.raises(Unrecognised, match=r"blocks \(4, 4, 6, 3\)"):
        read({**shapes, "backbone.layer1.3.conv1.weight": (64, 256, 1, 1)})
    with pytest.raises(Unrecognised, match="no region heads with attention pooling"):
        read({name: shape for name, shape in shapes.items() if "attnpool" not in name})


def test_partitioned_rows_are_left_over_and_nobody_guesses_their_words(clip):
    shapes = {n: tuple(v.shape) for n, v in file_of(clip, {"zs_weights_0": 3, "zs_weights_1": 5}).items()}
    found = get_reader("unidetector").read(shapes)
    assert not found.unknown and found.num_columns == 0 and not found.text_rows
    assert {name for name in found.left_over if "zs" in name} == {f"{HEAD}zs_weights_0", f"{HEAD}zs_weights_1"}

"""What only large runs show: half precision at large coordinates, several processes, divergence, many boxes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from detectron2.structures import Boxes, ImageList, Instances
from detectron2.utils import comm
from torch.utils._python_dispatch import TorchDispatchMode
from whole_models import build, record, recording, small_cfg

from mvseg.modeling.objectives.region import sigmoid_classification_loss, softmax_classification_loss
from mvseg.modeling.proposals.centernet_targets import centernet_targets, make_grid

STRIDES = (8, 16, 32, 64, 128)
SIZE_RANGES = [[0, 80], [64, 160], [128, 320], [256, 640], [512, 10000000]]


@pytest.fixture
def model() -> Any:
    torch.manual_seed(0)
    cfg = small_cfg()
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = 3
    return build(cfg)


def batch() -> list[dict]:
    return [record("det_a", 1), record("det_a", 2)]


def test_bfloat16_features_are_pooled_at_exact_boxes(model: Any):
    """bfloat16 has 8 bits: a box at x = 1005 would be pooled at x = 1004 or 1008."""
    seen = []
    model.roi_heads.box_pooler.register_forward_hook(lambda module, args, output: seen.append(output))
    columns = torch.arange(160.0).expand(1, 32, 20, 160)
    features = {"p3": columns, "p4": columns[..., :10, :80], "p5": columns[..., :5, :40]}
    proposals = [Instances((160, 1280), proposal_boxes=Boxes(torch.tensor([[1001.0, 40, 1013, 54]])))]
    proposals[0].objectness_logits = torch.zeros(1)
    halved = {name: feature.bfloat16() for name, feature in features.items()}  # whole numbers up to 256 are exact
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        model.eval().roi_heads(ImageList(torch.empty(0), []), halved, proposals)
    assert seen[0].mean().item() == pytest.approx((1001 + 1013) / 2 / 8 - 0.5, abs=0.01)


def test_without_gradient_no_process_waits_for_another(model: Any, monkeypatch: pytest.MonkeyPatch):
    """Processes have different numbers of validation batches; a sum over them would wait for ever."""
    calls = []
    monkeypatch.setattr(comm, "get_world_size", lambda: 2)
    monkeypatch.setattr(torch.distributed, "all_reduce", lambda values, *rest: calls.append(values))
    with torch.no_grad(), recording({}):
        model.train()(batch())
    assert calls == []
    with recording({}):
        model.train()(batch())
    assert [tuple(values.shape) for values in calls] == [(2,)]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("part", ["roi_heads.box_predictor.0.bbox_pred", "proposal_generator.centernet_head.bbox_pred"])
def test_a_diverged_model_shows_in_its_losses(model: Any, part: str, value: float):
    """No error inside the model: all processes reach the check of the losses, and the inputs can be saved."""
    torch.nn.init.constant_(model.get_submodule(part).bias, value)
    with recording({}):
        losses = model.train()(batch())
    assert not torch.isfinite(torch.stack(list(losses.values()))).all()
    with torch.no_grad():
        for answer in model.eval()(batch()):
            assert torch.isfinite(answer["instances"].pred_boxes.tensor).all()


class Largest(TorchDispatchMode):
    """Remembers the largest tensor that was made."""

    numel = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for value in result if isinstance(result, tuple) else [result]:
            if isinstance(value, torch.Tensor):
                self.numel = max(self.numel, value.numel())
        return result


def test_targets_of_many_boxes_need_one_number_per_cell_and_box():
    grid = make_grid([(-(-512 // s), -(-512 // s)) for s in STRIDES], STRIDES)
    corner = torch.rand(100, 2) * 400
    boxes = torch.cat([corner, corner + 10 + torch.rand(100, 2) * 100], 1)
    with Largest() as largest:
        centernet_targets([boxes], None, grid, size_ranges=SIZE_RANGES)
    assert largest.numel <= 100 * len(grid.points)


@pytest.mark.parametrize("loss", [sigmoid_classification_loss, softmax_classification_loss])
def test_class_targets_take_no_int64_table(loss: Any):
    """4,000 regions times 22,000 columns of int64 would be 700 MB in each stage."""
    made = []

    class Types(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            result = func(*args, **(kwargs or {}))
            made.extend(v for v in [result] if isinstance(v, torch.Tensor) and v.dtype == torch.int64)
            return result

    background = loss is softmax_classification_loss
    logits, positions = torch.randn(6, 50 + background), torch.arange(6) * 10
    with Types():
        loss(logits, positions, scope=torch.ones(6, 50, dtype=torch.bool))
    assert max((table.numel() for table in made), default=0) <= 6

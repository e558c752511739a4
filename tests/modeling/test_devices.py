"""The detector on a pretend GPU: no tensor of the CPU meets one of the GPU, in training or at test time."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from detectron2.structures import PolygonMasks
from pretend_gpu import PretendGpu, put_on_host
from whole_models import WORDS, build, record, recording, rows_of, text_cfg

from mvseg.data.catalog import register_dataset
from mvseg.modeling.captions import CaptionReader
from mvseg.vocabulary import Scope, Vocabulary


@pytest.fixture(scope="module", autouse=True)
def datasets(tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("device_words")
    for name, words in WORDS.items():
        np.save(folder / f"{name}.npy", rows_of(words).numpy())
        broader = "animal" if name == "det_a" else "dog"  # det_b would have its words below the dog of det_a
        rows = "".join(f"{word}\t{5 + number}\t{broader}\n" for number, word in enumerate(words))
        (folder / f"{name}.tsv").write_text(f"name\timage_count\tparents\n{rows}")
        register_dataset(
            name=f"gpu_{name}",
            format="coco",
            image_root=str(folder),
            annotations=str(folder / "none.json"),
            vocabulary=str(folder / f"{name}.tsv"),
            embeddings=str(folder / f"{name}.npy"),
        )


def on_cpu(name: str, seed: int, objects: int = 3, masks: str = "") -> dict[str, Any]:
    """A record as the loader gives it: all tensors on the CPU."""
    made = record(name, seed, objects, masks=bool(masks))
    made["dataset"] = f"gpu_{name}"
    made["neg_category_ids"], made["not_exhaustive_category_ids"] = [0, 2], [1]
    instances = made["instances"]
    if masks == "polygon":
        triangle = np.array([2.0, 2, 60, 4, 20, 50])
        instances.remove("gt_masks")
        instances.gt_masks = PolygonMasks([[triangle] for _ in range(objects)])
    put_on_host([made["image"], instances.gt_boxes.tensor, instances.gt_classes])
    if masks == "bitmask":
        put_on_host(instances.gt_masks.tensor)
    return made


def test_the_pretend_gpu_finds_mistakes():
    weight = torch.ones(3)
    with PretendGpu():
        assert weight.device.type == "cuda" and torch.zeros(3).device.type == "cpu"
        assert torch.zeros(3, device=weight.device).device.type == weight.new_zeros(3).device.type == "cuda"
        assert (torch.zeros(3) + torch.zeros(3)).device.type == torch.zeros(3).exp().device.type == "cpu"
        assert torch.zeros(3).to("cuda").device.type == torch.zeros(3).to(weight).device.type == "cuda"
        assert weight.cpu().device.type == "cpu" and weight.device.type == "cuda"
        weight + torch.tensor(2.0)
        weight[torch.tensor([0, 1])]
        weight[:2] = torch.zeros(2, device=weight.device)
        torch.zeros(3).numpy()
        for mistake in (
            lambda: weight + torch.zeros(3),
            lambda: torch.zeros(3) * weight,
            lambda: torch.cat([weight, torch.zeros(3)]),
            lambda: torch.stack([weight[0], torch.tensor(0.0)]),
            lambda: torch.where(weight > 0, weight, torch.zeros(3)),
            lambda: torch.zeros(3)[weight > 0],
            lambda: weight.__setitem__(slice(0, 2), torch.zeros(2)),
            lambda: weight.index_select(0, torch.arange(2)),
            lambda: weight.numpy(),
        ):
            with pytest.raises(RuntimeError, match="pretend GPU"):
                mistake()


CONFIGS = {
    "text sigmoid": {},
    "text federated, masks": {"MODEL__CLASSIFIER__LOSS": "federated", "MODEL__MASK_ON": True},
    "text softmax": {"MODEL__CLASSIFIER__LOSS": "softmax", "MODEL__CLASSIFIER__BIAS": None},
    "linear sigmoid": {"MODEL__CLASSIFIER__NAME": "linear", "MODEL__CLASSIFIER__IGNORE_ZERO_CATS": True},
    "linear softmax": {
        "MODEL__CLASSIFIER__NAME": "linear",
        "MODEL__CLASSIFIER__LOSS": "softmax",
        "MODEL__CLASSIFIER__IGNORE_ZERO_CATS": True,
        "MODEL__ANNOTATION_SCOPE": "all",
        "MODEL__ROI_HEADS__ONE_CLASS_PER_PROPOSAL": True,
    },
    "safe and hierarchy scope, federated loss": {
        "MODEL__ANNOTATION_SCOPE": "safe+hierarchy",
        "MODEL__CLASSIFIER__LOSS": "federated",
        "MODEL__CLASSIFIER__FED_LOSS_NUM_CLASSES": 2,
    },
    "verified and federated scope": {
        "MODEL__ANNOTATION_SCOPE": "verified+federated",
        "MODEL__CLASSIFIER__FED_LOSS_NUM_CLASSES": 2,
    },
    "group scope": {"MODEL__ANNOTATION_SCOPE": "group", "MODEL__CLASSIFIER__LOSS": "softmax"},
    "merged words, GIoU": {"DATASETS__LABEL_SPACE": "merge_names", "MODEL__ROI_BOX_HEAD__BBOX_REG_LOSS_TYPE": "giou"},
}


def gpu_model(**changes: Any) -> Any:
    cfg = text_cfg("gpu_det_a", "gpu_det_b", **changes)
    cfg.DATASETS.MIX = [{"name": "gpu_det_a"}, {"name": "gpu_det_b", "loss_weight": 0.5}]
    model = build(cfg)
    space = model.label_space  # no module: it stays on the CPU
    space.image_count = space.image_count.clone()
    put_on_host([*space._columns.values(), space.embeddings, space.image_count])
    for scope in model.scopes._scopes.values():
        put_scope_on_host(scope)
    return model


def put_scope_on_host(scope: Scope) -> None:
    """Mark what the function of a scope remembers, and the functions that it calls."""
    put_on_host(dict(scope.groups or {}))
    functions: list[Any] = [scope.mask]
    while functions:
        for cell in getattr(functions.pop(), "__closure__", None) or ():
            content = cell.cell_contents
            put_on_host(content)
            functions += content if isinstance(content, list) else [content]


@pytest.mark.parametrize("changes", CONFIGS.values(), ids=CONFIGS)
def test_training_and_detection(changes: dict[str, Any]):
    masks = changes.get("MODEL__MASK_ON", False)
    model = gpu_model(**changes)
    batches = [
        [on_cpu("det_a", 1, masks="polygon" if masks else ""), on_cpu("det_b", 2)],
        [on_cpu("det_a", 3, masks="bitmask" if masks else ""), on_cpu("det_b", 4, objects=0)],
        [on_cpu("det_b", 5, objects=0)],
    ]
    for batch in batches:
        with recording({}), PretendGpu():
            losses = model.train()(batch)
            assert all(loss.device.type == "cuda" for loss in losses.values())
        sum(losses.values()).backward()
    vocabulary = Vocabulary(name="det_a", names=tuple(WORDS["det_a"]), embeddings=put_on_host(rows_of(WORDS["det_a"])))
    for spoken in (None, vocabulary):
        with torch.no_grad(), PretendGpu(), model.eval().use_vocabulary(spoken):
            found = model(batches[0])[0]["instances"]
            assert found.scores.device.type == found.pred_boxes.tensor.device.type == "cuda"
            assert found.to("cpu").scores.device.type == "cpu"


@pytest.mark.parametrize("loss", ["max_size", "max_score", "min_loss", "wsddn"])
def test_tags_and_captions(loss: str):
    model = gpu_model(MODEL__IMAGE_LABELS__LOSS=loss, MODEL__IMAGE_LABELS__NUM_COLUMNS=3).train()
    model.read_captions = CaptionReader(lambda texts: put_on_host(rows_of(list(texts))), 8)
    tagged = {**on_cpu("det_a", 1, 0), "supervision": "tags", "image_labels": [0, 2]}
    captioned = {**on_cpu("det_b", 2, 0), "supervision": "captions", "captions": ["a bus"], "image_labels": [1]}
    with PretendGpu(), recording({}):
        losses = model([tagged, on_cpu("det_b", 3), captioned])
        sum(losses.values()).backward()
    assert float(losses["image_loss_stage0"]) > 0 and float(losses["caption_loss_stage0"]) > 0

"""Files with the original names, imported: the models give the numbers that the originals gave.

The comparisons are those of ``tests/modeling/test_whole_oracles.py``: features, boxes, scores, losses, gradients.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import test_whole_oracles as whole
import torch
from oracle_numbers import Oracle
from test_whole_oracles import (  # noqa: F401  (they run here with the models below)
    test_detections,
    test_features,
    test_gradients,
    test_heatmaps_and_distances,
    test_losses,
    test_masks,
    test_proposals,
    test_stage_outputs,
)
from torch.nn.functional import normalize

from mvseg.checkpoints import AtomicCheckpointer
from mvseg.checkpoints.importing import import_weights
from mvseg.config import load_config
from mvseg.data.catalog import register_cards
from mvseg.vocabulary import Vocabulary


def original_file(oracle: Oracle, text: Any, path: Path) -> None:
    """Write the file that the original would have written, with its buffers."""
    state = oracle.state_dict(text)
    if text is not None:
        rows = normalize(torch.from_numpy(text).float(), dim=1)
        for stage in range(3):
            predictor = f"roi_heads.box_predictor.{stage}"
            state[f"{predictor}.cls_score.zs_weight"] = torch.cat([rows, rows.new_zeros(1, rows.shape[1])]).t()
            state[f"{predictor}.freq_weight"] = Vocabulary.from_table("lvis_v1").image_counts().sqrt()
    torch.save({"model": state, "iteration": 89999}, path)


@pytest.fixture(scope="module", params=["centernet2_r50_coco", "detic_r50_lvis_base"])
def done(request: pytest.FixtureRequest, oracles: Path, tmp_path_factory: pytest.TempPathFactory) -> whole.Run:
    oracle, folder = Oracle(oracles / request.param), tmp_path_factory.mktemp("imported")
    is_detic = request.param.startswith("detic")
    text = oracle.io["text_embeddings"] if is_detic else None
    original_file(oracle, text, folder / "original.pth")
    target = folder / f"{request.param}.pth"
    result = import_weights("detic" if is_detic else "centernet2", folder / "original.pth", target)
    assert not [row for row in result.rows if row.state == "missing"]
    (folder / "original.pth").unlink()
    opts = ["MODEL.ROI_HEADS.SCORE_THRESH_TEST", "0.001", "MODEL.BACKBONE.FREEZE_AT", "0", "MODEL.DEVICE", "cpu"]
    cfg = load_config(target.with_suffix(".yaml"), opts)
    for card in cfg.DATASETS.CARDS:
        register_cards(card)
    build = whole.build

    def build_imported(cfg: Any, state: Any) -> Any:
        model = build(cfg)
        checkpointer = AtomicCheckpointer(model, save_to_disk=False)
        checkpointer.load(cfg.MODEL.WEIGHTS)
        assert checkpointer.report is not None and checkpointer.report.complete
        return model

    more = {"dataset": cfg.DATASETS.TRAIN[0], "supervision": "masks" if is_detic else "boxes"}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(whole, "build", build_imported)
        return whole.run(oracle, cfg, text, with_masks=is_detic, **more)

"""The configs of multi-modal classifiers: their recipe, and that every word of LVIS finds its row in a table."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from mvseg.config import load_config
from mvseg.data.mixing import mixture_from_config
from mvseg.modeling.words import WordEmbedder
from mvseg.vocabulary import Vocabulary
from mvseg.vocabulary.embedding_files import save_embeddings

FOLDER = Path(__file__).resolve().parents[1] / "projects" / "MMOVOD" / "configs"
ROWS = ("descriptions", "examples_average", "examples_aggregator", "both_average", "both_aggregator")


@pytest.mark.parametrize("stage", ["Lbase", "LbaseI"])
def test_recipes(stage: str):
    assert len(list(FOLDER.glob("Lbase*_R50_*.yaml"))) == 2 * len(ROWS)
    for rows in ROWS:
        cfg = load_config(FOLDER / f"{stage}_R50_{rows}.yaml")
        node, solver = cfg.MODEL.CLASSIFIER, cfg.SOLVER
        assert (node.TEMPERATURE, node.BIAS, node.NORMALIZE, node.LOSS) == (50.0, -2.0, True, "federated")
        assert (f"table:output/MMOVOD/rows/{rows}.npz", "name") == (node.TEXT_ENCODER, node.PROMPTS)
        assert (solver.BASE_LR, solver.MAX_ITER, solver.IMS_PER_BATCH, solver.OPTIMIZER) == (2e-4, 90000, 64, "ADAMW")
        assert f"output/MMOVOD/{stage}_R50_{rows}" == cfg.OUTPUT_DIR
        mix = [(entry.name, entry.ratio, entry.batch_size, entry.image_size) for entry in mixture_from_config(cfg)]
        if stage == "Lbase":
            assert mix == [("lvis_v1_train_norare", 1, None, None)]
        else:
            assert mix == [("lvis_v1_train_norare", 1, 64, None), ("imagenet_lvis", 4, 256, 320)]
            assert f"output/MMOVOD/Lbase_R50_{rows}/model_final.pth" == cfg.MODEL.WEIGHTS


def test_every_word_of_lvis_finds_its_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("MVSEG_CACHE", str(tmp_path))
    words = Vocabulary.from_table("lvis_v1")
    rows = torch.nn.functional.normalize(torch.randn(len(words), 8, generator=torch.Generator().manual_seed(0)), dim=1)
    save_embeddings(tmp_path / "rows.npz", rows, words.names)
    found = WordEmbedder(f"table:{tmp_path / 'rows.npz'}", "name")(words).embeddings
    torch.testing.assert_close(found, rows, atol=1e-6, rtol=0)

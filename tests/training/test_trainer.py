"""The trainer as a whole, with a tiny model: resume to the last digit, averages, precisions, failures, files."""

from __future__ import annotations

import csv
import json
import logging
from pathlib import Path

import pytest
import torch
from detectron2.engine import HookBase
from tiny import SETS, tiny_config

from mvseg.checkpoints import AtomicCheckpointer
from mvseg.training import Trainer
from mvseg.training.hooks import BestCheckpoint
from mvseg.training.setup import prepare_datasets


class Losses(HookBase):
    """Remembers every loss, unrounded and unsmoothed."""

    def __init__(self):
        self.values = []

    def after_step(self):
        self.values.append(self.trainer.storage.latest()["total_loss"][0])


def make_trainer(cfg, resume: bool = False) -> tuple[Trainer, list[float]]:
    prepare_datasets(cfg)
    Path(cfg.OUTPUT_DIR).mkdir(parents=True, exist_ok=True)
    trainer = Trainer(cfg)
    losses = Losses()
    trainer.register_hooks([losses])
    trainer.resume_or_load(resume)
    return trainer, losses.values


def train(cfg, resume: bool = False) -> tuple[Trainer, list[float]]:
    trainer, losses = make_trainer(cfg, resume)
    trainer.train()
    return trainer, losses


def same_state(a, b) -> bool:
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same_state(a[k], b[k]) for k in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(same_state(x, y) for x, y in zip(a, b))
    return a == b


RECIPES = {
    "sgd": [],
    "adamw-ema-bf16": ["SOLVER.OPTIMIZER", "ADAMW", "SOLVER.EMA.ENABLED", True, "SOLVER.AMP.ENABLED", True],
    "fp16-cosine": ["SOLVER.AMP.ENABLED", True, "SOLVER.AMP.DTYPE", "float16", "SOLVER.LR_SCHEDULER_NAME",
                    "WarmupCosineLR"],
    "workers": ["DATALOADER.NUM_WORKERS", 2],
}  # fmt: skip


@pytest.mark.parametrize("recipe", RECIPES)
def test_resumed_run_repeats_the_uninterrupted_one(cards, tmp_path, recipe):
    opts = RECIPES[recipe]
    whole, losses = train(tiny_config(cards, tmp_path / "whole", "SOLVER.MAX_ITER", 8, *opts))
    assert len(losses) == 8 and len(set(losses)) == 8

    cfg = tiny_config(cards, tmp_path / "parts", "SOLVER.MAX_ITER", 8, "SOLVER.CHECKPOINT_PERIOD", 4, *opts)
    first, first_losses = make_trainer(cfg)

    class Abort(HookBase):
        def after_step(self):
            if self.trainer.iter == 5:  # two steps after the last checkpoint
                raise InterruptedError

    first.register_hooks([Abort()])
    with pytest.raises(InterruptedError):
        first.train()
    assert first_losses[:4] == losses[:4]

    second, second_losses = train(cfg, resume=True)
    assert second.start_iter == 4
    assert second_losses == losses[4:]
    assert same_state(whole.model.state_dict(), second.model.state_dict())
    ours, theirs = second.state_dict(), whole.state_dict()
    assert same_state(ours, theirs)


def test_evaluation_and_pictures_do_not_change_the_training(cards, tmp_path):
    _, plain = train(tiny_config(cards, tmp_path / "plain"))
    busy = ["TEST.EVAL_PERIOD", 2, "TEST.NUM_PICTURES", 2, "TEST.VALIDATION_LOSS", True]
    _, losses = train(tiny_config(cards, tmp_path / "busy", *busy))
    assert losses == plain


def test_number_of_workers_does_not_change_the_training(cards, tmp_path):
    _, alone = train(tiny_config(cards, tmp_path / "0"))
    _, helped = train(tiny_config(cards, tmp_path / "2", "DATALOADER.NUM_WORKERS", 2))
    assert alone == helped


def test_every_test_set_has_its_own_words_and_one_summary(cards, tmp_path, caplog):
    cfg = tiny_config(cards, tmp_path, "SOLVER.EMA.ENABLED", True, "TEST.VALIDATION_LOSS", True, "TEST.EVAL_PERIOD", 3)
    with caplog.at_level(logging.INFO, logger="mvseg"):
        trainer, _ = train(cfg)
    model = trainer.model
    assert model.asked == [["square", "disk"], ["disc", "star", "cross"]] * 5  # before; plain and EMA, at 3 and at 6
    assert model.words == ["none"]

    content = json.loads((tmp_path / "results.json").read_text())
    assert content["iteration"] == 5
    assert set(content["results"]) == {"tiny_a", "tiny_b", "tiny_a (EMA)", "tiny_b (EMA)"}
    assert set(content["results"]["tiny_b"]["bbox"]) > {"AP", "AP50", "AP-disc", "AP-star", "AP-cross"}
    assert content["results"]["tiny_a"]["loss"]["total"] > 0
    assert content["results"]["tiny_a"]["loss"] != content["results"]["tiny_a (EMA)"]["loss"]
    for name, words in SETS.items():
        for folder in (tmp_path / "inference", tmp_path / "ema" / "inference"):
            rows = list(csv.reader((folder / name / "per_class_AP.csv").open()))
            assert rows[0] == ["class", "bbox AP"] and [row[0] for row in rows[1:]] == list(words)
    table = next(r.getMessage() for r in caplog.records if "Results after iteration 5" in r.getMessage())
    for row in ("tiny_a", "tiny_b", "tiny_a (EMA)", "bbox AP50", "loss total"):
        assert row in table
    scalars = [json.loads(line) for line in (tmp_path / "metrics.json").read_text().splitlines()]
    assert "tiny_a/bbox/AP" in scalars[-1] and "ema/tiny_b/bbox/AP50" in scalars[-1]
    assert not any("AP-star" in name for name in scalars[-1])


def test_average_is_saved_and_is_not_the_model(cards, tmp_path):
    trainer, _ = train(tiny_config(cards, tmp_path, "SOLVER.EMA.ENABLED", True))
    final = torch.load(tmp_path / "model_final.pth", weights_only=True)["model"]
    averaged = torch.load(tmp_path / "model_final_ema.pth", weights_only=True)["model"]
    assert same_state(dict(final), dict(trainer.model.state_dict()))
    assert same_state(dict(averaged), trainer.ema.shadow)
    assert not torch.equal(final["box.weight"], averaged["box.weight"])


def test_writes_tensorboard_events_progress_and_pictures(cards, tmp_path, caplog):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    with caplog.at_level(logging.INFO):
        train(tiny_config(cards, tmp_path, "SOLVER.MAX_ITER", 24, "TEST.NUM_PICTURES", 3))
    events = EventAccumulator(str(tmp_path)).Reload()
    assert {"total_loss", "loss_box", "lr", "tiny_a/bbox/AP"} <= set(events.Tags()["scalars"])
    assert any("eta:" in record.getMessage() for record in caplog.records)
    assert "tiny_b" in next(r.getMessage() for r in caplog.records if r.getMessage().startswith("The mixture"))
    pictures = {path.name for path in (tmp_path / "pictures").iterdir()}
    assert pictures == {"train_tiny_a.jpg", "train_tiny_b.jpg", "tiny_a_0000023.jpg", "tiny_b_0000023.jpg"}


def test_best_checkpoint_follows_the_metric_and_survives_a_resume(cards, tmp_path):
    class Scripted(Trainer):
        scores = iter([10.0, 30.0, 20.0, 25.0, 28.0])

        @classmethod
        def _evaluate_all(cls, cfg, model, iteration=None):
            return {name: {"bbox": {"AP": next(cls.scores) if name == "tiny_a" else 0.0}} for name in SETS}

    opts = ["TEST.EVAL_PERIOD", 1, "TEST.BEST_METRIC", "tiny_a/bbox/AP", "SOLVER.CHECKPOINT_PERIOD", 1]
    cfg = tiny_config(cards, tmp_path, "SOLVER.MAX_ITER", 3, *opts)
    prepare_datasets(cfg)
    trainer = Scripted(cfg)
    trainer.resume_or_load(False)
    trainer.train()
    best = json.loads((tmp_path / "model_best.json").read_text())
    assert (best["iteration"], best["value"]) == (1, 30.0)
    assert torch.load(tmp_path / "model_best.pth", weights_only=True)["iteration"] == 1
    assert (tmp_path / "last_checkpoint").read_text() == "model_final.pth"  # resume goes on from the last, not the best

    trainer = Scripted(tiny_config(cards, tmp_path, "SOLVER.MAX_ITER", 5, *opts))
    trainer.resume_or_load(True)
    trainer.train()  # 25 and 28 are worse than the remembered 30
    assert json.loads((tmp_path / "model_best.json").read_text())["iteration"] == 1


def test_best_checkpoint_takes_the_smallest_loss_and_can_judge_the_average(cards, tmp_path):
    trainer, _ = train(tiny_config(cards, tmp_path / "run", "SOLVER.EMA.ENABLED", True))
    checkpointer = AtomicCheckpointer(trainer.model, str(tmp_path))
    best = BestCheckpoint(checkpointer, "ema/tiny_a/loss/total", trainer.ema)
    values = [0.5, 0.7, float("nan"), 0.4]
    assert [best.consider({"ema/tiny_a/loss/total": v}, i) for i, v in enumerate(values)] == [True, False, False, True]
    saved = torch.load(tmp_path / "model_best.pth", weights_only=True)
    assert same_state(dict(saved["model"]), trainer.ema.shadow)
    with pytest.raises(KeyError, match=r"TEST.BEST_METRIC 'ema/tiny_a/loss/total'.*tiny_a/bbox/AP"):
        best.consider({"tiny_a/bbox/AP": 1.0}, 5)
    other = BestCheckpoint(checkpointer, "tiny_a/bbox/AP")
    other.remember()  # what is written there was judged by another metric
    assert other.best is None


def test_precise_batch_statistics_are_computed_before_the_checkpoint(cards, tmp_path):
    opts = ["TEST.PRECISE_BN.ENABLED", True, "TEST.PRECISE_BN.NUM_ITER", 4, "TEST.EVAL_PERIOD", 6]
    exact, losses = train(tiny_config(cards, tmp_path / "a", *opts))
    running, same_losses = train(tiny_config(cards, tmp_path / "b", "TEST.EVAL_PERIOD", 6))
    assert losses == same_losses
    saved = torch.load(tmp_path / "a" / "model_final.pth", weights_only=True)["model"]
    assert torch.equal(saved["backbone.1.running_mean"], exact.model.backbone[1].running_mean)
    assert not torch.allclose(saved["backbone.1.running_mean"], running.model.backbone[1].running_mean)


def test_best_metric_of_an_unknown_dataset_is_refused_at_the_start(cards, tmp_path):
    cfg = tiny_config(cards, tmp_path, "TEST.BEST_METRIC", "tiny/bbox/AP")
    prepare_datasets(cfg)
    with pytest.raises(ValueError, match=r"TEST.BEST_METRIC 'tiny/bbox/AP'.*tiny_a"):
        Trainer(cfg)


def test_nan_loss_stops_and_saves_the_inputs(cards, tmp_path):
    trainer, losses = make_trainer(tiny_config(cards, tmp_path, "SOLVER.BASE_LR", 0.01))

    class Poison(HookBase):
        def before_step(self):
            if self.trainer.iter == 2:
                self.trainer.model.box.bias.data.fill_(float("nan"))

    trainer.register_hooks([Poison()])
    with pytest.raises(FloatingPointError, match=r"iteration 2: loss_box = nan.*\.png.*nan_inputs\.pt"):
        trainer.train()
    assert len(losses) == 2
    saved = torch.load(tmp_path / "nan_inputs.pt", weights_only=True)
    assert saved["iteration"] == 2 and saved["losses"].keys() == {"loss_box", "loss_small"}
    record = saved["batch"][0]
    assert len(saved["batch"]) == 4 and record["image"].shape == (3, 32, 32)
    assert record["instances"]["gt_boxes"].shape == (1, 4) and record["file_name"].endswith(".png")
    assert not (tmp_path / "model_final.pth").exists()


def test_autocast_runs_the_convolutions_in_bfloat16(cards, tmp_path):
    trainer, _ = make_trainer(tiny_config(cards, tmp_path, "SOLVER.AMP.ENABLED", True))
    seen = []
    trainer.model.backbone[0].register_forward_hook(lambda module, inputs, output: seen.append(output.dtype))
    trainer.train()
    assert seen[0] == torch.bfloat16
    assert trainer.model.box.weight.dtype == torch.float32


def test_scaler_is_only_used_for_float16_and_its_scale_is_saved(cards, tmp_path):
    trainer, _ = make_trainer(tiny_config(cards, tmp_path / "b", "SOLVER.AMP.ENABLED", True))
    assert not trainer._trainer.scaler.is_enabled()
    opts = ["SOLVER.AMP.ENABLED", True, "SOLVER.AMP.DTYPE", "float16"]
    trainer, _ = make_trainer(tiny_config(cards, tmp_path / "h", *opts))
    trainer._trainer.scaler._init_scale = 2.0**9
    trainer.train()
    state = torch.load(tmp_path / "h" / "model_final.pth", weights_only=True)["trainer"]
    assert state["_trainer"]["scaler"]["scale"] == 2.0**9


def test_resuming_with_another_model_is_refused_with_the_list(cards, tmp_path):
    train(tiny_config(cards, tmp_path))
    trainer = Trainer(tiny_config(cards, tmp_path))
    trainer.model.extra = torch.nn.Linear(2, 2)
    with pytest.raises(ValueError, match=r"(?s)another model.*missing\s+extra.bias"):
        trainer.resume_or_load(True)


def test_average_starts_from_loaded_weights(cards, tmp_path):
    trained, _ = train(tiny_config(cards, tmp_path / "a"))
    weights = ["MODEL.WEIGHTS", tmp_path / "a" / "model_final.pth", "SOLVER.EMA.ENABLED", True]
    trainer, _ = make_trainer(tiny_config(cards, tmp_path / "b", *weights))
    assert trainer.start_iter == 0
    assert torch.equal(trainer.ema.shadow["box.weight"], trained.model.box.weight)


def test_unknown_dataset_lists_the_nearest_names(cards, tmp_path):
    with pytest.raises(KeyError, match="tiny_a"):
        prepare_datasets(tiny_config(cards, tmp_path, "DATASETS.TEST", ("tiny_aa",)))


def test_test_gives_the_results_as_detectron2_does(cards, tmp_path):
    cfg = tiny_config(cards, tmp_path, "DATASETS.TEST", ("tiny_a",))
    prepare_datasets(cfg)
    model = Trainer.build_model(cfg)
    assert set(Trainer.test(cfg, model)) == {"bbox"}
    evaluators = [Trainer.build_evaluator(cfg, "tiny_a")] * 2
    with pytest.raises(ValueError, match="2 evaluators for 1 test sets"):
        Trainer.test(cfg, model, evaluators)

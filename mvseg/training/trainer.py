"""The trainer: Detectron2's DefaultTrainer with exact resume, autocast, moving average and several vocabularies."""

from __future__ import annotations

import logging
import warnings
import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.engine import DefaultTrainer, HookBase, TrainerBase, create_ddp_model, hooks
from detectron2.engine.defaults import default_writers
from detectron2.evaluation import DatasetEvaluator, DatasetEvaluators
from detectron2.evaluation.testing import flatten_results_dict
from detectron2.utils import comm
from torch import nn

import mvseg.modeling  # noqa: F401  (registers the architectures)
from mvseg.checkpoints import AtomicCheckpointer
from mvseg.data.loader import build_test_loader, build_train_loader
from mvseg.evaluation import (
    PictureEvaluator,
    average_rows,
    build_evaluator,
    evaluate_dataset,
    overall,
    read_averages,
    summary_table,
    unwrap,
    write_per_class,
    write_results,
)
from mvseg.modeling.calibration import calibration_of
from mvseg.report import write_report
from mvseg.training.ema import ModelEma
from mvseg.training.hooks import (
    BestCheckpoint,
    EmaHook,
    EvaluationHook,
    LossRatios,
    StopOnSignal,
    TrainingPictures,
)
from mvseg.training.optimizer import build_clipping, build_optimizer
from mvseg.training.parts import check_test_sets, check_training_sets, report_unreadable, unregistered_part
from mvseg.training.setup import seed_everything
from mvseg.training.step import TrainingStep, choose_precision
from mvseg.training.validation import trained_as, validation_losses

logger = logging.getLogger(__name__)

Results = dict[str, dict[str, dict[str, float]]]  # dataset -> task -> metric -> value
LOG_PERIOD = 20  # iterations between log lines, as in Detectron2


class Trainer(DefaultTrainer):
    """Train what a config describes; build methods can be overridden as those of Detectron2's DefaultTrainer.

    All random numbers of a step follow from (seed, process, iteration), so that a resumed run repeats what an
    uninterrupted one would have done, whatever happens between the steps.

    Args:
        cfg: the config.
    """

    def __init__(self, cfg: CfgNode) -> None:
        TrainerBase.__init__(self)
        cfg = self.auto_scale_workers(cfg, comm.get_world_size())
        self.cfg = cfg
        self.seed: int = cfg.SEED if cfg.SEED >= 0 else comm.shared_random_seed()
        seed_everything(self.seed)
        check_training_sets(cfg)
        model = self.build_model(cfg)
        check_test_sets(cfg, model)
        self.ema = ModelEma(model, cfg.SOLVER.EMA.DECAY) if cfg.SOLVER.EMA.ENABLED else None
        self._trainer = self._build_step(cfg, model)
        self.scheduler = self.build_lr_scheduler(cfg, self._trainer.optimizer)
        self.checkpointer = AtomicCheckpointer(model, cfg.OUTPUT_DIR, trainer=weakref.proxy(self))
        self.best = self._build_best(cfg)
        self._results: dict[str, Any] = {}
        self.start_iter = 0
        self.max_iter = cfg.SOLVER.MAX_ITER
        self.register_hooks(self.build_hooks())

    def _build_step(self, cfg: CfgNode, model: nn.Module) -> TrainingStep:
        optimizer = self.build_optimizer(cfg, model)
        loader = self.build_train_loader(cfg)
        report = getattr(loader, "report", None)
        if report is not None:
            logger.info("The mixture:\n%s", report.table())
        device = next(model.parameters()).device
        with warnings.catch_warnings(action="ignore", category=FutureWarning):  # broadcast_buffers has a newer name
            # Heads without a supervised image in a batch get no gradient, therefore find_unused_parameters.
            wrapped = create_ddp_model(
                model,
                broadcast_buffers=False,
                find_unused_parameters=True,
                device_ids=[device.index] if device.type == "cuda" else None,
            )
        wrapped.train()
        return TrainingStep(
            wrapped,
            loader,
            optimizer,
            precision=choose_precision(cfg.SOLVER.AMP.DTYPE) if cfg.SOLVER.AMP.ENABLED else None,
            clip=build_clipping(cfg),
            output_dir=cfg.OUTPUT_DIR,
            seed=self.seed,
        )

    def _build_best(self, cfg: CfgNode) -> BestCheckpoint | None:
        metric = cfg.TEST.BEST_METRIC
        if not metric:
            return None
        dataset = metric.removeprefix("ema/").partition("/")[0]
        if dataset not in cfg.DATASETS.TEST:
            raise ValueError(
                f"TEST.BEST_METRIC {metric!r}: write dataset/task/metric with a dataset of DATASETS.TEST "
                f"{tuple(cfg.DATASETS.TEST)}, such as {next(iter(cfg.DATASETS.TEST), 'coco_2017_val')}/bbox/AP"
            )
        return BestCheckpoint(self.checkpointer, metric, self.ema)

    def resume_or_load(self, resume: bool = True) -> None:
        """Go on from the last checkpoint of OUTPUT_DIR, or load MODEL.WEIGHTS.

        Args:
            resume: True goes on from the last checkpoint, if there is one.

        Raises:
            ValueError: if a run is resumed with another model than it was started with.
        """
        going_on = resume and self.checkpointer.has_checkpoint()
        self.checkpointer.resume_or_load(self.cfg.MODEL.WEIGHTS, resume=resume)
        report = self.checkpointer.report
        if going_on:
            if report is not None and not report.complete:
                raise ValueError(f"this run cannot be resumed with another model than before.\n{report.describe()}")
            self.start_iter = self.iter + 1
            if self.best is not None:
                self.best.remember()
            logger.info("Resuming at iteration %d", self.start_iter)
        elif self.ema is not None:  # the average starts from the loaded weights
            self.ema.restart(unwrap(self.model))

    def train(self) -> dict[str, Any]:
        """Train from ``start_iter`` to ``max_iter``.

        Returns:
            The last evaluation as :meth:`evaluate` gives it; empty on other processes than the main one.
        """
        super().train()
        report_unreadable(self._trainer.data_loader)
        if comm.is_main_process():
            logger.info("Weights, results, pictures, and curves for tensorboard --logdir: %s", self.cfg.OUTPUT_DIR)
            if self.cfg.TEST.REPORT:
                self._write_report()
        return self._results

    def _write_report(self) -> None:
        try:
            logger.info("One page about this run: %s", write_report(self.cfg.OUTPUT_DIR))
        except Exception:  # the weights and results are written; a page about them is no reason to fail
            logger.exception("no report could be written; python -m mvseg.report %s tries again", self.cfg.OUTPUT_DIR)

    def build_hooks(self) -> list[HookBase | None]:
        """Build the hooks; a subclass adds its own to this list.

        Returns:
            Hooks in the order in which they are called.
        """
        cfg, main = self.cfg, comm.is_main_process()
        device = next(self.model.parameters()).device
        built: list[HookBase | None] = [
            hooks.IterationTimer(),
            hooks.LRScheduler(),
            self._precise_bn() if cfg.TEST.PRECISE_BN.ENABLED else None,
            EmaHook() if self.ema is not None else None,
            # Before the evaluation: a failing evaluation loses no weights.
            hooks.PeriodicCheckpointer(self.checkpointer, cfg.SOLVER.CHECKPOINT_PERIOD) if main else None,
            EvaluationHook(cfg.TEST.EVAL_PERIOD, self._evaluate) if cfg.DATASETS.TEST else None,
        ]
        if main and cfg.TEST.NUM_PICTURES:
            rgb = cfg.INPUT.FORMAT == "RGB"
            built.append(
                TrainingPictures(cfg.OUTPUT_DIR, list(cfg.DATASETS.TRAIN), rgb=rgb, count=cfg.TEST.NUM_PICTURES)
            )
        if main:
            built.append(LossRatios.of(unwrap(self.model)))
            built.append(hooks.PeriodicWriter(self.build_writers(), period=LOG_PERIOD))
        built.append(StopOnSignal(self.checkpointer, device))
        return built

    def _precise_bn(self) -> HookBase:
        cfg = self.cfg.clone()
        cfg.defrost()
        cfg.DATALOADER.NUM_WORKERS = 0  # rarely used: no second set of worker processes
        loader = self.build_train_loader(cfg)
        return hooks.PreciseBN(cfg.TEST.EVAL_PERIOD, self.model, loader, cfg.TEST.PRECISE_BN.NUM_ITER)

    def build_writers(self) -> list[Any]:
        """Build the writers of the log line (with the time that is left), metrics.json and the TensorBoard events.

        Returns:
            Event writers.
        """
        return default_writers(self.cfg.OUTPUT_DIR, self.max_iter)

    def _evaluate(self) -> dict[str, Any]:
        iteration = min(self.iter, self.max_iter - 1)  # after training, self.iter is one further
        results = self.evaluate(self.cfg, unwrap(self.model), ema=self.ema, iteration=iteration)
        if self.best is not None and comm.is_main_process():
            self.best.consider(flatten_results_dict(results), iteration)
        self._results = results
        plain = {name: value for name, value in results.items() if name != "ema"}
        self._last_eval_results = next(iter(plain.values())) if len(plain) == 1 else plain
        return results

    @classmethod
    def evaluate(
        cls, cfg: CfgNode, model: nn.Module, *, ema: ModelEma | None = None, iteration: int | None = None
    ) -> dict[str, Any]:
        """Evaluate every dataset of DATASETS.TEST with its own vocabulary; log and write the summary.

        Args:
            cfg: the config; files go to its OUTPUT_DIR, those of the averaged weights to ``OUTPUT_DIR/ema``.
            model: the model, not wrapped.
            ema: averaged weights to evaluate as well.
            iteration: for file names and the summary.

        Returns:
            Dataset to task to metric to value, without per-class values; the results of averaged weights below "ema".
            Empty on other processes than the main one.
        """
        results = cls._evaluate_all(cfg, model, iteration)
        averaged: Results = {}
        if ema is not None:
            ema_cfg = cfg.clone()
            ema_cfg.defrost()
            ema_cfg.OUTPUT_DIR = str(Path(cfg.OUTPUT_DIR) / "ema")
            with ema.applied(model):
                averaged = cls._evaluate_all(ema_cfg, model, iteration)
        if not comm.is_main_process() or not results:
            return {}
        groups = read_averages(cfg.TEST.AVERAGES, cfg.DATASETS.TEST)
        results.update(average_rows(results, groups))
        averaged.update(average_rows(averaged, groups) if averaged else {})
        rows: dict[str, Mapping[str, Mapping[str, float]]] = {**results}
        rows.update({f"{name} (EMA)": value for name, value in averaged.items()})
        calibration = calibration_of(model)
        how = {} if calibration is None else {"calibration": calibration.describe()}
        path = Path(cfg.OUTPUT_DIR) / "results.json"
        write_results(path, rows, iteration=iteration, weights=cfg.MODEL.WEIGHTS, **how)
        when = "" if iteration is None else f" after iteration {iteration}"
        when += f" ({how['calibration']})" if how else ""
        logger.info("Results%s, in percent:\n%s", when, summary_table(rows))
        summary: dict[str, Any] = {name: overall(value) for name, value in results.items()}
        if averaged:
            summary["ema"] = {name: overall(value) for name, value in averaged.items()}
        return summary

    @classmethod
    def _evaluate_all(cls, cfg: CfgNode, model: nn.Module, iteration: int | None = None) -> Results:
        results: Results = {}
        for name in cfg.DATASETS.TEST:
            evaluator = cls.build_evaluator(cfg, name)
            if cfg.TEST.NUM_PICTURES:
                when = "" if iteration is None else f"_{iteration:07d}"
                path = Path(cfg.OUTPUT_DIR) / "pictures" / f"{name}{when}.jpg"
                words = ("object",) if cfg.TEST.EVALUATOR == "proposals" else None
                pictures = PictureEvaluator(name, path, cfg.TEST.NUM_PICTURES, words=words)
                evaluator = DatasetEvaluators([evaluator, pictures])
            found = evaluate_dataset(model, name, cls.build_test_loader(cfg, name), evaluator)
            if cfg.TEST.VALIDATION_LOSS:
                found.update(cls._validate(cfg, model, name))
            if comm.is_main_process():
                results[name] = found
                write_per_class(cls._folder(cfg, name) / "per_class_AP.csv", found)
        return results

    @classmethod
    def _validate(cls, cfg: CfgNode, model: nn.Module, name: str) -> dict[str, dict[str, float]]:
        dataset = trained_as(model, name)
        if dataset is None:
            logger.info("No validation loss of %s: no training set has its vocabulary", name)
            return {}
        return {"loss": validation_losses(model, cls.build_validation_loader(cfg, name), dataset)}

    @classmethod
    def test(cls, cfg: CfgNode, model: nn.Module, evaluators: list[DatasetEvaluator] | None = None) -> dict[str, Any]:
        """Evaluate as Detectron2's DefaultTrainer does, with own evaluators if given.

        Args:
            cfg: the config.
            model: the model.
            evaluators: one for each dataset of DATASETS.TEST; None builds them.

        Returns:
            Dataset to task to metric to value; with a single dataset only its tasks.

        Raises:
            ValueError: if the number of evaluators is not that of the test sets.
        """
        names = list(cfg.DATASETS.TEST)
        if evaluators is not None and len(evaluators) != len(names):
            raise ValueError(f"{len(evaluators)} evaluators for {len(names)} test sets {names}")
        results = {}
        for index, name in enumerate(names):
            evaluator = evaluators[index] if evaluators is not None else cls.build_evaluator(cfg, name)
            results[name] = evaluate_dataset(model, name, cls.build_test_loader(cfg, name), evaluator)
        return results[names[0]] if len(names) == 1 else results

    @staticmethod
    def _folder(cfg: CfgNode, name: str) -> Path:
        return Path(cfg.OUTPUT_DIR) / "inference" / name

    @classmethod
    def build_evaluator(cls, cfg: CfgNode, dataset_name: str) -> DatasetEvaluator:
        """Build the evaluator that TEST.EVALUATOR or the dataset's card names.

        Args:
            cfg: the config.
            dataset_name: one of DATASETS.TEST.

        Returns:
            The evaluator.
        """
        folder = str(cls._folder(cfg, dataset_name))
        return build_evaluator(dataset_name, folder, masks=cfg.MODEL.MASK_ON, kind=cfg.TEST.EVALUATOR)

    @classmethod
    def build_model(cls, cfg: CfgNode) -> nn.Module:
        """Build the model that MODEL describes.

        Args:
            cfg: the config.

        Returns:
            The model.

        Raises:
            KeyError: if a part is not registered; the message names the config key and the nearest names.
        """
        try:
            return super().build_model(cfg)
        except KeyError as error:
            message = unregistered_part(cfg, error)
            if message is None:
                raise
            raise KeyError(message) from error

    @classmethod
    def build_optimizer(cls, cfg: CfgNode, model: nn.Module) -> torch.optim.Optimizer:
        """Build the optimizer of SOLVER.

        Args:
            cfg: the config.
            model: the model.

        Returns:
            The optimizer.
        """
        return build_optimizer(cfg, model)

    @classmethod
    def build_train_loader(cls, cfg: CfgNode) -> Any:
        """Build the loader of the training mixture.

        Args:
            cfg: the config.

        Returns:
            Endless batches; with ``state_dict`` and ``load_state_dict`` if a resumed run is to go on at the next image.
        """
        return build_train_loader(cfg)

    @classmethod
    def build_test_loader(cls, cfg: CfgNode, dataset_name: str) -> Any:
        """Build the loader of one test set.

        Args:
            cfg: the config.
            dataset_name: one of DATASETS.TEST.

        Returns:
            Batches of records without annotations.
        """
        return build_test_loader(cfg, dataset_name)

    @classmethod
    def build_validation_loader(cls, cfg: CfgNode, dataset_name: str) -> Any:
        """Build the loader with which the validation loss of one test set is computed.

        Args:
            cfg: the config.
            dataset_name: one of DATASETS.TEST.

        Returns:
            Batches of records with annotations, not augmented.
        """
        return build_test_loader(cfg, dataset_name, with_annotations=True)

    def state_dict(self) -> dict[str, Any]:
        """Give everything that a resumed run needs besides the weights.

        Returns:
            Iteration, seed, hooks, optimizer, scheduler, scaler, moving average, position in the data.
        """
        state = {**super().state_dict(), "seed": self.seed}
        if self.ema is not None:
            state["ema"] = self.ema.state_dict()
        loader = self._trainer.data_loader
        if hasattr(loader, "state_dict"):
            state["loader"] = loader.state_dict()
        return state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take the state of a checkpoint.

        Args:
            state_dict: from :meth:`state_dict`; parts that it lacks keep their initial state.
        """
        super().load_state_dict(state_dict)
        self.seed = self._trainer.seed = state_dict.get("seed", self.seed)
        if self.ema is not None and "ema" in state_dict:
            self.ema.load_state_dict(state_dict["ema"])
        loader = self._trainer.data_loader
        if "loader" in state_dict and hasattr(loader, "load_state_dict"):
            loader.load_state_dict(state_dict["loader"])
        else:
            logger.warning("the position in the data is not in the checkpoint: the order of the images starts anew")

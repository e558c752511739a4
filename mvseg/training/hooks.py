"""Hooks of the training loop: moving average, best checkpoint, pictures of the input, orderly stop on a signal."""

from __future__ import annotations

import json
import logging
import math
import signal
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from detectron2.data import MetadataCatalog
from detectron2.engine import HookBase
from detectron2.engine.hooks import EvalHook
from detectron2.utils import comm
from torch import nn

from mvseg.checkpoints import AtomicCheckpointer, atomic_file
from mvseg.evaluation.run import unwrap
from mvseg.inference.drawing import captioned, save_picture, sheet
from mvseg.inference.ground_truth import draw_sample
from mvseg.training.ema import ModelEma

logger = logging.getLogger(__name__)


class EmaHook(HookBase):
    """Update the trainer's moving average after every step, and write ``model_final_ema.pth`` at the end."""

    def after_step(self) -> None:
        """Update the average."""
        self.trainer.ema.update(unwrap(self.trainer.model))

    def after_train(self) -> None:
        """Write the average as a weight file, unless the training failed."""
        if self.trainer.iter >= self.trainer.max_iter:  # only then training has ended without an error
            with self.trainer.ema.applied(unwrap(self.trainer.model)):
                self.trainer.checkpointer.save_model("model_final_ema", iteration=self.trainer.max_iter - 1)


class EvaluationHook(EvalHook):
    """Detectron2's evaluation hook, but a failure or a stop in the last iteration ends without an evaluation.

    A process that failed there would wait for the other processes' results.
    """

    def after_train(self) -> None:
        """Evaluate at the end of a complete training."""
        if self.trainer.iter >= self.trainer.max_iter:  # only then training has ended without an error
            super().after_train()


class BestCheckpoint:
    """Keep the weights of the best evaluation in ``model_best.pth``; remembers the best over a resume.

    Args:
        checkpointer: writes the file.
        metric: "dataset/task/metric" such as "coco_2017_val/bbox/AP"; below "ema/" the averaged weights are judged and
            kept. Of losses ("dataset/loss/total") the smallest is the best.
        ema: the moving average, if there is one.
    """

    def __init__(self, checkpointer: AtomicCheckpointer, metric: str, ema: ModelEma | None = None) -> None:
        self.checkpointer = checkpointer
        self.metric = metric
        self.ema = ema
        self.smaller_is_better = "/loss/" in metric
        self.best: float | None = None
        self.record = Path(checkpointer.save_dir) / "model_best.json"

    def remember(self) -> None:
        """Read what an earlier part of this run wrote; to be called when a run is resumed."""
        if self.record.is_file():
            content = json.loads(self.record.read_text())
            self.best = content["value"] if content["metric"] == self.metric else None

    def consider(self, results: Mapping[str, float], iteration: int) -> bool:
        """Write the weights if the results are better than all before.

        Args:
            results: flat name to value, as the event storage has it; on the main process.
            iteration: the iteration that was evaluated.

        Returns:
            True if the weights were written.

        Raises:
            KeyError: if there is no such metric.
        """
        if self.metric not in results:
            names = ", ".join(sorted(results))
            raise KeyError(f"TEST.BEST_METRIC {self.metric!r} is none of the metrics of this run: {names}")
        value = results[self.metric]
        if math.isnan(value):
            logger.warning("%s is nan at iteration %d; the best checkpoint stays as it is", self.metric, iteration)
            return False
        better = self.best is None or (value < self.best if self.smaller_is_better else value > self.best)
        if not better:
            return False
        logger.info(
            "%s: %.4f at iteration %d is the best so far (before: %s)", self.metric, value, iteration, self.best
        )
        self.best = value
        if self.metric.startswith("ema/") and self.ema is not None:
            with self.ema.applied(self.checkpointer.model):
                self.checkpointer.save_model("model_best", iteration=iteration)
        else:
            self.checkpointer.save_model("model_best", iteration=iteration)
        with atomic_file(self.record) as file:
            file.write(json.dumps({"metric": self.metric, "value": value, "iteration": iteration}).encode())
        return True


class LossRatios(HookBase):
    """Write how large some losses are beside others, from what the step has written: nothing waits for the device.

    Args:
        ratios: name to two losses; each is the sum over the stages, ``loss_cls`` of ``loss_cls_stage0`` and so on.
    """

    def __init__(self, ratios: Mapping[str, tuple[str, str]]) -> None:
        self.ratios = dict(ratios)

    @classmethod
    def of(cls, model: nn.Module) -> LossRatios | None:
        """Watch what the model's objectives name.

        Args:
            model: the model, not wrapped.

        Returns:
            The hook; None if there is nothing to watch.
        """
        objectives = getattr(getattr(model, "roi_heads", None), "objectives", None) or {}
        ratios = {k: pair for one in objectives.values() for k, pair in getattr(one, "watched_ratios", {}).items()}
        return cls(ratios) if ratios else None

    def after_step(self) -> None:
        """Write the ratios of this step's losses."""
        storage = self.trainer.storage
        losses = {name: value for name, (value, when) in storage.latest().items() if when == self.trainer.iter}
        for ratio, pair in self.ratios.items():
            above, below = (sum(v for k, v in losses.items() if _loss_name(k) == name) for name in pair)
            if below > 0:
                storage.put_scalar(ratio, above / below)


def _loss_name(scalar: str) -> str:
    return scalar.partition("_stage")[0]


class TrainingPictures(HookBase):
    """Draw the first training images of every dataset, as the model sees them, to ``pictures/train_<dataset>.jpg``.

    Args:
        output_dir: the run's folder.
        datasets: names of the training sets.
        rgb: True if the model's images are RGB, False for BGR.
        count: images per dataset.
        patience: iterations after which the picture is written with what has come.
    """

    def __init__(self, output_dir: str, datasets: list[str], *, rgb: bool, count: int = 8, patience: int = 50) -> None:
        self.folder = Path(output_dir) / "pictures"
        self.rgb = rgb
        self.count = count
        self.patience = patience
        self.only = datasets[0] if len(datasets) == 1 else None
        self.waiting: dict[str, list[Any]] = {name: [] for name in datasets}

    def after_step(self) -> None:
        """Take images from the batch of this step."""
        for record in self.trainer._trainer.batch if self.waiting else []:
            name = record.get("dataset", self.only)
            if name in self.waiting and len(self.waiting[name]) < self.count:
                picture = draw_sample(record, self._words(name), rgb=self.rgb)
                title = Path(str(record.get("file_name", record.get("image_id", "")))).name
                self.waiting[name].append(captioned(picture, title))
        late = self.trainer.iter - self.trainer.start_iter >= self.patience
        for name in [n for n, pictures in self.waiting.items() if late or len(pictures) == self.count]:
            self._write(name)

    @staticmethod
    def _words(name: str) -> Sequence[str]:
        metadata = MetadataCatalog.get(name)
        return metadata.get("thing_classes") or metadata.get("stuff_classes") or ()

    def after_train(self) -> None:
        """Write what is left of a short run."""
        for name in list(self.waiting):
            self._write(name)

    def _write(self, name: str) -> None:
        pictures = self.waiting.pop(name)
        if pictures:
            path = self.folder / f"train_{name}.jpg"
            save_picture(sheet(pictures, columns=4), path)
            logger.info("Pictures of the training input: %s", path)


class StopOnSignal(HookBase):
    """Finish the step, write a checkpoint and leave when the process is asked to end (SIGTERM).

    In a run of several processes all of them stop after the same step.

    Args:
        checkpointer: writes the checkpoint.
        device: where a flag is exchanged between the processes.
    """

    def __init__(self, checkpointer: AtomicCheckpointer, device: torch.device) -> None:
        self.checkpointer = checkpointer
        self.device = device
        self.asked = False
        self._before: Any = None

    def before_train(self) -> None:
        """Listen to the signal."""
        self._before = signal.signal(signal.SIGTERM, self._remember)

    def after_train(self) -> None:
        """Stop listening."""
        signal.signal(signal.SIGTERM, self._before or signal.SIG_DFL)

    def _remember(self, number: int, frame: FrameType | None) -> None:
        self.asked = True

    def after_step(self) -> None:
        """Leave if any process was asked to.

        Raises:
            SystemExit: with the code of a process ended by SIGTERM, after the checkpoint is written.
        """
        asked = self.asked
        if comm.get_world_size() > 1:
            flag = torch.tensor([float(asked)], device=self.device)
            torch.distributed.all_reduce(flag)
            asked = bool(flag.item())
        if asked:
            self.checkpointer.save(f"model_{self.trainer.iter:07d}", iteration=self.trainer.iter)
            logger.warning("SIGTERM: stopped after iteration %d; --resume goes on from here", self.trainer.iter)
            raise SystemExit(128 + signal.SIGTERM)

"""The main job: trainer, hooks, optimizer, moving average, validation loss."""

from mvseg.training.ema import ModelEma
from mvseg.training.optimizer import build_clipping, build_optimizer, clip_gradients
from mvseg.training.setup import join_process_group, setup, started_by_torchrun
from mvseg.training.trainer import Trainer
from mvseg.training.validation import validation_losses

__all__ = [
    "ModelEma",
    "Trainer",
    "build_clipping",
    "build_optimizer",
    "clip_gradients",
    "join_process_group",
    "setup",
    "started_by_torchrun",
    "validation_losses",
]

"""The training loop, its hooks, the default trainer, and starting of processes."""

# ruff: noqa: F401, I001 (re-exports)

from .defaults import DefaultPredictor, DefaultTrainer, create_ddp_model, default_argument_parser, default_setup
from .defaults import default_writers
from .hooks import BestCheckpointer, CallbackHook, EvalHook, IterationTimer, LRScheduler, PeriodicCheckpointer
from .hooks import PeriodicWriter, PreciseBN
from .launch import DEFAULT_TIMEOUT, launch
from .train_loop import AMPTrainer, HookBase, SimpleTrainer, TrainerBase

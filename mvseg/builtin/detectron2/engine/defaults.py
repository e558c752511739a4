"""The parts of a standard job: command line, setup, predictor, and the trainer that a config describes."""

import argparse
import logging
import os
import sys
import weakref
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

import detectron2.data.transforms as T
import numpy as np
import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog, build_detection_test_loader, build_detection_train_loader
from detectron2.engine import hooks
from detectron2.engine.train_loop import AMPTrainer, HookBase, SimpleTrainer, TrainerBase
from detectron2.evaluation import DatasetEvaluator, inference_on_dataset, print_csv_format, verify_results
from detectron2.modeling import build_model
from detectron2.solver import build_lr_scheduler, build_optimizer
from detectron2.utils import comm
from detectron2.utils.collect_env import collect_env_info
from detectron2.utils.env import seed_all_rng
from detectron2.utils.events import CommonMetricPrinter, EventWriter, JSONWriter, TensorboardXWriter
from detectron2.utils.file_io import PathManager
from detectron2.utils.logger import setup_logger
from fvcore.nn.precise_bn import get_bn_modules
from torch import nn
from torch.nn.parallel import DistributedDataParallel


def create_ddp_model(model: nn.Module, *, fp16_compression: bool = False, **kwargs: Any) -> nn.Module:
    """Wrap a model for data-parallel training if there are several processes.

    ``kwargs`` go to DistributedDataParallel; ``fp16_compression`` sends gradients in half precision.
    """
    if comm.get_world_size() == 1:
        return model
    if next(model.parameters()).is_cuda:
        kwargs.setdefault("device_ids", [comm.get_local_rank()])
    ddp = DistributedDataParallel(model, **kwargs)
    if fp16_compression:
        from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import fp16_compress_hook

        ddp.register_comm_hook(state=None, hook=fp16_compress_hook)
    return ddp


def default_argument_parser(epilog: str | None = None) -> argparse.ArgumentParser:
    """The command line of Detectron2's training scripts."""
    examples = f"""Examples:
  one GPU:       {sys.argv[0]} --config-file cfg.yaml
  eight GPUs:    {sys.argv[0]} --config-file cfg.yaml --num-gpus 8
  other values:  {sys.argv[0]} --config-file cfg.yaml SOLVER.BASE_LR 0.001 MODEL.WEIGHTS model.pth
  two machines:  {sys.argv[0]} --num-machines 2 --machine-rank {{0 or 1}} --dist-url tcp://HOST:PORT ...
"""
    layout = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(epilog=epilog or examples, formatter_class=layout)
    parser.add_argument("--config-file", default="", metavar="FILE", help="YAML file over the default config")
    parser.add_argument("--resume", action="store_true", help="go on from the last checkpoint in OUTPUT_DIR, if any")
    parser.add_argument("--eval-only", action="store_true", help="evaluate, do not train")
    parser.add_argument("--num-gpus", type=int, default=1, help="processes on each machine")
    parser.add_argument("--num-machines", type=int, default=1)
    parser.add_argument("--machine-rank", type=int, default=0, help="index of this machine")
    # A port of its own for every user of a shared machine, the same in all processes of one job.
    user = os.getuid() if sys.platform != "win32" else 1
    url = f"tcp://127.0.0.1:{49152 + user % 16384}"
    parser.add_argument("--dist-url", default=url, help="where the processes meet; auto: a free port of this machine")
    parser.add_argument("opts", nargs=argparse.REMAINDER, help="KEY VALUE pairs that change the config, at the end")
    return parser


def default_setup(cfg: CfgNode, args: Any) -> None:
    """Begin a job: output folder, loggers, environment and config in the log, config.yaml, seeds, cudnn."""
    rank = comm.get_rank()
    output_dir = cfg.OUTPUT_DIR
    if comm.is_main_process() and output_dir:
        PathManager.mkdirs(output_dir)
    setup_logger(output_dir or None, distributed_rank=rank, name="fvcore")
    logger = setup_logger(output_dir or None, distributed_rank=rank)
    logger.info("rank %d of %d\n%s", rank, comm.get_world_size(), collect_env_info())
    logger.info("command line: %s", args)
    config_file = getattr(args, "config_file", "")
    if config_file:
        with PathManager.open(config_file, "r") as file:
            logger.info("%s:\n%s", config_file, file.read())
    if comm.is_main_process() and output_dir:
        path = os.path.join(output_dir, "config.yaml")
        logger.info("full config, also in %s:\n%s", path, cfg.dump())
        with PathManager.open(path, "w") as file:
            file.write(cfg.dump())
    seed = cfg.get("SEED", -1)
    seed_all_rng(None if seed < 0 else seed + rank)
    if not getattr(args, "eval_only", False):
        # Not for evaluation, where the image sizes change all the time.
        torch.backends.cudnn.benchmark = cfg.get("CUDNN_BENCHMARK", False)
    precision = cfg.get("FLOAT32_PRECISION", "")
    if precision and torch.cuda.is_available():
        torch.set_float32_matmul_precision(precision)
        torch.backends.cudnn.allow_tf32 = precision != "highest"


def default_writers(output_dir: str, max_iter: int | None = None) -> list[EventWriter]:
    """Log lines, metrics.json and TensorBoard."""
    PathManager.mkdirs(output_dir)
    metrics = os.path.join(output_dir, "metrics.json")
    return [CommonMetricPrinter(max_iter), JSONWriter(metrics), TensorboardXWriter(output_dir)]


class DefaultPredictor:
    """Model of a config with its weights, for one image at a time; no batching, no data loader.

    Attributes:
        metadata: that of the first test set, else of the first training set.
    """

    def __init__(self, cfg: CfgNode) -> None:
        self.cfg = cfg.clone()
        self.model = build_model(self.cfg).eval()
        names = tuple(cfg.DATASETS.TEST) or tuple(cfg.DATASETS.TRAIN)
        if names:
            self.metadata = MetadataCatalog.get(names[0])
        DetectionCheckpointer(self.model).load(cfg.MODEL.WEIGHTS)
        shortest = cfg.INPUT.MIN_SIZE_TEST
        self.aug = T.ResizeShortestEdge([shortest, shortest], cfg.INPUT.MAX_SIZE_TEST)
        self.input_format = cfg.INPUT.FORMAT
        if self.input_format not in ("RGB", "BGR"):
            raise AssertionError(f"INPUT.FORMAT {self.input_format!r}: DefaultPredictor takes RGB and BGR")

    def __call__(self, original_image: np.ndarray) -> dict[str, Any]:
        """Predict on one image (H, W, 3), uint8, BGR whatever INPUT.FORMAT is; return the model's dict for it."""
        image = original_image[:, :, ::-1] if self.input_format == "RGB" else original_image
        height, width = image.shape[:2]
        resized = self.aug.get_transform(image).apply_image(image)
        tensor = torch.from_numpy(np.ascontiguousarray(resized, dtype=np.float32).transpose(2, 0, 1))
        with torch.no_grad():
            tensor = tensor.to(self.cfg.MODEL.DEVICE)
            return self.model([{"image": tensor, "height": height, "width": width}])[0]


def _of_inner_trainer(name: str) -> property:
    return property(lambda self: getattr(self._trainer, name), lambda self, value: setattr(self._trainer, name, value))


class DefaultTrainer(TrainerBase):
    """Everything from the config: model, optimizer, schedule, loaders, hooks, checkpoints, evaluation.

    The ``build_*`` methods and ``test`` are there to be overridden. The steps are run by :attr:`_trainer`.
    """

    def __init__(self, cfg: CfgNode) -> None:
        super().__init__()
        if not logging.getLogger("detectron2").isEnabledFor(logging.INFO):
            setup_logger()
        self.cfg = cfg = self.auto_scale_workers(cfg, comm.get_world_size())
        self.max_iter = cfg.SOLVER.MAX_ITER
        self._trainer = self._build_inner_trainer(cfg)
        self.scheduler = self.build_lr_scheduler(cfg, self._trainer.optimizer)
        self.checkpointer = DetectionCheckpointer(self._trainer.model, cfg.OUTPUT_DIR, trainer=weakref.proxy(self))
        self.register_hooks(self.build_hooks())

    def _build_inner_trainer(self, cfg: CfgNode) -> SimpleTrainer:
        # Model before loader: both draw random numbers.
        model = self.build_model(cfg)
        optimizer = self.build_optimizer(cfg, model)
        loader = self.build_train_loader(cfg)
        steps = AMPTrainer if cfg.SOLVER.AMP.ENABLED else SimpleTrainer
        return steps(create_ddp_model(model, broadcast_buffers=False), loader, optimizer)

    def resume_or_load(self, resume: bool = True) -> None:
        """Go on from OUTPUT_DIR's last checkpoint with everything, if asked and there; else load only MODEL.WEIGHTS."""
        resumed = resume and self.checkpointer.has_checkpoint()
        self.checkpointer.resume_or_load(self.cfg.MODEL.WEIGHTS, resume=resume)
        if resumed:
            self.start_iter = self.iter + 1  # the checkpoint was written after iteration self.iter

    def build_hooks(self) -> list[HookBase | None]:
        """Timer, learning rate, precise BN, checkpoints, evaluation, writers: in this order."""
        cfg = self.cfg.clone()
        cfg.defrost()
        cfg.DATALOADER.NUM_WORKERS = 0  # for the second loader, which is rarely used
        main = comm.is_main_process()
        precise_bn = None
        if cfg.TEST.PRECISE_BN.ENABLED and get_bn_modules(self.model):
            loader = self.build_train_loader(cfg)
            precise_bn = hooks.PreciseBN(cfg.TEST.EVAL_PERIOD, self.model, loader, cfg.TEST.PRECISE_BN.NUM_ITER)
        # Evaluation comes after the checkpoint, which then survives if the evaluation fails.
        return [
            hooks.IterationTimer(),
            hooks.LRScheduler(),
            precise_bn,
            hooks.PeriodicCheckpointer(self.checkpointer, cfg.SOLVER.CHECKPOINT_PERIOD) if main else None,
            hooks.EvalHook(cfg.TEST.EVAL_PERIOD, self._evaluate),
            hooks.PeriodicWriter(self.build_writers(), period=20) if main else None,
        ]

    def _evaluate(self) -> Mapping[str, Any]:
        self._last_eval_results = self.test(self.cfg, self.model)
        return self._last_eval_results

    def build_writers(self) -> list[EventWriter]:
        """The event writers of rank 0."""
        return default_writers(self.cfg.OUTPUT_DIR, self.max_iter)

    def train(self) -> Mapping[str, Any] | None:  # type: ignore[override]
        """Train; return the last evaluation where TEST.EXPECTED_RESULTS were checked (rank 0)."""
        super().train(self.start_iter, self.max_iter)
        if not self.cfg.TEST.EXPECTED_RESULTS or not comm.is_main_process():
            return None
        if not hasattr(self, "_last_eval_results"):
            raise AssertionError("TEST.EXPECTED_RESULTS is set, but nothing was evaluated")
        verify_results(self.cfg, self._last_eval_results)
        return self._last_eval_results

    def run_step(self) -> None:
        self._trainer.iter = self.iter
        self._trainer.run_step()

    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | {"_trainer": self._trainer.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        self._trainer.load_state_dict(state_dict["_trainer"])

    @classmethod
    def build_model(cls, cfg: CfgNode) -> nn.Module:
        model = build_model(cfg)
        logging.getLogger(__name__).info("model:\n%s", model)
        return model

    @classmethod
    def build_optimizer(cls, cfg: CfgNode, model: nn.Module) -> torch.optim.Optimizer:
        return build_optimizer(cfg, model)

    @classmethod
    def build_lr_scheduler(cls, cfg: CfgNode, optimizer: torch.optim.Optimizer) -> Any:
        return build_lr_scheduler(cfg, optimizer)

    @classmethod
    def build_train_loader(cls, cfg: CfgNode) -> Any:
        return build_detection_train_loader(cfg)

    @classmethod
    def build_test_loader(cls, cfg: CfgNode, dataset_name: str) -> Any:
        return build_detection_test_loader(cfg, dataset_name)

    @classmethod
    def build_evaluator(cls, cfg: CfgNode, dataset_name: str) -> DatasetEvaluator:
        """Subclasses say how a test set is evaluated."""
        raise NotImplementedError(f"{cls.__name__} has no build_evaluator: override it, or give evaluators to test()")

    @classmethod
    def test(cls, cfg: CfgNode, model: nn.Module, evaluators: Any = None) -> dict[str, Any]:
        """Evaluate every test set; the result is one dict for each, or that of the only one itself."""
        if isinstance(evaluators, DatasetEvaluator):
            evaluators = [evaluators]
        names = list(cfg.DATASETS.TEST)
        if evaluators is not None and len(evaluators) != len(names):
            raise AssertionError(f"{len(evaluators)} evaluators for {len(names)} test sets {names}")
        logger = logging.getLogger(__name__)
        results: dict[str, Any] = OrderedDict()
        for index, name in enumerate(names):
            loader = cls.build_test_loader(cfg, name)
            try:
                evaluator = cls.build_evaluator(cfg, name) if evaluators is None else evaluators[index]
            except NotImplementedError as error:
                logger.warning("%s is not evaluated: %s", name, error)
                results[name] = {}
                continue
            results[name] = inference_on_dataset(model, loader, evaluator)
            if comm.is_main_process():
                logger.info("results on %s:", name)
                print_csv_format(results[name])
        return next(iter(results.values())) if len(results) == 1 else results

    @staticmethod
    def auto_scale_workers(cfg: CfgNode, num_workers: int) -> CfgNode:
        """Fit a config that was written for SOLVER.REFERENCE_WORLD_SIZE processes to another number of them.

        The batch per process stays, so the whole batch and the learning rate scale with the number of processes and
        everything that counts iterations with its inverse. 0 as reference: the config is returned as it is.
        """
        reference = cfg.SOLVER.REFERENCE_WORLD_SIZE
        if reference in (0, num_workers):
            return cfg
        if cfg.SOLVER.IMS_PER_BATCH % reference:
            raise AssertionError(f"SOLVER.IMS_PER_BATCH {cfg.SOLVER.IMS_PER_BATCH} does not divide by {reference}")
        factor = num_workers / reference
        frozen = cfg.is_frozen()
        cfg = cfg.clone()
        cfg.defrost()
        solver = cfg.SOLVER
        solver.REFERENCE_WORLD_SIZE = num_workers
        solver.IMS_PER_BATCH = round(solver.IMS_PER_BATCH * factor)
        solver.BASE_LR *= factor
        for key in ("MAX_ITER", "WARMUP_ITERS", "CHECKPOINT_PERIOD"):
            solver[key] = round(solver[key] / factor)
        cfg.TEST.EVAL_PERIOD = round(cfg.TEST.EVAL_PERIOD / factor)
        solver.STEPS = tuple(round(step / factor) for step in solver.STEPS)
        changed = {key: solver[key] for key in ("IMS_PER_BATCH", "BASE_LR", "MAX_ITER", "WARMUP_ITERS")}
        logging.getLogger(__name__).info("scaled from %d to %d processes: %s", reference, num_workers, changed)
        if frozen:
            cfg.freeze()
        return cfg

    model = _of_inner_trainer("model")
    data_loader = _of_inner_trainer("data_loader")
    optimizer = _of_inner_trainer("optimizer")

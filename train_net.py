"""The main job: train, resume or evaluate what a config file describes.

    python train_net.py --config-file configs/quickstart/world.yaml             train, then evaluate
    python train_net.py --config-file ... --resume                             go on from the last checkpoint
    python train_net.py --config-file ... --eval-only MODEL.WEIGHTS model.pth  evaluate
    python train_net.py --config-file ... --num-gpus 8                         one process for each GPU
    torchrun --nproc-per-node 8 train_net.py --config-file ...                 the same, started by torchrun

KEY VALUE pairs at the end override the file, for example SOLVER.MAX_ITER 1000 OUTPUT_DIR output/mine.
"""

from __future__ import annotations

import argparse
import logging
import sys
import traceback
from collections.abc import Sequence
from typing import Any

import mvseg  # noqa: F401  (first: it makes detectron2 importable)

# isort: split
import torch
from detectron2.engine import default_argument_parser, launch
from detectron2.evaluation import verify_results
from detectron2.utils import comm
from torch.multiprocessing import ProcessRaisedException

from mvseg.checkpoints import AtomicCheckpointer
from mvseg.command_line import error_text
from mvseg.training import Trainer, join_process_group, setup, started_by_torchrun

logger = logging.getLogger("mvseg.train_net")


def main(args: argparse.Namespace) -> dict[str, Any]:
    """Run the job in this process, one of those of the process group if there is one.

    Args:
        args: from Detectron2's ``default_argument_parser``.

    Returns:
        The results of the evaluation, dataset to task to metric to value; empty on other processes than the main one.
    """
    cfg = setup(args)
    if args.eval_only:
        model = Trainer.build_model(cfg)
        if not cfg.MODEL.WEIGHTS and not args.resume:
            logger.warning("MODEL.WEIGHTS is empty and --resume is not given: evaluating random weights")
        AtomicCheckpointer(model, save_dir=cfg.OUTPUT_DIR).resume_or_load(cfg.MODEL.WEIGHTS, resume=args.resume)
        results = Trainer.evaluate(cfg, model)
        if comm.is_main_process() and cfg.TEST.EXPECTED_RESULTS:
            verify_results(cfg, next(iter(results.values())) if len(results) == 1 else results)
        return results
    trainer = Trainer(cfg)
    trainer.resume_or_load(resume=args.resume)
    return trainer.train()


def run(args: argparse.Namespace) -> None:
    """Start the processes that the command line or torchrun asks for.

    Args:
        args: from Detectron2's ``default_argument_parser``.
    """
    if started_by_torchrun():
        join_process_group()
        try:
            main(args)
            comm.synchronize()  # the first process writes the report alone; one that leaves before it may be aborted
        finally:
            torch.distributed.destroy_process_group()
        return
    launch(
        main,
        args.num_gpus,
        num_machines=args.num_machines,
        machine_rank=args.machine_rank,
        dist_url=args.dist_url,
        args=(args,),
    )


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line, which is Detectron2's own.

    Args:
        arguments: what stands behind the command; None takes it from the process.

    Returns:
        The arguments.
    """
    parser = default_argument_parser(epilog=__doc__)
    parsed = parser.parse_args(arguments)
    if not parsed.config_file:
        parser.error("--config-file is missing; configs/quickstart/world.yaml is a small one")
    return parsed


def explain(error: BaseException) -> str:
    """Write an error so that its message stands last and readable.

    Args:
        error: the error that ended the job.

    Returns:
        The traceback; below it the message, with what was being done.
    """
    if isinstance(error, ProcessRaisedException):
        return str(error)  # the traceback of the process that failed
    trace = traceback.TracebackException.from_exception(error)
    notes = getattr(error, "__notes__", [])
    return "\n".join(["".join(trace.format()), f"train_net.py: {error_text(error)}", *notes])


if __name__ == "__main__":
    arguments = parse()
    try:
        run(arguments)
    except Exception as error:
        print(explain(error), file=sys.stderr)
        sys.exit(1)

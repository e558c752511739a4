"""Count what a detector reports of every word in images that are no test set, and keep it for its calibration.

    python -m mvseg.inference.prior --config-file F --weights W --vocabulary lvis_v1 --images photos --output prior.json
    python -m mvseg.inference.prior --config-file F --weights W --vocabulary lvis_v1 --dataset NAME --output prior.json

MODEL.CALIBRATION.PRIOR prior.json (with MODEL.CALIBRATION.ENABLED True) then calibrates with it.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch

from mvseg.checkpoints import atomic_file
from mvseg.command_line import run_command
from mvseg.config import load_config
from mvseg.data.catalog import get_vocabulary
from mvseg.data.loader import build_test_loader
from mvseg.inference.calibration import describe_counts
from mvseg.inference.media import find_images
from mvseg.inference.predictor import Predictor
from mvseg.modeling.priors import Prior


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line.

    Args:
        arguments: what stands behind the command; None takes it from the process.

    Returns:
        The arguments.
    """
    parser = argparse.ArgumentParser(prog="python -m mvseg.inference.prior", description=__doc__.partition("\n")[0])
    parser.add_argument("--config-file", required=True, help="the config of the training")
    parser.add_argument("--weights", help="the weight file (MODEL.WEIGHTS of the config)")
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--images", nargs="+", help="images, patterns or folders")
    where.add_argument("--dataset", help="a dataset, of which only the images are looked at")
    parser.add_argument("--recursive", action="store_true", help="look into the folders of folders")
    parser.add_argument(
        "--vocabulary", help="the words that are to be calibrated (those of the dataset, or of the training)"
    )
    parser.add_argument("--output", required=True, type=Path, help="the file to write, .json")
    parser.add_argument("--opts", nargs=argparse.REMAINDER, default=[], help="KEY VALUE pairs over the config")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        arguments: what stands behind the command; None takes it from the process.

    Returns:
        Exit code.
    """
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    asked = parse(arguments)
    return run_command(lambda: _write(asked), in_processes=False)


def _write(asked: argparse.Namespace) -> None:
    prior = _count(asked)
    with atomic_file(asked.output) as file:
        file.write(prior.to_json().encode())
    print(f"{asked.output}: {prior.images} images of {prior.source}")


def _count(asked: argparse.Namespace) -> Prior:
    cfg = load_config(asked.config_file, asked.opts)
    cfg.MODEL.CALIBRATION.ENABLED, cfg.MODEL.CALIBRATION.PRIOR = True, "none"
    predictor = Predictor(cfg, asked.weights, asked.vocabulary)
    if asked.dataset and asked.vocabulary is None:
        predictor.set_vocabulary(get_vocabulary(asked.dataset))
    batches: Iterable[list[dict[str, Any]]]
    if asked.dataset:
        batches, source = build_test_loader(predictor.cfg, asked.dataset), f"dataset {asked.dataset}"
    else:
        batches, source = predictor.records(find_images(asked.images, asked.recursive)), " ".join(asked.images)
    prior = predictor.count(batches, source)
    counts = torch.tensor([prior.counts[word] for word in predictor.names], dtype=torch.float64)
    logging.getLogger(__name__).info("%s", describe_counts(predictor.names, counts))
    return prior


if __name__ == "__main__":
    sys.exit(main())

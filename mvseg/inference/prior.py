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
from mvseg.config import load_config
from mvseg.data.catalog import get_vocabulary
from mvseg.data.loader import build_test_loader
from mvseg.inference.calibration import count_detections, describe_counts
from mvseg.inference.media import find_images
from mvseg.inference.predictor import Predictor
from mvseg.modeling.calibration import calibration_of
from mvseg.modeling.priors import Prior


def make_prior(predictor: Predictor, batches: Iterable[list[dict[str, Any]]], source: str) -> Prior:
    """Count what a predictor's detector reports of every one of its words.

    Args:
        predictor: with ``MODEL.CALIBRATION.ENABLED``.
        batches: records as the model takes them.
        source: what to call the images.

    Returns:
        The counts, with where they are from.
    """
    counts, images = count_detections(predictor.model, batches)
    calibration = calibration_of(predictor.model)
    threshold = 0.0 if calibration is None else calibration.count_threshold
    found = dict(zip(predictor.names, counts.tolist(), strict=True))
    return Prior(found, images, source, str(predictor.cfg.MODEL.WEIGHTS), threshold)


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
    try:
        prior = _count(asked)
    except (OSError, KeyError, ValueError) as error:
        print(f"error: {error.args[0] if error.args else error}", file=sys.stderr)
        return 1
    with atomic_file(asked.output) as file:
        file.write(prior.to_json().encode())
    print(f"{asked.output}: {prior.images} images of {prior.source}")
    return 0


def _count(asked: argparse.Namespace) -> Prior:
    cfg = load_config(asked.config_file, asked.opts)
    cfg.MODEL.CALIBRATION.ENABLED, cfg.MODEL.CALIBRATION.PRIOR = True, "none"
    predictor = Predictor(cfg, asked.weights, asked.vocabulary)
    if asked.dataset:
        if asked.vocabulary is None:
            predictor.set_vocabulary(get_vocabulary(asked.dataset))
        prior = make_prior(predictor, build_test_loader(predictor.cfg, asked.dataset), f"dataset {asked.dataset}")
    else:
        places = " ".join(asked.images)
        prior = make_prior(predictor, predictor.records(find_images(asked.images, asked.recursive)), places)
    counts = torch.tensor([prior.counts[word] for word in predictor.names], dtype=torch.float64)
    logging.getLogger(__name__).info("%s", describe_counts(predictor.names, counts))
    return prior


if __name__ == "__main__":
    sys.exit(main())

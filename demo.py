"""Detect and segment with any words in images, folders, videos or from a camera.

    python demo.py --run output/quickstart --input photos --vocabulary "cat, red car" --output found
    python demo.py --config-file CONFIG --weights FILE --input a.jpg 'b/*.png' --vocabulary lvis --json found.json
    python demo.py --run output/quickstart --video-input a.mp4 --vocabulary words.txt --output found.mp4

Ends with 0 if all went well, 1 after an error, 2 for a wrong command line, and 3 if some images could not be read.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

import mvseg  # noqa: F401  (first: it makes detectron2 importable)

# isort: split
from mvseg.command_line import error_text
from mvseg.inference import ExampleOptions, Predictor, parse_thresholds, parse_words
from mvseg.inference.building import find_run
from mvseg.inference.job import Summary, predict_images, predict_video
from mvseg.inference.media import VideoReader, find_images

SOME_UNREADABLE = 3


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line; flags that Detectron2's and Detic's demos have too mean the same.

    Args:
        arguments: what stands behind the command; None takes it from the process.

    Returns:
        The arguments.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument_group("model").add_argument
    add("--run", type=Path, metavar="DIR", help="OUTPUT_DIR of a training: its config and its weights")
    add("--config-file", metavar="FILE", help="config of the training, where --run is not given")
    add("--weights", metavar="FILE", help="weight file; with --run also final, best or final_ema")
    add("--device", help="such as cuda or cpu; else as in the config")
    add("--cpu", dest="device", action="store_const", const="cpu", help="the same as --device cpu")
    add("--amp", action="store_true", help="compute in SOLVER.AMP.DTYPE where that is safe")
    add("--batch-size", type=int, default=1, metavar="N", help="images at a time")
    add = parser.add_argument_group("input").add_argument
    add("--input", nargs="+", metavar="PLACE", help="images, patterns such as 'photos/*.jpg', and folders")
    add("--recursive", action="store_true", help="look into the folders of folders")
    add("--video-input", metavar="FILE", help="a video")
    add("--webcam", nargs="?", type=int, const=0, metavar="NUMBER", help="a camera; without a number the first one")
    add("--max-frames", type=int, default=0, metavar="N", help="stop a video or a camera after N frames")
    add = parser.add_argument_group("words").add_argument
    words = "a built-in table (lvis ...), a dataset, a file of names, or 'cat, red car, sofa=a couch|a settee'"
    add("--vocabulary", metavar="WORDS", help=f"{words}; else the words of the training")
    add("--custom_vocabulary", "--custom-vocabulary", metavar="WORDS", help="words, after --vocabulary custom")
    add("--examples", metavar="PLACE", help="pictures of what to look for: FOLDER/WORD/IMAGE, a .csv of boxes, a "
        "dataset; without --vocabulary by the pictures alone, with it by both")  # fmt: skip
    add("--fusion-weight", type=float, default=1.0, metavar="A", help="weight of the pictures beside the text")
    add("--aggregator", metavar="FILE", help="what makes one row of the pictures of a word; else their average")
    add("--image-encoder", default="", metavar="ENCODER", help="the image side of the detector's text encoder, where "
        "its config does not name that")  # fmt: skip
    add = parser.add_argument_group("detections").add_argument
    add("--confidence-threshold", type=float, default=0.5, metavar="P", help="scores are above it")
    add("--word-thresholds", default="", metavar="LIST", help="thresholds of single words: 'cat=0.3, red car=0.6'")
    add("--nms", choices=("class", "agnostic", "none"), help="boxes suppress worse ones of their word, of all, of none")
    add("--nms-threshold", type=float, metavar="IOU", help="overlap from which boxes are suppressed")
    add("--max-detections", type=int, metavar="N", help="most detections in an image")
    add = parser.add_argument_group("output").add_argument
    add("--output", type=Path, metavar="PLACE", help="folder or file for pictures with detections, or for the video")
    add("--json", type=Path, metavar="FILE", help="all detections as one COCO file, masks as RLE")
    add("--contact-sheet", type=Path, metavar="FILE", help="one picture of small pictures")
    add("--show", action="store_true", help="show the frames of a video in a window")
    parser.add_argument("--opts", default=[], nargs=argparse.REMAINDER, help="last: config overrides, KEY VALUE ...")
    args = parser.parse_args(arguments)
    check(parser, args)
    return args


def check(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """End with a message if the arguments contradict each other; a camera without an output gets a window.

    Args:
        parser: for the message.
        args: the arguments.
    """
    if (args.run is None) == (args.config_file is None):
        parser.error("give either --run or --config-file")
    if [args.input, args.video_input, args.webcam].count(None) != 2:
        parser.error("give one of --input, --video-input and --webcam")
    if (args.vocabulary == "custom") != (args.custom_vocabulary is not None):
        parser.error("--vocabulary custom and --custom_vocabulary WORDS go together")
    outputs = (args.output, args.json, args.contact_sheet)
    args.show = args.show or (args.webcam is not None and not any(outputs))
    if not any((*outputs, args.show)):
        parser.error("give --output, --json or --contact-sheet, before --opts: where shall the detections go?")


def run(args: argparse.Namespace) -> Summary:
    """Do what the command line says.

    Args:
        args: from :func:`parse`.

    Returns:
        What was done, and what could not be read.
    """
    # Looked for before the model is built: a typing error shows at once.
    images = find_images(args.input, args.recursive) if args.input else []
    video = None if args.input else VideoReader(args.video_input if args.webcam is None else args.webcam)
    config, weights = find_run(args.run, args.weights or "") if args.run else (args.config_file, args.weights)
    predictor = Predictor(
        config,
        weights,
        parse_words(args.custom_vocabulary) if args.custom_vocabulary is not None else args.vocabulary,
        score_threshold=args.confidence_threshold,
        word_thresholds=parse_thresholds(args.word_thresholds),
        nms=args.nms,
        nms_threshold=args.nms_threshold,
        max_detections=args.max_detections,
        batch_size=args.batch_size,
        device=args.device,
        amp=args.amp,
        opts=args.opts,
        examples=args.examples,
        example_options=ExampleOptions(args.image_encoder, args.fusion_weight, args.aggregator),
    )
    places = (args.output, args.json, args.contact_sheet)
    if video is not None:
        return predict_video(predictor, video, *places, max_frames=args.max_frames, show=args.show)
    return predict_images(predictor, images, *places)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        arguments: what stands behind the command; None takes it from the process.

    Returns:
        The exit code.
    """
    args = parse(arguments)
    logging.basicConfig(format="%(message)s")
    logging.getLogger("mvseg.inference").setLevel(logging.INFO)
    try:
        summary = run(args)
    except (OSError, ValueError, KeyError, ImportError) as error:
        print(f"demo.py: {error_text(error)}", file=sys.stderr)
        return 1
    print(summary.describe())
    return SOME_UNREADABLE if summary.errors else 0


if __name__ == "__main__":
    sys.exit(main())

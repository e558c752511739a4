"""Prediction on many images or a video, with everything that is written: pictures, JSON, contact sheet, video."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

import cv2
import numpy as np
from detectron2.structures import Instances

from mvseg.inference.drawing import captioned, draw_predictions, save_picture, sheet
from mvseg.inference.media import VideoError, VideoReader, VideoWriter
from mvseg.inference.output import CocoResults
from mvseg.inference.predictor import Predictor
from mvseg.inference.progress import Progress

logger = logging.getLogger(__name__)

SHEET_PICTURES = 60  # most pictures of a contact sheet; evenly spread ones are taken
SHEET_HEIGHT, SHEET_COLUMNS = 220, 5  # pixels of a picture; pictures in a row
KEPT_ENDINGS = (".jpg", ".jpeg", ".png", ".webp")  # other images are drawn as JPEG
STOP_KEYS = (27, ord("q"))  # Escape and q close the window


@dataclass
class Summary:
    """What a job did: images or frames with answers, detections, and what went wrong, one text each."""

    images: int = 0
    detections: int = 0
    errors: list[str] = field(default_factory=list)

    def count(self, instances: Instances) -> None:
        """Count an answer.

        Args:
            instances: detections of an image.
        """
        self.images += 1
        self.detections += len(instances)

    def describe(self) -> str:
        """Write the summary.

        Returns:
            One line, and one for each error.
        """
        head = f"{self.images} images, {self.detections} detections, {len(self.errors)} errors"
        return "\n".join([head, *(f"  {error}" for error in self.errors)])


def predict_images(
    predictor: Predictor,
    images: Sequence[Path],
    output: Path | None = None,
    json_file: Path | None = None,
    contact_sheet: Path | None = None,
) -> Summary:
    """Detect in image files; those that cannot be read are listed, and the others go on.

    Args:
        predictor: model and words.
        images: the files.
        output: where pictures with the detections go: a folder, or for one image also a file; None: nowhere.
        json_file: file for all detections in COCO's form, or None.
        contact_sheet: file for one picture of small pictures, or None.

    Returns:
        The summary.
    """
    summary, results, cells = Summary(), _results(predictor), []
    names = picture_names(images, output) if output is not None else {}
    chosen = set(np.linspace(0, len(images) - 1, min(len(images), SHEET_PICTURES)).astype(int).tolist())
    progress = Progress(len(images), "images")
    for number, answer in enumerate(predictor.stream(images)):
        progress.step()
        if answer.image is None or answer.instances is None:
            summary.errors.append(answer.error)
            logger.warning("%s", answer.error)
            continue
        summary.count(answer.instances)
        results.add(Path(answer.source).as_posix(), answer.instances)
        if answer.source in names:
            save_picture(_draw_frame(answer.image, answer.instances, predictor.names), names[answer.source])
        if contact_sheet is not None and number in chosen:
            small = draw_predictions(answer.image, answer.instances, predictor.names, 0, SHEET_HEIGHT)
            cells.append(captioned(small, Path(answer.source).name))
    progress.close()
    if json_file is not None:
        results.write(json_file)
    if contact_sheet is not None and cells:
        if len(images) > SHEET_PICTURES:
            logger.info("The contact sheet shows %d of %d images", len(cells), len(images))
        save_picture(sheet(cells, SHEET_COLUMNS), contact_sheet)
    return summary


def predict_video(
    predictor: Predictor,
    video: VideoReader,
    output: Path | None = None,
    json_file: Path | None = None,
    contact_sheet: Path | None = None,
    max_frames: int = 0,
    show: bool = False,
) -> Summary:
    """Detect in the frames of a video or a camera.

    Args:
        predictor: model and words.
        video: the frames.
        output: the video to write, at the frame rate of the input: a file, or a folder for one of the same name.
        json_file: file for all detections in COCO's form, a frame being an image, or None.
        contact_sheet: file for one picture of small pictures of evenly spread frames, or None.
        max_frames: stop after so many; 0: at the end of the video.
        show: show the frames in a window, until Escape or q is pressed.

    Returns:
        The summary; frames that the video announces but does not give are an error of it.
    """
    summary, results, cells = Summary(), _results(predictor), _Spread(SHEET_PICTURES)
    total = min(video.count, max_frames) if video.count and max_frames else video.count or max_frames
    progress, stopped = Progress(total, "frames"), False
    with VideoWriter(video_name(video, output), video.rate) if output else nullcontext() as writer:
        for number, answer in enumerate(predictor.stream(islice(video, max_frames or None))):
            assert answer.image is not None and answer.instances is not None  # frames are no files
            progress.step()
            summary.count(answer.instances)
            results.add(video.name, answer.instances, frame=number)
            if writer or show or contact_sheet:
                drawn = _draw_frame(answer.image, answer.instances, predictor.names)
                cells.add(number, drawn)
                if writer:
                    writer.write(drawn)
                stopped = show and _show(drawn, video.name)
            if stopped:
                break
    progress.close()
    if json_file is not None:
        results.write(json_file)
    if contact_sheet is not None:
        save_picture(sheet([_cell(f, f"frame {n}") for n, f in cells.items()], SHEET_COLUMNS), contact_sheet)
    if video.missing and not max_frames and not stopped:
        summary.errors.append(f"{video.name}: only {video.read} of {video.count} frames could be read")
    return summary


def picture_names(images: Sequence[Path], output: Path) -> dict[Path, Path]:
    """Choose where the picture of each image goes.

    Args:
        images: the image files.
        output: a folder; or a file name with an ending, if there is only one image.

    Returns:
        Image to file in the folder: its own name, below folders where names would be equal; ``.jpg`` is added to
        endings that are not written.

    Raises:
        ValueError: if the output is a file, but there are several images, or it is an input.
    """
    if output.suffix and not output.is_dir():
        if len(images) != 1:
            raise ValueError(f"--output {output} is a file, but there are {len(images)} images: name a folder")
        targets = {images[0]: output}
    else:
        names = {image: image.name + ("" if image.suffix.lower() in KEPT_ENDINGS else ".jpg") for image in images}
        several = {name for name, count in Counter(names.values()).items() if count > 1}
        targets = {}
        for image, name in names.items():
            folder = output
            if name in several:  # the folders of the image, from the first one in which it differs from the others
                folder = output / _inner_folder(image, [i for i in images if names[i] == name])
            targets[image] = folder / name
    same = [image for image, target in targets.items() if target.resolve() == image.resolve()]
    if same:
        raise ValueError(f"the picture would overwrite the image {same[0]}: name another --output")
    return targets


def video_name(video: VideoReader, output: Path) -> Path:
    """Choose the file of the written video.

    Args:
        video: what is read.
        output: a file, or a folder.

    Returns:
        The file; in a folder the name of the video, as .mp4.
    """
    return output if output.suffix and not output.is_dir() else output / f"{Path(video.name).stem}.mp4"


def _inner_folder(image: Path, others: Sequence[Path]) -> Path:
    parts = [path.resolve().parent.parts for path in others]
    shared = 0
    while all(len(p) > shared and p[shared] == parts[0][shared] for p in parts):
        shared += 1
    return Path(*image.resolve().parent.parts[shared:])


class _Spread:
    """Keep at most about ``count`` evenly spread items of a stream of unknown length."""

    def __init__(self, count: int) -> None:
        self._count, self._step = count, 1
        self._kept: dict[int, np.ndarray] = {}

    def add(self, number: int, item: np.ndarray) -> None:
        if number % self._step:
            return
        self._kept[number] = item
        if len(self._kept) > self._count:
            self._step *= 2
            self._kept = {n: kept for n, kept in self._kept.items() if n % self._step == 0}

    def items(self) -> Iterable[tuple[int, np.ndarray]]:
        return self._kept.items()


def _results(predictor: Predictor) -> CocoResults:
    cfg = predictor.cfg
    heads = cfg.MODEL.ROI_HEADS
    return CocoResults(
        predictor.vocabulary,
        {
            "weights": cfg.MODEL.WEIGHTS,
            "score_threshold": predictor.score_threshold,
            "nms_threshold": heads.NMS_THRESH_TEST,
            "nms": "agnostic" if heads.NMS_CLASS_AGNOSTIC else "class",
            "max_detections": cfg.TEST.DETECTIONS_PER_IMAGE,
        },
    )


def _draw_frame(image: np.ndarray, instances: Instances, names: Sequence[str]) -> np.ndarray:
    """A picture of the frame's size; drawing itself may round that by a pixel."""
    drawn = draw_predictions(image, instances, names, 0, image.shape[0])
    return drawn if drawn.shape == image.shape else cv2.resize(drawn, (image.shape[1], image.shape[0]))


def _cell(frame: np.ndarray, text: str) -> np.ndarray:
    width = max(round(frame.shape[1] * SHEET_HEIGHT / frame.shape[0]), 1)
    return captioned(cv2.resize(frame, (width, SHEET_HEIGHT), interpolation=cv2.INTER_AREA), text)


def _show(frame: np.ndarray, title: str) -> bool:
    """Show a frame; says whether the person wants to stop."""
    try:
        cv2.imshow(title, np.ascontiguousarray(frame[:, :, ::-1]))
    except cv2.error as error:
        raise VideoError("no window can be opened on this machine: write the video to a file (--output)") from error
    return cv2.waitKey(1) & 0xFF in STOP_KEYS

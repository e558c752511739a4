"""A trained model and the words to look for: images in, detections in their own pixels out."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.data import transforms as T
from detectron2.structures import Instances
from PIL import Image

from mvseg.config import load_config
from mvseg.data.augmentation import build_test_augmentations
from mvseg.data.pixels import to_rgb, upright
from mvseg.data.reading import ImageReadError, read_image
from mvseg.inference.building import (
    NmsKind,
    build,
    find_run,
    find_training_words,
    replace_training_words,
    set_selection,
)
from mvseg.inference.calibration import count_detections
from mvseg.inference.embedding import embed, embedder_of_cards, words_of
from mvseg.inference.examples import ExampleOptions, ExampleRows, ExampleSource, find_examples
from mvseg.inference.words import AskedWords, near_vocabularies, parse_words, read_words, thresholds_of
from mvseg.modeling.calibration import calibration_of
from mvseg.modeling.priors import Prior
from mvseg.vocabulary import Vocabulary

logger = logging.getLogger(__name__)

Picture = str | Path | np.ndarray | Image.Image
Words = str | Sequence[str] | Vocabulary | AskedWords
LOOK_AHEAD = 4  # batches whose images are read before they are sorted by size


class Answer(NamedTuple):
    """What came of one image: where it is from, its RGB pixels and detections, or why it could not be read."""

    source: Any
    image: np.ndarray | None
    instances: Instances | None
    error: str = ""


class Predictor:
    """Detect and segment with any words.

    Args:
        cfg: the config of the training, or its file.
        weights: the weight file; None: ``MODEL.WEIGHTS`` of the config.
        vocabulary: the words: a :class:`~mvseg.vocabulary.Vocabulary`, a list, or a text for
            :func:`mvseg.inference.words.read_words`; None: those of the training.
        score_threshold: detections have a score above it.
        word_thresholds: word to a threshold of its own.
        nms: "class": a box suppresses worse boxes of its own word; "agnostic": of all words; "none": of no word;
            None: as in the config.
        nms_threshold: IoU from which boxes are suppressed; None: as in the config.
        max_detections: largest number of detections in an image; None: as in the config.
        batch_size: images at a time. Only images that are padded to the same size share a batch, so the answer for an
            image does not depend on its neighbours.
        device: such as "cuda" or "cpu"; None: as in the config, or the CPU if there is no such device.
        amp: compute in ``SOLVER.AMP.DTYPE`` where that is safe.
        opts: alternating KEY VALUE overrides of the config.
        examples: pictures of what to look for: a place for :func:`mvseg.data.examples.read_examples`, or word to
            pictures. Without a vocabulary its words are looked for by the pictures alone, with one by both.
        example_options: how they are used.

    Raises:
        ValueError: if an option has an unknown value, or the words do not fit the model.
    """

    def __init__(
        self,
        cfg: CfgNode | str | Path,
        weights: str | Path | None = None,
        vocabulary: Words | None = None,
        *,
        score_threshold: float = 0.5,
        word_thresholds: Mapping[str, float] | None = None,
        nms: NmsKind | None = None,
        nms_threshold: float | None = None,
        max_detections: int | None = None,
        batch_size: int = 1,
        device: str | None = None,
        amp: bool = False,
        opts: Sequence[str] = (),
        examples: ExampleSource | None = None,
        example_options: ExampleOptions | None = None,
    ) -> None:
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, not {batch_size}")
        self.cfg = cfg.clone() if isinstance(cfg, CfgNode) else load_config(cfg, opts)
        self.cfg.defrost()
        if isinstance(cfg, CfgNode) and opts:
            self.cfg.merge_from_list(list(opts))
        lowest = min([score_threshold, *(word_thresholds or {}).values()])
        set_selection(self.cfg, lowest, nms, nms_threshold, max_detections)
        self._example_options = example_options or ExampleOptions()
        self._example_rows: ExampleRows | None = None
        missing, asked = find_training_words(self.cfg), self._asked(vocabulary)
        if missing is not None:
            words = None if asked is None else asked.vocabulary
            if words is None and examples is not None:
                words = Vocabulary.from_names(find_examples(examples, None), "examples")
            replace_training_words(self.cfg, words, missing)
        self.model = build(self.cfg, weights, device)
        self.batch_size, self.amp = batch_size, amp
        self.amp_dtype = getattr(torch, self.cfg.SOLVER.AMP.DTYPE)
        self._resize = T.AugmentationList(
            build_test_augmentations(self.cfg.INPUT.MIN_SIZE_TEST, self.cfg.INPUT.MAX_SIZE_TEST)
        )
        self.set_vocabulary(asked, score_threshold, word_thresholds, examples)

    @classmethod
    def from_run(
        cls, output_dir: str | Path, vocabulary: Words | None = None, *, weights: str = "", **options: Any
    ) -> Predictor:
        """Make a predictor from what a training leaves in its OUTPUT_DIR.

        Args:
            output_dir: folder with ``config.yaml`` and weights.
            vocabulary: the words; None: those of the training.
            weights: "final", "best", "final_ema" or a file name; empty: the final ones, else the best, else the last
                checkpoint.
            **options: as for the constructor.

        Returns:
            The predictor.
        """
        config, file = find_run(output_dir, weights)
        return cls(config, file, vocabulary, **options)

    @property
    def names(self) -> tuple[str, ...]:
        """The words; ``pred_classes`` are positions in them."""
        return self.vocabulary.names

    def set_vocabulary(
        self,
        vocabulary: Words | None,
        score_threshold: float | None = None,
        word_thresholds: Mapping[str, float] | None = None,
        examples: ExampleSource | None = None,
    ) -> None:
        """Choose other words, and thresholds.

        Args:
            vocabulary: as for the constructor.
            score_threshold: threshold of words without one of their own; None: as before.
            word_thresholds: word to a threshold of its own.
            examples: as for the constructor; None: none.
        """
        if score_threshold is not None:
            self.score_threshold = score_threshold
        asked = self._asked(vocabulary)
        if examples is not None:
            words = self._with_examples(asked, examples)
            thresholds = thresholds_of(words, self.score_threshold, word_thresholds or {})
            self.model.set_vocabulary(words)
        elif hasattr(self.model, "set_vocabulary"):
            words = self._with_embeddings(asked)
            thresholds = thresholds_of(words, self.score_threshold, word_thresholds or {})
            self.model.set_vocabulary(words)
        else:
            words = self._own_words(asked)
            thresholds = thresholds_of(words, self.score_threshold, word_thresholds or {})
        self.vocabulary = words
        self._thresholds = torch.tensor(thresholds)
        calibration = calibration_of(self.model)
        if calibration is not None and calibration.waits:
            logger.warning(
                "MODEL.CALIBRATION.PRIOR test needs a first pass over the images: call calibrate(images). Until then "
                "scores are made without a prior"
            )
        heads: Any = getattr(self.model, "roi_heads", None)
        if hasattr(heads, "class_agnostic_nms"):  # these take a threshold for every word
            one = len(set(thresholds)) == 1
            heads.score_threshold = thresholds[0] if one else self._thresholds.to(self.model.device)

    def __call__(self, images: Picture | Iterable[Picture]) -> list[Instances]:
        """Detect in one or several images.

        Args:
            images: files, Pillow images, or uint8 RGB arrays (H, W, 3); one or several, of any sizes.

        Returns:
            For every image, on the CPU and in its own pixels: ``pred_boxes`` (N, 4), ``scores`` (N,), best first,
            ``pred_classes`` (N,), positions in :attr:`names`, and ``pred_masks`` (N, H, W) bool if the model has masks.
        """
        return self._detect([read_picture(picture) for picture in _several(images)])

    def stream(self, sources: Iterable[Picture]) -> Iterator[Answer]:
        """Detect in many images, of which only a few are in memory at a time; unreadable ones do not stop it.

        Args:
            sources: as for calling the predictor.

        Yields:
            An answer for every image, in their order.
        """
        remaining = iter(sources)
        window = self.batch_size * LOOK_AHEAD if self.batch_size > 1 else 1
        while chunk := list(islice(remaining, window)):
            read = [_try_to_read(source) for source in chunk]
            found = iter(self._detect([answer.image for answer in read if answer.image is not None]))
            for answer in read:
                yield answer if answer.image is None else answer._replace(instances=next(found))

    def records(self, sources: Iterable[Picture]) -> Iterator[list[dict[str, Any]]]:
        """Read images as the model takes them, one at a time.

        Args:
            sources: as for calling the predictor.

        Yields:
            A batch of one record.
        """
        for source in sources:
            yield [self._record(read_picture(source))]

    def calibrate(self, sources: Picture | Iterable[Picture]) -> Prior:
        """Look at images once to know how often the model reports every word, and calibrate its scores with that.

        Args:
            sources: as for calling the predictor; they need no annotation.

        Returns:
            How often every word was reported.

        Raises:
            ValueError: if the model does not calibrate (MODEL.CALIBRATION.ENABLED).
        """
        prior = self.count(self.records(_several(sources)), "images")
        counts = torch.tensor(list(prior.counts.values()), dtype=torch.float64)  # in the order of the words
        calibration_of(self.model).set_counts(counts)  # type: ignore[union-attr]  # it has counted
        return prior

    def count(self, batches: Iterable[list[dict[str, Any]]], source: str) -> Prior:
        """Count what the model reports of every word, without a prior.

        Args:
            batches: records as the model takes them at test time.
            source: what to call the images.

        Returns:
            The counts, with where they are from.

        Raises:
            ValueError: if the model does not calibrate (MODEL.CALIBRATION.ENABLED).
        """
        counts, images = count_detections(self.model, batches)
        threshold = calibration_of(self.model).count_threshold  # type: ignore[union-attr]  # count_detections has looked
        found = dict(zip(self.names, counts.tolist(), strict=True))
        return Prior(found, images, source, str(self.cfg.MODEL.WEIGHTS), threshold)

    def _asked(self, vocabulary: Words | None) -> AskedWords | None:
        if vocabulary is None or isinstance(vocabulary, AskedWords):
            return vocabulary
        if isinstance(vocabulary, Vocabulary):
            return AskedWords(vocabulary)
        if not isinstance(vocabulary, str):
            return parse_words(vocabulary)
        asked = read_words(vocabulary)
        if len(asked.vocabulary) == 1 and (near := near_vocabularies(vocabulary)):
            logger.warning("Looking for the word %r; or was a vocabulary meant: %s?", vocabulary, ", ".join(near))
        return asked

    def _with_embeddings(self, asked: AskedWords | None) -> Vocabulary:
        space = getattr(self.model, "label_space", None)
        width = getattr(self.model.roi_heads, "text_width", None)
        if asked is None:
            if space is None:
                raise ValueError("the config names no training datasets: say which words to look for (vocabulary)")
            asked = AskedWords(words_of(space))
        learned = getattr(self.model.roi_heads, "prompt_context", None) is not None
        if width is not None and not learned:
            embedder = self.model.embed_words or embedder_of_cards(self.cfg.DATASETS.TRAIN)
            return embed(asked, space, embedder, width)
        if asked.prompts:
            kind = "model with a learned prompt" if learned else "closed-set model"
            raise ValueError(f"this {kind} takes no prompts ({', '.join(asked.prompts)}): name only the words")
        return asked.vocabulary

    def _with_examples(self, asked: AskedWords | None, examples: ExampleSource) -> Vocabulary:
        heads: Any = getattr(self.model, "roi_heads", None)
        width = getattr(heads, "text_width", None)
        if width is None or getattr(heads, "prompt_context", None) is not None:
            raise ValueError(
                "examples are looked for by comparing image embeddings with regions: this detector has no classifier "
                "of text embeddings (MODEL.CLASSIFIER.NAME text without a learned prompt)"
            )
        found = find_examples(examples, None if asked is None else asked.vocabulary)
        if self._example_rows is None:
            embedder = self.model.embed_words or embedder_of_cards(self.cfg.DATASETS.TRAIN)
            self._example_rows = ExampleRows(embedder, width, self._example_options)
        return self._example_rows.fuse(found, None if asked is None else self._with_embeddings(asked))

    def _own_words(self, asked: AskedWords | None) -> Vocabulary:
        """The words of a plain Detectron2 model, which has no others."""
        datasets = [*self.cfg.DATASETS.TRAIN, *self.cfg.DATASETS.TEST]
        names = tuple(MetadataCatalog.get(datasets[0]).get("thing_classes", ())) if datasets else ()
        own = Vocabulary.from_names(names or map(str, range(self.cfg.MODEL.ROI_HEADS.NUM_CLASSES)), "training")
        if asked is not None and asked.vocabulary.names != own.names:
            raise ValueError(
                f"{type(self.model).__name__} is a closed-set model that knows only its own {len(own)} words "
                f"({', '.join(own.names[:5])} ...): leave the vocabulary out"
            )
        return own if asked is None else asked.vocabulary

    def _detect(self, images: Sequence[np.ndarray]) -> list[Instances]:
        records = [self._record(image) for image in images]
        groups: dict[tuple[int, int], list[int]] = defaultdict(list)
        for position, record in enumerate(records):
            groups[self._padded_size(record["image"])].append(position)
        results: list[Any] = [None] * len(images)
        for members in groups.values():
            for start in range(0, len(members), self.batch_size):
                batch = members[start : start + self.batch_size]
                for position, instances in zip(batch, self._run([records[p] for p in batch]), strict=True):
                    results[position] = instances
        return results

    @torch.no_grad()
    def _run(self, batch: list[dict[str, Any]]) -> list[Instances]:
        with torch.autocast(self.model.device.type, self.amp_dtype, enabled=self.amp):
            found = [answer["instances"].to("cpu") for answer in self.model(batch)]
        return [instances[instances.scores > self._thresholds[instances.pred_classes]] for instances in found]

    def _record(self, image: np.ndarray) -> dict[str, Any]:
        given = T.AugInput(image if self.cfg.INPUT.FORMAT == "RGB" else image[:, :, ::-1])
        self._resize(given)
        pixels = torch.from_numpy(np.ascontiguousarray(given.image.transpose(2, 0, 1)))
        return {"image": pixels, "height": image.shape[0], "width": image.shape[1]}

    def _padded_size(self, image: torch.Tensor) -> tuple[int, int]:
        step = max(getattr(getattr(self.model, "backbone", None), "size_divisibility", 1), 1)
        height, width = image.shape[-2:]
        return -(-height // step) * step, -(-width // step) * step


def read_picture(image: Picture) -> np.ndarray:
    """Turn what a person may hand over into pixels.

    Args:
        image: a file, a Pillow image, or an array (H, W, 3) RGB, (H, W, 4) RGBA or (H, W) grey.

    Returns:
        uint8 RGB, (H, W, 3).

    Raises:
        ValueError: if an array is no image.
    """
    if isinstance(image, str | Path):
        return read_image(str(image), "RGB")
    if isinstance(image, np.ndarray):
        if image.dtype != np.uint8 or image.ndim not in (2, 3) or (image.ndim == 3 and image.shape[2] not in (3, 4)):
            raise ValueError(f"an image is uint8 RGB of shape (H, W, 3), not {image.dtype} of shape {image.shape}")
        if not image.size:
            raise ValueError(f"an image of shape {image.shape} has no pixels")
        if image.ndim == 3 and image.shape[2] == 3:
            return image
        image = Image.fromarray(image)
    return np.asarray(to_rgb(upright(image)))


def _several(images: Picture | Iterable[Picture]) -> Iterable[Picture]:
    """One image as a list of one: a path or an array could be gone through itself."""
    alone: Any = images
    return [alone] if isinstance(images, str | Path | np.ndarray | Image.Image) else alone


def _try_to_read(source: Picture) -> Answer:
    try:
        return Answer(source, read_picture(source), None)
    except ImageReadError as error:
        return Answer(source, None, None, str(error))

"""Looking for what example pictures show: rows of the classifier out of them, alone or beside text."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from mvseg.data.example_views import ViewSettings, embed_examples, image_rows
from mvseg.data.examples import Example, Examples, choose_examples, match_examples, read_examples
from mvseg.modeling.words import WordEmbedder
from mvseg.vocabulary import ImageEncoder, Vocabulary
from mvseg.vocabulary.encoders.pair import build_paired_image_encoder
from mvseg.vocabulary.fusion import combine_rows, load_aggregator
from mvseg.vocabulary.fusion.aggregator import check_aggregator

logger = logging.getLogger(__name__)

ExampleSource = str | Path | Mapping[str, Sequence[Any]]


@dataclass(frozen=True)
class ExampleOptions:
    """How rows of the classifier are made of examples.

    Args:
        image_encoder: the image side of the detector's text encoder, as for
            :func:`mvseg.vocabulary.build_image_encoder`; "": the text encoder's model has it.
        fusion_weight: weight of images beside text where a word has both.
        aggregator: file of the aggregator that makes a row of examples; None: their average.
        average: without an aggregator: embeddings are averaged as they are ("raw") or at length 1 ("normalized").
        per_word: examples drawn of each word; 0: all.
        views: random views of each example; 0: the picture as it is.
        context: by which share the square around a box is larger than its longer side; None: 0.4, or 0.2 with an
            aggregator.
        seed: of the draws.
        device: device of the image encoder.
    """

    image_encoder: str = ""
    fusion_weight: float = 1.0
    aggregator: str | Path | None = None
    average: str = "raw"
    per_word: int = 5
    views: int = 5
    context: float | None = None
    seed: int = 42
    device: str = "cpu"

    def view_settings(self) -> ViewSettings:
        """Say how examples are shown to the image encoder.

        Returns:
            The settings.
        """
        usual = 0.4 if self.aggregator is None else 0.2
        return ViewSettings(usual if self.context is None else self.context, self.views, self.seed)


def find_examples(source: ExampleSource, vocabulary: Vocabulary | None) -> Examples:
    """Find the examples that a person hands over.

    Args:
        source: a place, see :func:`mvseg.data.examples.read_examples`; or word to pictures: files, Pillow images,
            uint8 RGB arrays (H, W, 3), or :class:`mvseg.data.examples.Example`.
        vocabulary: the words wanted; None: those of the examples.

    Returns:
        Word to examples.

    Raises:
        ValueError: if there are none, or some for words that are not wanted.
    """
    if isinstance(source, str | Path):
        return read_examples(source, vocabulary)
    found = {word: [_example(picture, word) for picture in pictures] for word, pictures in source.items()}
    empty = [word for word, pictures in found.items() if not pictures]
    if empty or not found:
        raise ValueError(f"no example picture of {', '.join(empty) or 'any word'}: give at least one for each word")
    return found if vocabulary is None else match_examples(found, vocabulary, "examples")


def _example(picture: Any, word: str) -> Example:
    from mvseg.inference.predictor import read_picture

    if isinstance(picture, Example):
        return picture
    if isinstance(picture, str | Path):
        return Example(str(picture))
    return Example(read_picture(picture), where=f"an example of {word!r}")


class ExampleRows:
    """Rows of a detector's classifier out of examples; the image encoder is loaded once, when it is first needed.

    Args:
        embedder: the detector's text encoder; None: not known.
        width: D of the detector's classifier.
        options: how rows are made.
    """

    def __init__(self, embedder: WordEmbedder | None, width: int, options: ExampleOptions) -> None:
        self._embedder, self._width, self.options = embedder, width, options
        self._encoder: ImageEncoder | None = None
        self._aggregator = None if options.aggregator is None else load_aggregator(options.aggregator)

    def embed(self, examples: Examples) -> dict[str, Tensor]:
        """Make the rows of examples.

        Args:
            examples: word to its examples.

        Returns:
            Word to its row, (D,) float32.

        Raises:
            ValueError: if there is no image encoder that shares the space of the detector's text embeddings.
        """
        encoder, options = self._image_encoder(), self.options
        chosen = choose_examples(examples, options.per_word, options.seed)
        embedded = embed_examples(encoder, chosen, options.view_settings())
        found = next(iter(embedded.values())).shape[-1]
        if found != self._width:
            raise ValueError(
                f"the image encoder's embeddings are {found} wide, but this detector's text embeddings are "
                f"{self._width}: examples need the image side of the model that made them"
            )
        if self._aggregator is not None:
            check_aggregator(self._aggregator[1], found, encoder.fingerprint, str(options.aggregator))
        return image_rows(embedded, options.average, self._aggregator)

    def fuse(self, examples: Examples, text: Vocabulary | None) -> Vocabulary:
        """Make a vocabulary whose rows are made of examples, and of text where there is some.

        Args:
            examples: word to its examples.
            text: the n words with text embeddings (n, D); None: the words of the examples, without text.

        Returns:
            The words with their rows (n, D).
        """
        images = self.embed(examples)
        vocabulary = text or Vocabulary.from_names(examples, "examples")
        rows: dict[str, Tensor] = {}
        if text is not None and text.embeddings is not None:
            rows = dict(zip(text.names, text.embeddings, strict=True))
        made = combine_rows(vocabulary.names, rows, images, self.options.fusion_weight)
        if alone := made.of("text"):
            some = ", ".join(alone[:10]) + (" ..." if len(alone) > 10 else "")
            logger.info("%d words have no example and are looked for by their text alone: %s", len(alone), some)
        return dataclasses.replace(vocabulary, embeddings=made.embeddings)

    def _image_encoder(self) -> ImageEncoder:
        if self._encoder is None:
            if self._embedder is None:
                logger.warning(
                    "The config does not say which text encoder the detector was trained with, so it is not checked "
                    "whether %s belongs to it",
                    self.options.image_encoder,
                )
            text = "" if self._embedder is None else self._embedder.description
            fingerprint = "" if self._embedder is None else self._embedder.encoder.fingerprint
            self._encoder = build_paired_image_encoder(
                text, fingerprint, self.options.image_encoder, self.options.device
            )
        return self._encoder

"""The text encoder that a model is trained with: embeddings for words that bring none, and a learnable context."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import cached_property
from typing import Any

from detectron2.data import DatasetCatalog

from mvseg.data.catalog import get_card
from mvseg.modeling.prompt_context import PromptContext
from mvseg.vocabulary import LabelSpace, Vocabulary, build_text_encoder, cache_folder
from mvseg.vocabulary.embedding_files import Provenance, read_provenance
from mvseg.vocabulary.encoders import TextEncoder
from mvseg.vocabulary.prompts import embed_vocabulary, get_prompts

WORDS_IN_A_STEP = 200  # words above which the text model dominates the time of a training step

logger = logging.getLogger(__name__)


class WordEmbedder:
    """Give vocabularies text embeddings; the encoder is loaded when the first vocabulary needs it.

    Args:
        encoder: the encoder, as for :func:`mvseg.vocabulary.build_text_encoder`.
        prompts: the prompts, as for :func:`mvseg.vocabulary.prompts.get_prompts`.
        device: device to run the encoder on.
    """

    def __init__(self, encoder: str, prompts: str = "single", device: str = "cpu") -> None:
        self.description = encoder
        self.prompts = get_prompts(prompts)
        self._device = device

    @cached_property
    def encoder(self) -> TextEncoder:
        """The encoder, with the cache of this machine.

        Returns:
            The encoder.

        Raises:
            ImportError: if it needs a package that is not installed.
            FileNotFoundError: if a file of it does not exist.
            ValueError: if it does not exist.
        """
        where = f"MODEL.CLASSIFIER.TEXT_ENCODER {self.description!r}"
        try:
            return build_text_encoder(self.description, self._device, cache=cache_folder())
        except ImportError as error:
            raise ImportError(f"{where}: {error}") from error
        except FileNotFoundError as error:
            raise FileNotFoundError(f"{where}: {error}") from error
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from error

    def __call__(self, vocabulary: Vocabulary) -> Vocabulary:
        """Embed the words of a vocabulary that has no embeddings.

        Args:
            vocabulary: the n words.

        Returns:
            The vocabulary with embeddings (n, D), float32; unchanged if it has some.
        """
        if vocabulary.embeddings is not None:
            return vocabulary
        logger.info("Embedding the %d words of %r with %s", len(vocabulary), vocabulary.name, self.description)
        return embed_vocabulary(self.encoder, vocabulary, self.prompts)


def word_embedder(cfg: Any) -> WordEmbedder | None:
    """Build the embedder that a config describes.

    Args:
        cfg: the config tree; reads MODEL.CLASSIFIER.NAME, TEXT_ENCODER and PROMPTS.

    Returns:
        The embedder, or None if no encoder is named or the classifier uses no text.
    """
    node = cfg.MODEL.CLASSIFIER
    if not node.TEXT_ENCODER or node.NAME != "text":
        return None
    return WordEmbedder(node.TEXT_ENCODER, node.PROMPTS)


def prompt_context(cfg: Any, space: LabelSpace | None) -> PromptContext | None:
    """Build the learnable context that a config describes.

    Args:
        cfg: the config tree; reads MODEL.CLASSIFIER.CONTEXT_LENGTH, CONTEXT_PROMPT and TEXT_ENCODER.
        space: the label columns of training.

    Returns:
        The context, or None if MODEL.CLASSIFIER.CONTEXT_LENGTH is 0.

    Raises:
        ValueError: if the classifier uses no text, no dataset is named, or the encoder cannot take a context.
    """
    node = cfg.MODEL.CLASSIFIER
    if not node.CONTEXT_LENGTH:
        return None
    embedder = word_embedder(cfg)
    if embedder is None or space is None:
        raise ValueError(
            "MODEL.CLASSIFIER.CONTEXT_LENGTH trains a context in front of words: it needs MODEL.CLASSIFIER.NAME text, "
            "MODEL.CLASSIFIER.TEXT_ENCODER (such as minilm) and DATASETS.TRAIN"
        )
    encoder: Any = embedder.encoder
    encoder = getattr(encoder, "encoder", encoder)  # behind the cache: the context changes in every step
    if not hasattr(encoder, "context_tower"):
        raise ValueError(
            f"MODEL.CLASSIFIER.CONTEXT_LENGTH {node.CONTEXT_LENGTH}: the encoder {node.TEXT_ENCODER!r} cannot take a "
            "context, it is no text model that can be run; use minilm, open_clip:... or huggingface:..., or length 0"
        )
    if space.n > WORDS_IN_A_STEP and node.LOSS != "federated":
        logger.warning(
            "The learnable context encodes up to %d words in every step; MODEL.CLASSIFIER.LOSS federated needs only "
            "MODEL.CLASSIFIER.FED_LOSS_NUM_CLASSES",
            space.n,
        )
    return PromptContext(encoder.context_tower(), space.names, node.CONTEXT_LENGTH, node.CONTEXT_PROMPT)


def check_encoders(datasets: Sequence[str], embedder: WordEmbedder | None) -> None:
    """Check that the embedding files of datasets come from one encoder, where the files say it.

    Args:
        datasets: names of datasets; those without a card, or unknown ones, are passed over.
        embedder: the model's encoder and prompts, if it names one.

    Raises:
        ValueError: if two files, or a file and the model, have different encoders.
    """
    made: dict[str, tuple[str, Provenance]] = {}
    for dataset in dict.fromkeys(datasets):
        if dataset not in DatasetCatalog.list():
            continue
        for path in get_card(dataset).embedding_files():
            provenance = read_provenance(path)
            if provenance is not None:
                made.setdefault(provenance.fingerprint, (f"dataset {dataset!r}, file {path}", provenance))
    if len(made) > 1:
        listed = "; ".join(f"{where}: {p.encoder} ({p.fingerprint[:8]})" for where, p in made.values())
        raise ValueError(f"the text embeddings come from different encoders, make them with one: {listed}")
    if not made or embedder is None:
        return
    where, provenance = next(iter(made.values()))
    if provenance.prompts and provenance.prompts != embedder.prompts.name:
        logger.warning(
            "%s: made with prompts %r, but MODEL.CLASSIFIER.PROMPTS is %r: other words are embedded with the latter",
            where,
            provenance.prompts,
            embedder.prompts.name,
        )
    try:
        fingerprint = embedder.encoder.fingerprint
    except (ImportError, FileNotFoundError) as error:
        logger.warning("%s: not checked against the encoder, which is not here: %s", where, error)
        return
    if fingerprint != provenance.fingerprint:
        raise ValueError(
            f"{where}: made with {provenance.encoder} ({provenance.fingerprint[:8]}), but MODEL.CLASSIFIER.TEXT_ENCODER"
            f" is {embedder.description} ({fingerprint[:8]}): embed the words again, or name the other encoder"
        )

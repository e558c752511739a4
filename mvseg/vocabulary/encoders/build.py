"""An encoder from one text, as a config file or a command line gives it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from ..tables import builtin_tables, read_builtin_table, read_table
from .base import ImageEncoder, TextEncoder
from .cache import CachedTextEncoder
from .clip import OpenClipImageEncoder, OpenClipTextEncoder
from .hugging_face import HuggingFaceTextEncoder, minilm_encoder
from .table import TableTextEncoder

FORMS = "minilm, open_clip:ARCHITECTURE:CHECKPOINT_OR_TAG, huggingface:FOLDER or table:FILE"


def build_text_encoder(
    description: str, device: torch.device | str = "cpu", cache: str | Path | None = None
) -> TextEncoder:
    """Build a text encoder from one text.

    Args:
        description: ``minilm`` (small, comes with ``pip install mvseg[minilm]``),
            ``open_clip:ARCHITECTURE:CHECKPOINT_OR_TAG``, ``huggingface:FOLDER``, or ``table:FILE`` for precomputed
            embeddings (``table:FILE:WORDS`` if the file does not carry its words).
        device: device to run on.
        cache: folder in which embeddings are kept for the next time, such as
            :func:`mvseg.vocabulary.encoders.cache_folder`; None: nothing is kept.

    Returns:
        The encoder.

    Raises:
        ValueError: if the text has another form.
    """
    kind, _, rest = description.partition(":")
    first, _, second = rest.partition(":")
    if kind == "table" and rest:
        return _table(rest)
    encoder: TextEncoder
    if description == "minilm":
        encoder = minilm_encoder(device)
    elif kind == "huggingface" and rest:
        encoder = HuggingFaceTextEncoder(rest, device)
    elif kind == "open_clip" and first and second:
        encoder = OpenClipTextEncoder(first, second, device)
    else:
        raise ValueError(f"encoder {description!r}: write {FORMS}")
    return encoder if cache is None else CachedTextEncoder(encoder, cache)


def build_image_encoder(description: str, device: torch.device | str = "cpu") -> ImageEncoder:
    """Build an image encoder from one text.

    Args:
        description: ``open_clip:ARCHITECTURE:CHECKPOINT_OR_TAG``.
        device: device to run on.

    Returns:
        The encoder.

    Raises:
        ValueError: if the text has another form.
    """
    kind, _, rest = description.partition(":")
    architecture, _, pretrained = rest.partition(":")
    if kind != "open_clip" or not architecture or not pretrained:
        raise ValueError(f"image encoder {description!r}: write open_clip:ARCHITECTURE:CHECKPOINT_OR_TAG")
    return OpenClipImageEncoder(architecture, pretrained, device)


def _table(rest: str) -> TableTextEncoder:
    if Path(rest).exists():
        return TableTextEncoder(rest)
    file, _, words = rest.rpartition(":")
    if not file:
        return TableTextEncoder(rest)
    return TableTextEncoder(file, _row_names(words))


def _row_names(words: str) -> Sequence[str]:
    return list((read_builtin_table(words) if words in builtin_tables() else read_table(words))["names"])

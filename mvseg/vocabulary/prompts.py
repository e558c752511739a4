"""Turning words into sentences for a text encoder, and several sentences into one embedding for each word."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .encoders import TextEncoder

DEFAULT_TEMPLATE = "a {}"


def fill_template(template: str, word: str) -> str:
    """Put a word into a prompt template.

    Args:
        template: text with one ``{}``.
        word: the word; underscores become spaces.

    Returns:
        The sentence.

    Raises:
        ValueError: if the template has not exactly one ``{}``.
    """
    if template.count("{}") != 1:
        raise ValueError(f"prompt template {template!r} needs exactly one {{}}")
    return template.replace("{}", word.replace("_", " "))


def embed_words(encoder: TextEncoder, words: Sequence[str], templates: Sequence[str] = (DEFAULT_TEMPLATE,)) -> Tensor:
    """Embed words with prompts; several prompts are averaged after each is brought to length 1.

    Source: prompt ensembling of CLIP, Radford et al. 2021, arXiv 2103.00020, section 3.1.4.

    Args:
        encoder: the text encoder, of width D.
        words: n words.
        templates: prompt templates with one ``{}``.

    Returns:
        Embeddings (n, D), float32, each of length 1.

    Raises:
        ValueError: if there is no template, or one has not exactly one ``{}``.
    """
    if not templates:
        raise ValueError("embed_words needs at least one prompt template")
    total = torch.zeros(())
    for template in templates:
        rows = encoder.encode([fill_template(template, word) for word in words]).float()
        total = total + torch.nn.functional.normalize(rows, dim=1)
    return torch.nn.functional.normalize(total, dim=1)

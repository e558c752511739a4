"""Image encoders that share the space of a text encoder: the two sides of one model."""

from __future__ import annotations

import torch

from .base import ImageEncoder
from .build import build_image_encoder


def build_paired_image_encoder(
    text: str, fingerprint: str, image: str = "", device: torch.device | str = "cpu"
) -> ImageEncoder:
    """Build the image encoder whose embeddings can be compared with those of a text encoder.

    Args:
        text: the text encoder, as for :func:`mvseg.vocabulary.build_text_encoder`.
        fingerprint: its content hash; "": not known, and nothing is checked.
        image: the image encoder, as for :func:`mvseg.vocabulary.build_image_encoder`; "": the other side of the text
            encoder's model.
        device: device to run on.

    Returns:
        The image encoder.

    Raises:
        ValueError: if the text encoder has no image side, or the image encoder is of another model.
    """
    if not image and not text.startswith("open_clip:"):
        raise ValueError(
            f"image examples need the image side of the model that made the text embeddings, and {text or 'that'!r} "
            "names none: say which image encoder belongs to it, such as open_clip:ARCHITECTURE:CHECKPOINT_OR_TAG "
            "(--image-encoder)"
        )
    encoder = build_image_encoder(image or text, device)
    of_text = getattr(encoder, "text_fingerprint", "")
    if fingerprint and of_text != fingerprint:
        raise ValueError(
            f"the image encoder {image or text} and the text encoder {text} are not the two sides of one model (its "
            f"text side is {of_text[:8] or 'not known'}, the text encoder {fingerprint[:8]}): their embeddings cannot "
            "be compared"
        )
    return encoder

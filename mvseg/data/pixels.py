"""From whatever an image file holds (16 bits, transparency, CMYK, a palette, a turned camera) to upright 8-bit RGB."""

from __future__ import annotations

import logging

import numpy as np
from PIL import Image

logger = logging.getLogger(__name__)

ORIENTATION = 0x0112  # the EXIF tag
TURNS = {  # its values 2 to 8: what brings the picture upright
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
BACKGROUND = (255, 255, 255, 255)  # what lies below transparent pixels: white, as a viewer's page


def upright(image: Image.Image) -> Image.Image:
    """Turn an image as its EXIF orientation says; the modes and values of the pixels stay.

    Args:
        image: an opened image.

    Returns:
        The image turned, or the image itself if it is upright or its EXIF data are broken (which is logged).
    """
    try:
        turn = TURNS.get(image.getexif().get(ORIENTATION, 1))
    except Exception as error:  # broken EXIF data raise whatever went wrong in Pillow's reader; the pixels are fine
        logger.warning("%s: broken EXIF data, shown as stored (%s)", _name(image), error)
        return image
    return image if turn is None else image.transpose(turn)


def _name(image: Image.Image) -> str:
    file = getattr(image, "fp", None)  # an image that was opened from a stream has no file name of its own
    return getattr(image, "filename", "") or getattr(file, "name", "") or "image"


def to_rgb(image: Image.Image) -> Image.Image:
    """Convert an image of any mode to 8-bit RGB.

    Of 16 bits the upper 8 are kept (Pillow does so for colour files itself, but clips grey ones to white).
    Transparent pixels are laid over white: what is hidden in a viewer is hidden from the model too.

    Args:
        image: an image of any mode.

    Returns:
        The image in mode RGB.

    Raises:
        ValueError: if the pixels are of a kind whose range of values nobody knows (floats, 32-bit integers).
    """
    if image.mode.startswith("I") or image.mode == "F":
        return Image.fromarray(_upper_bits(np.asarray(image), image.mode)).convert("RGB")
    if image.mode == "RGBa" or image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, BACKGROUND), image)
    return image if image.mode == "RGB" else image.convert("RGB")


def _upper_bits(values: np.ndarray, mode: str) -> np.ndarray:
    if mode.startswith("I;16"):
        return (values >> 8).astype(np.uint8)
    low, high = values.min(), values.max()
    if mode == "I" and low >= 0 and high < 2**16:
        return (values if high < 2**8 else values >> 8).astype(np.uint8)
    raise ValueError(
        f"pixels of mode {mode!r} with values from {low:g} to {high:g}: which is white is not known; convert the file "
        "to 8 or 16 bits"
    )

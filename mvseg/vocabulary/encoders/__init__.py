"""Encoders: models that turn sentences or images into embeddings; weights are local unless a tag is asked for."""

from .base import ImageEncoder, PixelEncoder, PixelSettings, TextEncoder
from .build import build_image_encoder, build_text_encoder
from .cache import CachedTextEncoder, cache_folder
from .clip import OpenClipImageEncoder, OpenClipTextEncoder
from .context import ContextTower
from .hugging_face import HuggingFaceTextEncoder, minilm_folder
from .table import TableTextEncoder

__all__ = [
    "CachedTextEncoder",
    "ContextTower",
    "HuggingFaceTextEncoder",
    "ImageEncoder",
    "OpenClipImageEncoder",
    "OpenClipTextEncoder",
    "PixelEncoder",
    "PixelSettings",
    "TableTextEncoder",
    "TextEncoder",
    "build_image_encoder",
    "build_text_encoder",
    "cache_folder",
    "minilm_folder",
]

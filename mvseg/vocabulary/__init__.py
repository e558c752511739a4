"""Words: vocabularies of datasets, label spaces that join them, and text encoders."""

from .encoders import HuggingFaceTextEncoder, OpenClipTextEncoder, TextEncoder, build_text_encoder
from .label_space import LabelSpace
from .prompts import embed_words
from .suggestions import did_you_mean, nearest_names
from .tables import builtin_tables, read_table
from .vocabulary import Vocabulary

__all__ = [
    "HuggingFaceTextEncoder",
    "LabelSpace",
    "OpenClipTextEncoder",
    "TextEncoder",
    "Vocabulary",
    "build_text_encoder",
    "builtin_tables",
    "did_you_mean",
    "embed_words",
    "nearest_names",
    "read_table",
]

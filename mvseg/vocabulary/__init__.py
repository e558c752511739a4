"""Words: vocabularies of datasets, label spaces that join them, and text encoders."""

from .encoders import (
    CachedTextEncoder,
    HuggingFaceTextEncoder,
    ImageEncoder,
    OpenClipImageEncoder,
    OpenClipTextEncoder,
    TableTextEncoder,
    TextEncoder,
    build_image_encoder,
    build_text_encoder,
    cache_folder,
)
from .label_space import LabelSpace
from .merging import read_mapping
from .prompts import PROMPTS, PromptSet, embed_vocabulary, embed_words, get_prompts, spoken
from .relations import Alias
from .scopes import AnnotationScopes, ClassRules, ImageFacts, Scope, ScopeSettings, build_scope, register_scope
from .similarity import SimilarityRange
from .suggestions import did_you_mean, nearest_names
from .tables import builtin_tables, made_at_run_time, read_table
from .trained_words import TrainedWords
from .vocabulary import Vocabulary
from .word_columns import WordColumns

__all__ = [
    "PROMPTS",
    "Alias",
    "AnnotationScopes",
    "CachedTextEncoder",
    "ClassRules",
    "HuggingFaceTextEncoder",
    "ImageEncoder",
    "ImageFacts",
    "LabelSpace",
    "OpenClipImageEncoder",
    "OpenClipTextEncoder",
    "PromptSet",
    "Scope",
    "ScopeSettings",
    "SimilarityRange",
    "TableTextEncoder",
    "TextEncoder",
    "TrainedWords",
    "Vocabulary",
    "WordColumns",
    "build_image_encoder",
    "build_scope",
    "build_text_encoder",
    "builtin_tables",
    "cache_folder",
    "did_you_mean",
    "embed_vocabulary",
    "embed_words",
    "get_prompts",
    "made_at_run_time",
    "nearest_names",
    "read_mapping",
    "read_table",
    "register_scope",
    "spoken",
]

"""Words: vocabularies of datasets, label spaces that join them, and text encoders."""

from .label_space import LabelSpace
from .suggestions import did_you_mean, nearest_names
from .tables import builtin_tables, read_table
from .vocabulary import Vocabulary

__all__ = ["LabelSpace", "Vocabulary", "builtin_tables", "did_you_mean", "nearest_names", "read_table"]

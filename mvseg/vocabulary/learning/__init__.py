"""A label space learned from what a detector of many datasets finds: which words one column can serve."""

from .candidates import Candidate, LearnSettings, candidate_pairs, measure
from .evidence import Detections, Evidence, Objects, first_columns
from .precision import MergedPrecision, average_precision, cross_precision
from .program import Choice, choose_sets, set_values
from .report import write_space
from .solution import Label, LearnedSpace, NearMiss, learn_label_space
from .storage import Header, PredictionWriter, StoredVocabulary, read_facts, read_predictions

__all__ = [
    "Candidate",
    "Choice",
    "Detections",
    "Evidence",
    "Header",
    "Label",
    "LearnSettings",
    "LearnedSpace",
    "MergedPrecision",
    "NearMiss",
    "Objects",
    "PredictionWriter",
    "StoredVocabulary",
    "average_precision",
    "candidate_pairs",
    "choose_sets",
    "cross_precision",
    "first_columns",
    "learn_label_space",
    "measure",
    "read_facts",
    "read_predictions",
    "set_values",
    "write_space",
]

"""Rows of a classifier out of descriptions, image examples, or both."""

from .aggregator import AggregatorFacts, ExampleAggregator, aggregate, load_aggregator, save_aggregator
from .descriptions import embed_descriptions, find_descriptions, read_descriptions
from .rows import ClassifierRows, average_embeddings, combine_rows, fuse
from .training import AggregatorTraining, contrast, train_aggregator

__all__ = [
    "AggregatorFacts",
    "AggregatorTraining",
    "ClassifierRows",
    "ExampleAggregator",
    "aggregate",
    "average_embeddings",
    "combine_rows",
    "contrast",
    "embed_descriptions",
    "find_descriptions",
    "fuse",
    "load_aggregator",
    "read_descriptions",
    "save_aggregator",
    "train_aggregator",
]

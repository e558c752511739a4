"""Boxes of classes that a dataset does not annotate, found by a detector that learnt them from another dataset."""

from mvseg.inference.pseudo_boxes.confidence import dropout_in_box_heads, localization_confidence
from mvseg.inference.pseudo_boxes.finding import Finder, other_columns

__all__ = ["Finder", "dropout_in_box_heads", "localization_confidence", "other_columns"]

"""From a trained model to answers: the predictor, its words, its inputs and outputs, and drawing."""

from mvseg.inference.examples import ExampleOptions
from mvseg.inference.output import CocoResults, to_supervision
from mvseg.inference.predictor import Predictor
from mvseg.inference.words import parse_thresholds, parse_words, read_words

__all__ = [
    "CocoResults",
    "ExampleOptions",
    "Predictor",
    "parse_thresholds",
    "parse_words",
    "read_words",
    "to_supervision",
]

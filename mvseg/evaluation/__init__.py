"""Evaluation: the evaluator for each dataset, its own vocabulary, pictures, and one summary of all."""

from mvseg.evaluation.averages import average_rows, read_averages
from mvseg.evaluation.evaluators import build_evaluator, register_evaluator
from mvseg.evaluation.lvis import PerClassLVISEvaluator
from mvseg.evaluation.openimages import OpenImagesEvaluator
from mvseg.evaluation.pictures import PictureEvaluator
from mvseg.evaluation.proposals import ProposalEvaluator
from mvseg.evaluation.run import evaluate_dataset, unwrap, vocabulary_of
from mvseg.evaluation.split import SplitCOCOEvaluator
from mvseg.evaluation.summary import overall, summary_table, write_per_class, write_results
from mvseg.evaluation.voc import VOCEvaluator

__all__ = [
    "OpenImagesEvaluator",
    "PerClassLVISEvaluator",
    "PictureEvaluator",
    "ProposalEvaluator",
    "SplitCOCOEvaluator",
    "VOCEvaluator",
    "average_rows",
    "build_evaluator",
    "evaluate_dataset",
    "overall",
    "read_averages",
    "register_evaluator",
    "summary_table",
    "unwrap",
    "vocabulary_of",
    "write_per_class",
    "write_results",
]

"""Evaluators: what a model's outputs are worth on a dataset."""

# ruff: noqa: F401 (re-exports)

from .._missing import module_getattr
from .coco_evaluation import COCOEvaluator
from .evaluator import DatasetEvaluator, DatasetEvaluators, inference_context, inference_on_dataset
from .lvis_evaluation import LVISEvaluator
from .panoptic_evaluation import COCOPanopticEvaluator
from .sem_seg_evaluation import SemSegEvaluator
from .testing import print_csv_format, verify_results

__getattr__ = module_getattr(__name__)

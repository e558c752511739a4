"""Datasets, augmentation and loaders. Importing this registers the well-known datasets under $DETECTRON2_DATASETS."""

# ruff: noqa: F401, I001 (re-exports)

from .._missing import module_getattr
from . import datasets, samplers, transforms
from .build import build_batch_data_loader, build_detection_test_loader, build_detection_train_loader
from .build import get_detection_dataset_dicts, print_instances_class_histogram
from .catalog import DatasetCatalog, Metadata, MetadataCatalog
from .common import DatasetFromList, MapDataset, ToIterableDataset
from .dataset_mapper import DatasetMapper

__getattr__ = module_getattr(__name__)

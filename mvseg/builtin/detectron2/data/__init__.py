"""Datasets, augmentation and loaders. Importing this registers the well-known datasets under $DETECTRON2_DATASETS."""

from . import transforms
from .catalog import DatasetCatalog, Metadata, MetadataCatalog
from .common import DatasetFromList, MapDataset, ToIterableDataset

__all__ = [
    "DatasetCatalog",
    "DatasetFromList",
    "MapDataset",
    "Metadata",
    "MetadataCatalog",
    "ToIterableDataset",
    "transforms",
]

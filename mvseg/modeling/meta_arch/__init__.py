"""The registered architectures: thin, they only wire parts."""

from mvseg.modeling.meta_arch.multi_dataset_rcnn import MultiDatasetRCNN

__all__ = ["MultiDatasetRCNN"]

"""In what order records are read."""

# ruff: noqa: F401, I001 (re-exports)

from ..._missing import module_getattr
from .distributed_sampler import InferenceSampler, RandomSubsetTrainingSampler, RepeatFactorTrainingSampler
from .distributed_sampler import TrainingSampler

__getattr__ = module_getattr(__name__)

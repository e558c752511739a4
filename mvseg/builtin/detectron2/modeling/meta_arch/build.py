"""Registry of whole models."""

import torch
from torch import nn

from ...utils.logger import _log_api_usage
from ...utils.registry import Registry

META_ARCH_REGISTRY = Registry("META_ARCH")
META_ARCH_REGISTRY.__doc__ = "Callables (cfg) -> torch.nn.Module, picked by MODEL.META_ARCHITECTURE."


def build_model(cfg) -> nn.Module:
    """Build MODEL.META_ARCHITECTURE on MODEL.DEVICE, without loading weights."""
    model = META_ARCH_REGISTRY.get(cfg.MODEL.META_ARCHITECTURE)(cfg)
    model.to(torch.device(cfg.MODEL.DEVICE))
    _log_api_usage(f"modeling.meta_arch.{cfg.MODEL.META_ARCHITECTURE}")
    return model

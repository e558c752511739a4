"""Registry of proposal generators."""

from ...layers import ShapeSpec
from ...utils.registry import Registry

PROPOSAL_GENERATOR_REGISTRY = Registry("PROPOSAL_GENERATOR")
PROPOSAL_GENERATOR_REGISTRY.__doc__ = "Callables (cfg, input_shape: dict of ShapeSpec), MODEL.PROPOSAL_GENERATOR.NAME."


def build_proposal_generator(cfg, input_shape: dict[str, ShapeSpec]):
    """Build MODEL.PROPOSAL_GENERATOR.NAME; None for the name "PrecomputedProposals"."""
    name = cfg.MODEL.PROPOSAL_GENERATOR.NAME
    if name == "PrecomputedProposals":
        return None
    return PROPOSAL_GENERATOR_REGISTRY.get(name)(cfg, input_shape)

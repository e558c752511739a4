"""Models and their parts: backbones, proposal generators, heads on regions, whole detectors."""

# ruff: noqa: F401, I001 (re-exports)

from .._missing import module_getattr
from ..layers import ShapeSpec
from .anchor_generator import ANCHOR_GENERATOR_REGISTRY, build_anchor_generator
from .backbone import BACKBONE_REGISTRY, FPN, Backbone, ResNet, ResNetBlockBase, SwinTransformer
from .backbone import build_backbone, build_resnet_backbone, make_stage
from .meta_arch import META_ARCH_REGISTRY, SEM_SEG_HEADS_REGISTRY, GeneralizedRCNN, build_model, build_sem_seg_head
from .postprocessing import detector_postprocess
from .proposal_generator import PROPOSAL_GENERATOR_REGISTRY, RPN_HEAD_REGISTRY, build_proposal_generator, build_rpn_head
from .roi_heads import ROI_BOX_HEAD_REGISTRY, ROI_HEADS_REGISTRY, ROI_MASK_HEAD_REGISTRY, BaseMaskRCNNHead
from .roi_heads import FastRCNNOutputLayers, ROIHeads, StandardROIHeads, build_box_head, build_mask_head
from .roi_heads import build_roi_heads

__getattr__ = module_getattr(__name__)

"""What the built-in provider leaves out: one kind of ImportError that says how to get the real thing."""

import sys
from collections.abc import Callable
from typing import Any, NoReturn

INSTALL_HINT = "install Detectron2: python -m pip install 'git+https://github.com/facebookresearch/detectron2.git'"

# Names that packages of Detectron2 offer and this provider does not.
_LEFT_OUT = """
export model_zoo projects tracking
LazyCall LazyConfig instantiate lazy downgrade_config upgrade_config
ASPP CycleBatchNormList DeformConv DepthwiseSeparableConv2d ModulatedDeformConv ROIAlignRotated batched_nms_rotated
nms_rotated DeformBottleneckBlock MViT RegNet SimpleFeaturePyramid ViT get_vit_lr_decay_rate
BaseKeypointRCNNHead KRCNNConvDeconvUpsampleHead ROI_KEYPOINT_HEAD_REGISTRY RROIHeads build_keypoint_head
DatasetMapperTTA GeneralizedRCNNWithTTA DenseDetector FCOS MMDetBackbone MMDetDetector PanopticFPN ProposalNetwork
RetinaNet SemSegFPNHead SemanticSegmentor
AutogradProfiler TorchMemoryStats TorchProfiler WarmupCosineLR WarmupMultiStepLR
CityscapesInstanceEvaluator CityscapesSemSegEvaluator PascalVOCDetectionEvaluator RotatedCOCOEvaluator
ADE20K_SEM_SEG_CATEGORIES CITYSCAPES_CATEGORIES COCO_PERSON_KEYPOINT_FLIP_MAP COCO_PERSON_KEYPOINT_NAMES
KEYPOINT_CONNECTION_RULES GroupedBatchSampler load_proposals_into_dataset load_voc_instances register_pascal_voc
register_coco_panoptic_separated ExtentTransform MinIoURandomCrop RandomExtent RandomLighting RandomRotation
RotationTransform
"""


def missing(name: str) -> ImportError:
    """Return (not raise) the error for a name such as ``detectron2.export`` or ``config.LazyConfig``."""
    full_name = name if name.startswith("detectron2") else f"detectron2.{name}"
    return ImportError(f"{full_name} is not in mvseg's built-in provider; {INSTALL_HINT}", name=full_name)


def module_getattr(module: str) -> Callable[[str], NoReturn]:
    """Make a module's ``__getattr__``: ImportError for what is left out, AttributeError for what nobody has."""

    def __getattr__(name: str) -> NoReturn:
        if name in _LEFT_OUT.split():
            raise missing(f"{module}.{name}")
        raise AttributeError(f"module {module!r} has no attribute {name!r}")

    return __getattr__


def placeholder(name: str) -> type:
    """Make a class that can be imported and subclassed, and raises the ImportError when it is called or looked into."""

    class _Meta(type):
        def __getattr__(cls, attribute: str) -> Any:
            raise AttributeError(attribute) if attribute.startswith("__") else missing(name)

        def __call__(cls, *args: Any, **kwargs: Any) -> Any:
            raise missing(name)

    module, _, class_name = name.rpartition(".")
    return _Meta(class_name, (), {"__module__": module, "__doc__": f"Placeholder: {missing(name)}"})


class _LeftOutModules:
    """Last of the import system's finders: modules of detectron2 that no other finder has found are left out."""

    @staticmethod
    def find_spec(name: str, path: Any = None, target: Any = None) -> None:
        if name.startswith("detectron2."):
            raise ModuleNotFoundError(str(missing(name)), name=name)


sys.meta_path.append(_LeftOutModules)

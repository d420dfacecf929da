"""Package metadata; the tools' settings are in pyproject.toml.

The bounds are loose, for environments that exist already; constraints.txt holds the exact versions
that the tests run with. Detectron2 is not listed: its maintainers publish no package, the name
is free on the registry, and anybody could take it. See tools/install_detectron2.py.
"""

import re
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).resolve().parent
# Folders that lie beside the package in the checkout, and inside it once installed.
BESIDE = ("configs", "demo", "tools")


def read_version() -> str:
    """The version, read from the package without importing it (that would need Detectron2)."""
    source = (ROOT / "mask_former/__init__.py").read_text(encoding="utf-8")
    return re.search(r'^__version__ = "(.+)"$', source, re.MULTILINE).group(1)


setup(
    name="mask-former",
    version=read_version(),
    description="Mask classification for semantic, instance and panoptic segmentation",
    long_description=(ROOT / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.10",
    packages=[
        *find_packages(include=["mask_former", "mask_former.*"]),
        *(f"mask_former.{folder}" for folder in BESIDE),
    ],
    package_dir={f"mask_former.{folder}": folder for folder in BESIDE},
    entry_points={"console_scripts": ["mask-former = mask_former.__main__:main"]},
    package_data={"mask_former": ["**/*.json"], "mask_former.configs": ["**/*.yaml"]},
    install_requires=[
        "numpy>=1.24",
        "opencv-python>=4.6",
        "pillow>=9.4",
        "pycocotools>=2.0.6",
        "safetensors>=0.4",
        "scipy>=1.9",
        "tensorboard>=2.10",
        "torch>=2.4",
        "torchvision>=0.19",
        "tqdm>=4.60",
        # What Detectron2's Python code imports besides.
        "cloudpickle",
        "fvcore>=0.1.5",
        "hydra-core>=1.1",
        "iopath>=0.1.7",
        "matplotlib",
        "omegaconf>=2.1",
        "packaging",
        "tabulate",
        "termcolor>=1.1",
        "yacs>=0.1.8",
    ],
    extras_require={
        # The models that TimmBackbone makes.
        "timm": ["timm>=1.0.31"],
        # What tools/export_model.py writes ONNX with, and checks it.
        "onnx": ["onnx>=1.16", "onnxscript>=0.3", "onnxruntime>=1.18"],
        # What Detectron2's cityscapes_fine_instance_seg_* are read with.
        "cityscapes": ["cityscapesscripts", "shapely>=2"],
        "dev": [
            "filelock",
            "hotcoco",
            "hypothesis>=6",
            "onnx>=1.16",
            "onnxruntime>=1.18; python_version >= '3.11'",  # the newest has no wheel for 3.10
            "onnxscript>=0.3",
            "pre-commit",
            "pytest>=8",
            "pytest-xdist>=3.2",
            "ruff",
            "timm>=1.0.31",
            "transformers>=5",
        ],
    },
)

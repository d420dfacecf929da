"""The one place that knows which Detectron2 is installed.

The package is written for upstream's newest and also runs on the older Python-only tree that
`tools/install_detectron2.py` installs. What that tree lacks is avoided rather than patched:
nothing imports `detectron2.model_zoo`, which needs the `pkg_resources` that newer setuptools
dropped.
"""

import importlib.util
import warnings

_MISSING = (
    "MaskFormer needs Detectron2, which is not installed: run `python tools/install_detectron2.py` "
    "in MaskFormer's checkout, or build upstream's with `pip install --no-build-isolation "
    "'git+https://github.com/facebookresearch/detectron2.git'`."
)
_MISSING_TORCHVISION = (
    "MaskFormer needs torchvision, which is not installed. It is built for one PyTorch, so install "
    "the two together, from one place: `pip install torch torchvision`."
)


def require_detectron2() -> None:
    """Import Detectron2, quietly.

    Raises:
        ModuleNotFoundError: Detectron2, or the torchvision that it imports, is not installed; the
            message says how to install it.
    """
    spec = importlib.util.find_spec("detectron2")
    # No origin: a folder that happens to have the name, such as a clone that was not installed.
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError(_MISSING, name="detectron2")
    if importlib.util.find_spec("torchvision") is None:
        raise ModuleNotFoundError(_MISSING_TORCHVISION, name="torchvision")
    with warnings.catch_warnings():
        # Its box regression is scripted at import, which newer PyTorch versions warn of.
        warnings.filterwarnings("ignore", r"`torch\.jit\.script", FutureWarning)
        import detectron2.modeling  # noqa: F401

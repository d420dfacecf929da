"""The published models by name: configurations and weights, like Detectron2's model zoo.

A name is that of a recipe, its path in configs/: "ade20k-150/maskformer_R50_bs16_160k", with or
without ".yaml". What is known of each is in model_zoo.json; docs/MODEL_ZOO.md is made of it.
"""

import difflib
import json
import logging
from functools import cache
from pathlib import Path
from typing import Any

import torch
from detectron2.config import CfgNode
from torch import nn

import mask_former.data.datasets  # noqa: F401  (registers which classes are things)
from mask_former.checkpoint.checkpointer import MaskFormerCheckpointer
from mask_former.engine.config import load_config
from mask_former.engine.model import build_model
from mask_former.errors import UserError

PACKAGE = Path(__file__).parent

logger = logging.getLogger(__name__)


@cache
def table() -> dict[str, Any]:
    """What is known of the published models.

    Returns:
        * `papers`: name of a model -> `text` and `url` of its paper, and the `license` of its
          published weights; None, and a `note`, where there are none;
        * `data_sets`: folder of configs/ -> `paper`, `title`, `task`, and the number of
          `machines`, of 8 GPUs each, that its recipes were trained on;
        * `initial_weights`: file that recipes start from -> `of` what it is made, and `url`, of
          what is downloaded or, where there is the name of a `file`, of the page that links to it;
        * `recipes`: name -> `model`, `backbone`, `weights` (an address, or None), and two
          dictionaries of metrics, `published` and, by us, `measured`: mIoU, PQ and AP in percent,
          `params_million`, `gflops_macs_at_crop_size`, `train_memory_mb_v100`. Some have their own
          number of `machines`, and a `note` on what is misleading in the publication.
    """
    return json.loads((PACKAGE / "model_zoo.json").read_text(encoding="utf-8"))


def config_folder() -> Path:
    """The folder of the recipes: in the package once installed, beside it in a checkout."""
    installed = PACKAGE / "configs"
    return installed if installed.is_dir() else PACKAGE.parent / "configs"


def names() -> list[str]:
    """All recipes, including those without published weights."""
    folder = config_folder()
    files = [file for file in folder.rglob("*.yaml") if not file.name.startswith("Base")]
    return sorted(file.relative_to(folder).with_suffix("").as_posix() for file in files)


def get_config_file(name: str) -> str:
    """Path of a recipe.

    Raises:
        UserError: there is no such recipe; the message names the nearest.
    """
    recipe = name.removesuffix(".yaml")
    known = names()
    if recipe not in known:
        nearest = difflib.get_close_matches(recipe, known, n=1, cutoff=0.0)
        raise UserError(
            f"there is no recipe {name!r} in {config_folder()}; the nearest is {nearest}, and "
            "mask_former.model_zoo.names() lists all"
        )
    return str(config_folder() / f"{recipe}.yaml")


def get_checkpoint_url(name: str) -> str:
    """Address of the published weights of a recipe; see `get_license`.

    Raises:
        UserError: there is no such recipe, or there are no published weights for it.
    """
    get_config_file(name)
    entry = table()["recipes"].get(name.removesuffix(".yaml"))
    if entry is None or entry["weights"] is None:
        raise UserError(f"there are no published weights for {name!r}: train it, see its header")
    return entry["weights"]


def get_license(name: str) -> str:
    """The licence of the published weights of a recipe.

    Raises:
        UserError: as `get_checkpoint_url`.
    """
    get_checkpoint_url(name)
    return table()["papers"][data_set(table(), name)["paper"]]["license"]


def data_set(zoo: dict[str, Any], name: str) -> dict[str, Any]:
    """What `zoo`, a `table`, says of the data set of a recipe: of its folder, or of one above."""
    return next(
        facts for folder, facts in zoo["data_sets"].items() if name.startswith(f"{folder}/")
    )


def get_config(name: str, trained: bool = False) -> CfgNode:
    """The configuration of a recipe, not frozen.

    Args:
        trained: `MODEL.WEIGHTS` is the address of the published weights, instead of what a
            training starts from.

    Raises:
        UserError: there is no such recipe, or there are no published weights for it.
    """
    cfg = load_config(get_config_file(name))
    if trained:
        cfg.MODEL.WEIGHTS = get_checkpoint_url(name)
        # A warning, since few programs show less than that.
        logger.warning("The licence of the weights of %s is %s.", name, get_license(name))
    return cfg


def get(name: str, trained: bool = False, device: str | None = None) -> nn.Module:
    """The model of a recipe with its weights, in training mode.

    Args:
        trained: with the published weights, which are downloaded once; see `get_license`.
            Otherwise with what `MODEL.WEIGHTS` of the recipe names: a backbone to train from.
        device: of the model; by default the recipe's, or the CPU where there is no GPU.

    Raises:
        UserError: there is no such recipe, no published weights, or the file does not fit.
        MissingFileError: the recipe starts from a file that must be converted first; see
            docs/MODEL_ZOO.md.
        DownloadError: the weights cannot be downloaded.
    """
    cfg = get_config(name, trained)
    if device is None and not torch.cuda.is_available():
        device = "cpu"
    if device is not None:
        cfg.MODEL.DEVICE = device
    model = build_model(cfg)
    MaskFormerCheckpointer(model, accept_backbone=not trained).load(cfg.MODEL.WEIGHTS)
    return model

"""Configs of Mask2Former's and PEM's repositories, which leave some values to these repositories'
defaults, or to their code."""

import logging
from collections.abc import Set
from typing import Any

from detectron2.config import CfgNode

from mask_former.config import (
    MASK2FORMER_DEFAULTS,
    MASK2FORMER_PREDICTOR,
    PEM_PIXEL_DECODER,
    PEM_PREDICTOR,
)
from mask_former.engine.keys import value_of

PREDICTOR = "MODEL.MASK_FORMER.TRANSFORMER_DECODER_NAME"
PIXEL_DECODER = "MODEL.SEM_SEG_HEAD.PIXEL_DECODER_NAME"
HEADS = "MODEL.SEM_SEG_HEAD.DEFORMABLE_TRANSFORMER_ENCODER_N_HEADS"
POINTS = "MODEL.SEM_SEG_HEAD.DEFORMABLE_TRANSFORMER_ENCODER_N_POINTS"

logger = logging.getLogger(__name__)


def complete_config(cfg: CfgNode, given: Set[str]) -> None:
    """Complete a config of one of these repositories, in place, and say by what.

    It is known by its predictor, which it names in TRANSFORMER_DECODER_NAME, or by PEM's pixel
    decoder. Any other stays as it is.

    Args:
        given: the keys that the config sets.
    """
    if not (_name_predictor_of_pem(cfg, given) or PREDICTOR in given):
        return
    keys = cfg.MODEL.MASK_FORMER
    if not keys.TRANSFORMER_DECODER_NAME:
        return
    # The pixel decoder there has as many heads as the predictor, and samples 4 points, whatever
    # the keys for that are.
    there: dict[str, Any] = {HEADS: keys.NHEADS, POINTS: 4}
    # Warnings, since nobody has set up logs yet.
    if keys.TRANSFORMER_DECODER_NAME == MASK2FORMER_PREDICTOR:
        for key in sorted(there.keys() & given):
            if (value := value_of(cfg, key)) != there[key]:
                logger.warning(
                    "%s %s acts. Mask2Former's repository never reads it, and a model that was "
                    "trained there has %s: set it to that for weights of such a model",
                    *(key, value, there[key]),
                )
    defaults = MASK2FORMER_DEFAULTS | there
    missing = {k: v for k, v in defaults.items() if k not in given and v != value_of(cfg, k)}
    for key, value in missing.items():
        cfg.merge_from_list([key, value])
    if missing:
        logger.warning(
            "The predictor is named by Mask2Former's key TRANSFORMER_DECODER_NAME (%s), so what "
            "is left out has the defaults of that repository: %s",
            keys.TRANSFORMER_DECODER_NAME,
            ", ".join(f"{key} {value}" for key, value in missing.items()),
        )


def _name_predictor_of_pem(cfg: CfgNode, given: Set[str]) -> bool:
    """In PEM's repository its predictor is called like Mask2Former's, and is the default. Whether
    that is so here."""
    keys = cfg.MODEL.MASK_FORMER
    if (
        PIXEL_DECODER not in given
        or cfg.MODEL.SEM_SEG_HEAD.PIXEL_DECODER_NAME != PEM_PIXEL_DECODER
        or keys.TRANSFORMER_DECODER_NAME not in ("", MASK2FORMER_PREDICTOR)
        or "MODEL.MASK_FORMER.PREDICTOR_NAME" in given
    ):
        return False
    keys.TRANSFORMER_DECODER_NAME = PEM_PREDICTOR
    logger.warning(
        "With %s as in PEM's repository, the predictor is PEM's, TRANSFORMER_DECODER_NAME %s; "
        "PREDICTOR_NAME chooses another one",
        PEM_PIXEL_DECODER,
        PEM_PREDICTOR,
    )
    return True

"""The values of keys of a configuration: which they may have, beyond the type of their default."""

import math
import re
from collections.abc import Sequence
from typing import Any

from detectron2.config import CfgNode

from mask_former.errors import UserError

_INF = math.inf
# Least and largest value, of lists that of every element.
_RANGES: tuple[tuple[float, float, str], ...] = (
    (1, _INF, "INPUT.MIN_SIZE_TRAIN INPUT.MAX_SIZE_TRAIN INPUT.MAX_SIZE_TEST INPUT.IMAGE_SIZE"),
    (-_INF, 2**31 - 1, "SEED SOLVER.MAX_ITER SOLVER.CHECKPOINT_PERIOD SOLVER.IMS_PER_BATCH"),
    (1e-6, _INF, "MODEL.PIXEL_STD"),
    (0, _INF, "INPUT.MIN_SIZE_TEST INPUT.MIN_SCALE INPUT.MAX_SCALE INPUT.CROP.SIZE"),
    (0, 1, "INPUT.CROP.SINGLE_CATEGORY_MAX_AREA"),
    (0, _INF, "SOLVER.BASE_LR SOLVER.BASE_LR_END SOLVER.BACKBONE_MULTIPLIER"),
    (0, _INF, "SOLVER.WEIGHT_DECAY"),
    (0, _INF, "SOLVER.WEIGHT_DECAY_EMBED SOLVER.WEIGHT_DECAY_NORM SOLVER.GAMMA SOLVER.STEPS"),
    (0, _INF, "SOLVER.WARMUP_FACTOR SOLVER.WARMUP_ITERS SOLVER.CLIP_GRADIENTS.CLIP_VALUE"),
    (0, _INF, "SOLVER.POLY_LR_POWER SOLVER.POLY_LR_CONSTANT_ENDING"),
    (0, _INF, "SOLVER.BACKBONE_WARMUP_ITERS MODEL.EOMT.ANNEALING_START MODEL.EOMT.ANNEALING_END"),
    (0, 255, "INPUT.PADDING_VALUE"),
    (1, _INF, "MODEL.EOMT.NUM_BLOCKS"),
    (0, _INF, "MODEL.EOMT.ANNEALING_POWER"),
    (0, 1, "SOLVER.MOMENTUM SOLVER.EMA_DECAY SOLVER.LAYER_DECAY"),
    (1, _INF, "SOLVER.ACCUMULATION_STEPS"),
    (0, _INF, "SOLVER.EARLY_STOPPING_PATIENCE SOLVER.REFERENCE_WORLD_SIZE"),
    (0, _INF, "MODEL.SEM_SEG_HEAD.CLASS_WEIGHTS"),
    (0, _INF, "DATALOADER.NUM_WORKERS DATALOADER.REPEAT_THRESHOLD TEST.EVAL_PERIOD"),
    (1, _INF, "TEST.DETECTIONS_PER_IMAGE TEST.AUG.MIN_SIZES TEST.AUG.MAX_SIZE"),
    (0, 1, "TEST.COUNT.MIN_SCORE"),
    (1, _INF, "TEST.WINDOW.BATCH_SIZE"),
    (0, _INF, "TEST.WINDOW.SIZE TEST.WINDOW.STRIDE"),
    (1, _INF, "MODEL.SEM_SEG_HEAD.NUM_CLASSES MODEL.SEM_SEG_HEAD.MASK_DIM"),
    (1, _INF, "MODEL.SEM_SEG_HEAD.CONVS_DIM MODEL.MASK_FORMER.NUM_OBJECT_QUERIES"),
    (1, _INF, "MODEL.MASK_FORMER.NHEADS MODEL.MASK_FORMER.HIDDEN_DIM"),
    (1, _INF, "MODEL.MASK_FORMER.DIM_FEEDFORWARD MODEL.MASK_FORMER.OVERSAMPLE_RATIO"),
    (0, _INF, "MODEL.MASK_FORMER.ENC_LAYERS MODEL.MASK_FORMER.DEC_LAYERS"),
    (0, _INF, "MODEL.MASK_FORMER.TRAIN_NUM_POINTS MODEL.SEM_SEG_HEAD.TRANSFORMER_ENC_LAYERS"),
    (0, _INF, "MODEL.MASK_FORMER.CLASS_WEIGHT MODEL.MASK_FORMER.MASK_WEIGHT"),
    (0, _INF, "MODEL.MASK_FORMER.DICE_WEIGHT MODEL.MASK_FORMER.NO_OBJECT_WEIGHT"),
    (0, 1, "MODEL.MASK_FORMER.DROPOUT MODEL.MASK_FORMER.IMPORTANCE_SAMPLE_RATIO"),
    (1, _INF, "MODEL.SEM_SEG_HEAD.DEFORMABLE_TRANSFORMER_ENCODER_N_POINTS"),
    (1, _INF, "MODEL.SEM_SEG_HEAD.DEFORMABLE_TRANSFORMER_ENCODER_N_HEADS"),
    (0, _INF, "MODEL.VIT.IMG_SIZE MODEL.VIT.PATCH_SIZE MODEL.VIT.NORM_EPS"),
    (1, _INF, "MODEL.VIT.OUT_CHANNELS"),
    (0, 1, "MODEL.VIT.DROP_PATH_RATE MODEL.TIMM.DROP_PATH_RATE"),
    (0, _INF, "MODEL.SEGMENTER.DEC_LAYERS"),
    (0, 1, "MODEL.SEGMENTER.DROPOUT"),
    (0, 1, "MODEL.MASK_FORMER.TEST.OBJECT_MASK_THRESHOLD"),
    (0, 1, "MODEL.MASK_FORMER.TEST.OVERLAP_THRESHOLD"),
    (1, _INF, "MODEL.SWIN.PATCH_SIZE MODEL.SWIN.EMBED_DIM MODEL.SWIN.DEPTHS"),
    (1, _INF, "MODEL.SWIN.NUM_HEADS MODEL.SWIN.WINDOW_SIZE"),
    (0, 1, "MODEL.SWIN.DROP_RATE MODEL.SWIN.ATTN_DROP_RATE MODEL.SWIN.DROP_PATH_RATE"),
)
_RANGE = {key: (low, high) for low, high, keys in _RANGES for key in keys.split()}
# An end of the range that is not in it.
_EXCLUDED = {"SOLVER.EMA_DECAY": 1, "SOLVER.LAYER_DECAY": 0, "MODEL.SWIN.DROP_PATH_RATE": 1}
_KINDS = {"texts": (str,), "whole numbers": (int,), "numbers": (int, float)}
# Of lists that are empty by default.
_KIND_OF_LIST = {
    "DATASETS.TRAIN": "texts",
    "DATASETS.TEST": "texts",
    "IMPORTS": "texts",
    "TEST.LOSS.DATASETS": "texts",
    "MODEL.EOMT.ANNEALING_START": "whole numbers",
    "MODEL.EOMT.ANNEALING_END": "whole numbers",
    "MODEL.FREEZE": "texts",
    "MODEL.SEM_SEG_HEAD.CLASS_WEIGHTS": "numbers",
}
# Regular expressions.
_PATTERNS = ("MODEL.FREEZE", "SOLVER.LAYER_DECAY_PATTERN", "SOLVER.LR_FACTORS")
_CHOICES = {
    "INPUT.RANDOM_FLIP": ("none", "horizontal", "vertical"),
    "INPUT.MIN_SIZE_TRAIN_SAMPLING": ("choice", "range"),
    "INPUT.FORMAT": ("RGB", "BGR"),
    "MODEL.SEM_SEG_HEAD.NORM": (
        *("", "BN", "SyncBN", "naiveSyncBN", "naiveSyncBN_N", "nnSyncBN", "FrozenBN", "GN", "LN"),
    ),
}
# Lists of another length make no sense.
_LENGTHS = {
    "MODEL.PIXEL_MEAN": (3, 3),
    "MODEL.PIXEL_STD": (3, 3),
    "INPUT.MIN_SIZE_TRAIN": (1, _INF),
    "TEST.AUG.MIN_SIZES": (1, _INF),
    "INPUT.CROP.SIZE": (2, 2),
}


def check_value(key: str, value: Any, default: Any, source: str) -> None:
    """Raise UserError unless a key may have a value.

    Args:
        key: full name.
        value: of the type of `default`, which has been checked.
        default: whose elements those of `value` must be like, if it has any.
        source: where the value stands, for the error message.
    """
    place = f"{source}: {key} is {value!r}, but "
    if value is None and default is not None:
        raise UserError(f"{place}must be a {type(default).__name__}, like {default!r}.")
    if key in _CHOICES and value not in _CHOICES[key]:
        raise UserError(f"{place}must be one of {', '.join(map(repr, _CHOICES[key]))}.")
    if key == "SOLVER.LR_FACTORS":
        _check_factors(value, place)
    least, most = _LENGTHS.get(key, (0, _INF))
    if isinstance(value, list | tuple) and not least <= len(value) <= most:
        raise UserError(f"{place}must have {least}{' or more' * (most > least)} elements.")
    elements = list(_leaves(value))
    if key in _PATTERNS:
        _check_patterns(elements, place)
    if kind := _kind_of_elements(key, default):
        for element in elements:
            if not _is(kind, element):
                raise UserError(f"{place}its elements must be {kind}, not {element!r}.")
    low, high = _RANGE.get(key, (-_INF, _INF))
    excluded = _EXCLUDED.get(key)
    for element in elements:
        if isinstance(element, float) and not math.isfinite(element):
            raise UserError(f"{place}must be a finite number.")
        if isinstance(element, int | float) and (not low <= element <= high or element == excluded):
            limit = f"at least {low}" if high == _INF else f"in {low}..{high}"
            limit = f"at most {high}" if low == -_INF else limit
            limit += f", without {excluded}" if excluded is not None else ""
            raise UserError(f"{place}must be {limit}.")


def _check_factors(pairs: Sequence[Any], place: str) -> None:
    for pair in pairs:
        is_pair = isinstance(pair, list | tuple) and len(pair) == 2
        if not (is_pair and _is("texts", pair[0]) and _is("numbers", pair[1]) and pair[1] > 0):
            raise UserError(
                f"{place}its elements must be pairs of a pattern and a factor above 0, like "
                f"['query', 0.1], not {pair!r}. MODEL.FREEZE names what shall not learn at all."
            )


def _check_patterns(elements: Sequence[Any], place: str) -> None:
    for pattern in elements:
        try:
            re.compile(pattern if isinstance(pattern, str) else "")
        except re.error as error:
            raise UserError(f"{place}{pattern!r} is no regular expression: {error}.") from error


def _leaves(value: Any):
    """The numbers and texts in nested lists."""
    if isinstance(value, list | tuple):
        for element in value:
            yield from _leaves(element)
    elif not isinstance(value, CfgNode):
        yield value


def _kind_of_elements(key: str, default: Any) -> str | None:
    """What the elements of a list must be, by those of its default; None: anything."""
    if not isinstance(default, list | tuple):
        return None
    if key in _KIND_OF_LIST:
        return _KIND_OF_LIST[key]
    elements = list(_leaves(default))
    fitting = (kind for kind in _KINDS if elements and all(_is(kind, e) for e in elements))
    return next(fitting, None)


def _is(kind: str, element: Any) -> bool:
    return type(element) in _KINDS[kind]

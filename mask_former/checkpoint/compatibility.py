"""Whether weights fit a model, and the error message that says where they do not."""

import re
from collections.abc import Mapping
from typing import Any

from detectron2.checkpoint.c2_model_loading import align_and_update_state_dicts
from detectron2.modeling.backbone.resnet import BottleneckBlock, DeformBottleneckBlock
from torch import Tensor, nn

from mask_former.checkpoint.names import Weights, without_counters
from mask_former.errors import NonFiniteError, UserError

BACKBONE = "backbone."
HEAD = "sem_seg_head."
MAX_LISTED = 10  # names in an error message

_BACKBONE_REMEDY = "\nMODEL.WEIGHTS must be of the architecture that MODEL.BACKBONE names."
_PREDICTOR = f"{HEAD}predictor."
# MaskFormer's classifier, or a convolution that classifies pixels; Segmenter's, or its masks' norm.
_CLASSIFIER = re.compile(re.escape(_PREDICTOR) + r"((class_embed|head|mask_norm)\.\w+|weight|bias)")
# Mask2Former's queries have features of their own besides. Segmenter's are tokens.
_QUERIES = {
    f"{_PREDICTOR}query_embed.weight",
    f"{_PREDICTOR}query_feat.weight",
    f"{_PREDICTOR}cls_emb",
}


def has_head(weights: Weights) -> bool:
    """Whether weights are of a whole model, and not of a backbone alone."""
    return any(name.startswith(HEAD) for name in weights)


def class_head(model: nn.Module) -> set[str]:
    """Names of the weights of a model that depend on which classes it knows.

    Where queries stand for classes, one for each (fixed matching, PerPixelBaseline+), their
    embeddings are among them.
    """
    weights = model.state_dict()
    names = {name for name in weights if _CLASSIFIER.fullmatch(name)}
    matchers = (getattr(module, "matcher", None) for module in model.modules())
    fixed = any(getattr(matcher, "queries_are_classes", False) for matcher in matchers)
    if fixed or f"{_PREDICTOR}class_embed.bias" not in weights:
        names |= _QUERIES & weights.keys()
    return names


def backbone_weights(
    file: str, weights: Weights, model: Weights, *, is_caffe2: bool, pretrained: str = ""
) -> Weights:
    """Name the weights of a backbone as the model does, by Detectron2's matching of suffixes.

    Args:
        pretrained: the part of the backbone that files hold, such as "encoder."; there no weight
            may be missing. Empty: all of it, but Detectron2's files lack some.

    Raises:
        UserError: weights of that part are missing; or more than half of the backbone's, or they
            have another shape; or of a kind some are missing or left over, as of another depth.
    """
    # The backbone alone: its "norm.weight" is no norm of the head.
    backbone = {name: tensor for name, tensor in model.items() if name.startswith(BACKBONE)}
    in_file = weights.keys()
    try:
        weights = align_and_update_state_dicts(backbone, weights, c2_conversion=is_caffe2)
    except ValueError as error:  # the ends of names fit several weights
        raise UserError(f"{file} does not fit the backbone: {error}{_BACKBONE_REMEDY}") from error
    if pretrained:
        part = f"{BACKBONE}{pretrained}"
        backbone = {name: tensor for name, tensor in backbone.items() if name.startswith(part)}
        backbone, _ = without_counters(backbone)
    # Not by what fails to load: a FrozenBatchNorm2d makes up the statistics that are missing.
    absent = {
        name: "missing in the file, or of another shape"
        for name, tensor in backbone.items()
        if name not in weights or weights[name].shape != tensor.shape
    }
    # Files may lack all weights of a kind, such as the norms of Swin's outputs, or an FPN.
    kinds = {_kind(name) for name in backbone.keys() - absent.keys()}
    wrong = {
        name: problem
        for name, problem in absent.items()
        if pretrained or _kind(name) in kinds or {name, name.removeprefix(BACKBONE)} & in_file
    }
    if not pretrained:  # of another depth, too
        wrong |= {
            name: "not in the model"
            for name in weights.keys() - model.keys()
            if "#" in (kind := _kind(name)) and any(f".{k}".endswith(f".{kind}") for k in kinds)
        }
    if wrong or len(absent) > len(backbone) / 2:
        raise UserError(
            f"{file} does not fit the backbone: of its {len(backbone)} weights "
            f"{len(backbone) - len(absent)} were found."
            f"{_listing(wrong or absent)}{_BACKBONE_REMEDY}"
        )
    return weights


def _kind(name: str) -> str:
    """A name without the numbers of layers: `res4.5.conv1.weight` -> `res4.#.conv1.weight`."""
    return re.sub(r"(?<=\.)\d+(?=\.)", "#", name)


def check_strides(file: str, model: nn.Module) -> None:
    """Raise UserError if blocks of a ResNet stride elsewhere than torchvision's, whose weights they
    get: they would compute something else. Weights of Caffe2 exist for both."""
    kinds = (BottleneckBlock, DeformBottleneckBlock)
    blocks = [module for module in model.modules() if isinstance(module, kinds)]
    if any(block.conv1.stride != (1, 1) for block in blocks):
        raise UserError(
            f"{file} holds torchvision's weights, of a network that strides in its 3x3 "
            "convolutions: set MODEL.RESNETS.STRIDE_IN_1X1 to False."
        )


def mismatches(incompatible: Any) -> dict[str, str]:
    """Name of every weight that does not fit -> what is wrong with it.

    Args:
        incompatible: what fvcore's checkpointer returns for a model.
    """
    wrong = {
        name: f"{tuple(in_file)} in the file, {tuple(in_model)} in the model"
        for name, in_file, in_model in incompatible.incorrect_shapes
    }
    for name in incompatible.missing_keys:
        wrong.setdefault(name, "missing in the file")
    for name in incompatible.unexpected_keys:
        wrong[name] = "not in the model"
    return wrong


def describe_mismatches(file: str, incompatible: Any, head: set[str], *, starts: bool) -> str:
    """The error message for weights that do not fit.

    Args:
        head: `class_head` of the model.
        starts: a training starts from the file, so that a part of it may be enough.
    """
    wrong = mismatches(incompatible)
    text = f"{file} holds another model than the configuration describes:{_listing(wrong)}"
    text += _other_image_size(incompatible)
    # Not the queries, as long as there is a classifier: their number may differ by itself.
    classifier = {name for name in head if _CLASSIFIER.fullmatch(name)} or head
    sizes = [(a[0], b[0], name) for name, a, b in incompatible.incorrect_shapes]
    sizes = [size for size in sizes if size[2] in classifier]
    if sizes and wrong.keys() <= head:
        in_file, in_model, name = sizes[0]
        no_object = "class_embed" in name
        text += (
            f"\nIt was trained for {in_file - no_object} classes; "
            f"MODEL.SEM_SEG_HEAD.NUM_CLASSES is {in_model - no_object}."
        )
        if starts:
            text += (
                " Set MODEL.WEIGHTS_WITHOUT_CLASS_HEAD to True to start from all the other weights."
            )
    return text


def _other_image_size(incompatible: Any) -> str:
    """What to do where a plain ViT's learned positions are for images of another size."""
    for name, in_file, in_model in incompatible.incorrect_shapes:
        if name.endswith("pos_embed") and in_file[-1] == in_model[-1]:
            return (
                f"\n{name} is for {in_file[1]} patches and tokens, here for {in_model[1]}: set "
                "MODEL.VIT.IMG_SIZE and PATCH_SIZE to those of the weights."
            )
    return ""


def _listing(wrong: dict[str, str]) -> str:
    lines = [f"\n  {name}: {problem}" for name, problem in list(wrong.items())[:MAX_LISTED]]
    if len(wrong) > MAX_LISTED:
        lines.append(f"\n  ... and {len(wrong) - MAX_LISTED} more")
    return "".join(lines)


def check_finite_weights(weights: Mapping[str, Tensor], consequence: str) -> None:
    """Raise NonFiniteError, which says the `consequence`, if a weight is NaN or infinite."""
    bad = [name for name, weight in weights.items() if not bool(weight.isfinite().all())]
    if bad:
        raise NonFiniteError(
            f"{consequence}: {len(bad)} of {len(weights)} weights are not finite, such as "
            f"{bad[0]}. {NonFiniteError.REMEDY}"
        )

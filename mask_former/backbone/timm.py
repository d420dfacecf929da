"""Any model of timm that has a pyramid of feature maps, as a backbone.

The weights keep timm's names, behind `backbone.model.`, so that a file of timm's fits as it is.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from mask_former.backbone.pyramid import PyramidBackbone
from mask_former.backbone.timm_models import (
    check_pixel_statistics,
    create_timm_model,
    maps_by_name,
    parameters_up_to,
    pretrained_cfg,
    require_timm,
    scales,
    weights_as_timm_reads_them,
)
from mask_former.errors import UserError, check_choice

KEY = "MODEL.TIMM.NAME"
NORMS = ("BN", "SyncBN", "FrozenBN")


@BACKBONE_REGISTRY.register()
class TimmBackbone(PyramidBackbone):
    """A model of timm, with its maps by stride: res2 of stride 4, ... res5 of stride 32.

    Images may have any size. One that the coarsest stride does not divide is padded with zeros
    below and on the right, and the maps are cropped again: some models of timm would round their
    sizes down, and others fail.

    Args:
        name: of the model, see `timm.list_models()`; may have the tag of its weights.
        out_features: names of the maps to return. Layers that only coarser ones need are not made.
        pretrained: start from the weights that timm names, which it downloads into its cache.
        in_chans: channels of the images.
        freeze_at: 1: the stem does not learn; n: neither do the stages up to that of map `res{n}`.
        norm: what batch norms normalize by in training: the batch (`BN`), that of all processes
            (`SyncBN`), or the statistics of the pretraining, which then do not learn (`FrozenBN`).
        drop_path_rate: stochastic depth, as timm defines it for the model; 0: its default.

    Raises:
        UserError: see `create_timm_model`; the model has no such maps, does not take images of any
            size, or cannot be frozen there; unknown `norm`.
    """

    pretrained_part = "model."  # what a file of weights must hold

    @configurable
    def __init__(
        self,
        *,
        name: str,
        out_features: Sequence[str] = ("res2", "res3", "res4", "res5"),
        pretrained: bool = False,
        in_chans: int = 3,
        freeze_at: int = 0,
        norm: str = "BN",
        drop_path_rate: float = 0.0,
    ) -> None:
        super().__init__()
        self.name = name
        self.model = _create(name, pretrained, in_chans, drop_path_rate)
        self._momenta = None
        maps = maps_by_name(self.model)
        missing = [feature for feature in out_features if feature not in maps]
        if missing or not out_features:
            raise UserError(
                f"{KEY}: {name} has no map {' or '.join(missing)}, which MODEL.TIMM.OUT_FEATURES "
                f"names; its maps are {', '.join(maps) or 'none of strides 2, 4, 8, ...'}. A plain "
                "ViT has one map; MODEL.BACKBONE.NAME ViTPyramid makes a pyramid of it."
            )
        chosen = sorted(maps[feature] for feature in out_features)
        names = {index: feature for feature, index in maps.items()}
        self.shapes = {
            names[i]: ShapeSpec(
                channels=self.model.feature_info[i]["num_chs"],
                stride=self.model.feature_info[i]["reduction"],
            )
            for i in chosen
        }
        # Of the model's parameters by their depth, before the last layers are cut off.
        frozen = parameters_up_to(freeze_at, self.model, name)
        self._indices = self.model.prune_intermediate_layers(chosen, prune_norm=True)
        self._set_norms(norm, frozen)
        self._in_chans = in_chans
        self._check_sizes()

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: ShapeSpec) -> dict[str, Any]:
        keys = cfg.MODEL.TIMM
        check_pixel_statistics(cfg, keys.NAME, KEY, pretrained=keys.PRETRAINED)
        return {
            "name": keys.NAME,
            "out_features": keys.OUT_FEATURES,
            # Weights of a file replace them, so that they need not be there.
            "pretrained": keys.PRETRAINED and not cfg.MODEL.WEIGHTS,
            "in_chans": input_shape.channels,
            "freeze_at": cfg.MODEL.BACKBONE.FREEZE_AT,
            "norm": keys.NORM,
            "drop_path_rate": keys.DROP_PATH_RATE,
        }

    def _set_norms(self, norm: str, frozen: set[str]) -> None:
        check_choice("MODEL.TIMM.NORM", norm, NORMS)
        if norm == "SyncBN":
            self.model = require_timm().layers.convert_sync_batchnorm(self.model)
        for name, parameter in self.model.named_parameters():
            parameter.requires_grad_(name not in frozen)
        self._norms = [m for m in self.model.modules() if isinstance(m, _BatchNorm)]
        if norm == "FrozenBN":
            for module in self._norms:
                module.requires_grad_(False)
        self.frozen = [
            module
            for module in self._norms
            if norm == "FrozenBN" or module.affine and not module.weight.requires_grad
        ]

    def no_weight_decay(self) -> set[str]:
        """Names of the parameters that only scale: norms of timm's own classes, layer scales.

        The model itself names its position embeddings in the same way."""
        return scales(self)

    def convert_weights(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Weights of a file of timm's or the model's authors, under timm's names."""
        return weights_as_timm_reads_them(self.model, weights)

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Compute the activations again for gradients, instead of keeping them.

        Raises:
            UserError: timm cannot do so with this model.
        """
        try:
            self.model.set_grad_checkpointing(enable)
        except AssertionError as error:
            raise UserError(
                f"timm has no activation checkpointing for {self.name}. Set "
                "MODEL.BACKBONE.ACTIVATION_CHECKPOINTING to False."
            ) from error
        self._momenta = [norm.momentum for norm in self._norms] if enable else None

    def _gathering_statistics(self) -> AbstractContextManager:
        return nullcontext() if self._momenta is None else _momenta(self._norms, self._momenta)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """(B, 3, H, W) -> {name: (B, C, H/stride, W/stride)}, sizes rounded up."""
        height, width = x.shape[-2:]
        below, right = (-side % self.size_divisibility for side in (height, width))
        if below or right:
            x = F.pad(x, (0, right, 0, below))
        with self._gathering_statistics():
            maps = self.model.forward_intermediates(
                x, indices=self._indices, output_fmt="NCHW", intermediates_only=True
            )
        outputs = {}
        for (name, shape), feature in zip(self.shapes.items(), maps, strict=True):
            rows, columns = -(-height // shape.stride), -(-width // shape.stride)
            outputs[name] = feature[..., :rows, :columns]
        return outputs

    @torch.no_grad()
    def _check_sizes(self) -> None:
        """Try a small image: models have limits that they do not tell."""
        parameter = next(self.model.parameters())
        if parameter.is_meta:
            return
        side = self.size_divisibility
        image = parameter.new_zeros(1, self._in_chans, 2 * side, 3 * side)
        refusal = f"{KEY}: {self.name} is no backbone for images of any size: for {2 * side} x "
        refusal += f"{3 * side} pixels it "
        training = self.training
        try:
            maps = self.eval()(image)
        except Exception as error:  # Each model fails in its own way.
            reason = f"{type(error).__name__}: {error}".splitlines()[0]
            raise UserError(f"{refusal}fails ({reason}).") from error
        finally:
            self.train(training)
        for name, shape in self.shapes.items():
            size = tuple(maps[name].shape[-2:])
            if size != (2 * side // shape.stride, 3 * side // shape.stride):
                raise UserError(f"{refusal}makes a map {name} of {size}.")


def _create(name: str, pretrained: bool, in_chans: int, drop_path_rate: float) -> nn.Module:
    options: dict[str, Any] = {"pretrained": pretrained, "in_chans": in_chans}
    if drop_path_rate:
        options["drop_path_rate"] = drop_path_rate
    if pretrained_cfg(name, KEY).fixed_input_size:
        try:  # Swin Transformers take any size when they are told so.
            return create_timm_model(name, KEY, strict_img_size=False, **options)
        except TypeError as error:
            if "strict_img_size" not in str(error):
                raise
    return create_timm_model(name, KEY, **options)


@contextmanager
def _momenta(norms: Sequence[nn.Module], momenta: Sequence[float]) -> Iterator[None]:
    """Let batch norms gather statistics in here, and not when gradients compute them again."""
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    try:
        yield
    finally:
        for norm in norms:
            norm.momentum = 0.0

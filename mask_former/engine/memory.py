"""How much memory a training takes, and a device has."""

import os
from typing import NamedTuple

import torch
from detectron2.config import CfgNode
from detectron2.modeling import build_model
from torch import nn
from torch.autograd.graph import saved_tensors_hooks
from torch.overrides import TorchFunctionMode

MIB = 2**20
# Weights, gradients and the two averages of AdamW, in float32.
_BYTES_PER_PARAMETER = 16
# Of what the network keeps for its gradients, in float32: with matching, losses and the gradients
# themselves, in float32 and with 16-bit products. Measured for the latter on an H200: 0.65
# (MaskFormer, R50) and 0.79 (Swin-T) of it. Rounded up.
_FLOAT32, _MIXED = 2.0, 1.3
# What libraries take for themselves.
_LIBRARIES = 1500 * MIB


class Memory(NamedTuple):
    """The memory of a training in bytes: `fixed`, and besides for each `image` of a batch."""

    fixed: int
    image: int


class _WithoutMemory(TorchFunctionMode):
    """Parameters are created on the meta device; other tensors have values, unlike under
    `torch.device("meta")`, as constructors read, say, drop path rates from them."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func is torch.empty:
            kwargs = {**kwargs, "device": "meta"}
        return func(*args, **kwargs)


def build_without_weights(cfg: CfgNode) -> nn.Module:
    """Build the model of `cfg` for semantic inference on the meta device: shapes, no memory.

    Panoptic and instance inference, which depend on what is found, are switched off.
    """
    cfg = cfg.clone()
    cfg.defrost()
    cfg.MODEL.DEVICE = "meta"
    cfg.MODEL.TIMM.PRETRAINED = cfg.MODEL.VIT.PRETRAINED = False
    test = cfg.MODEL.MASK_FORMER.TEST
    test.SEMANTIC_ON, test.PANOPTIC_ON, test.INSTANCE_ON = True, False, False
    with _WithoutMemory():
        return build_model(cfg).eval()


def training_memory(cfg: CfgNode, size: tuple[int, int], *, mixed: bool) -> Memory:
    """An estimate of what a training of `cfg` takes: what autograd keeps, which is counted from
    shapes alone, times a measured factor.

    Args:
        size: of the images (height, width), as the network sees them.
        mixed: whether products are computed in 16 bits.
    """
    model = build_without_weights(cfg).train()
    own = {p.untyped_storage()._cdata for p in model.parameters()}
    kept: dict[int, torch.UntypedStorage] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        kept[storage._cdata] = storage
        return tensor

    divisor = max(getattr(model, "size_divisibility", model.backbone.size_divisibility), 1)
    height, width = (-(-side // divisor) * divisor for side in size)
    images = torch.zeros(2, 3, height, width, device="meta")  # some norms refuse a single one
    with saved_tensors_hooks(keep, lambda tensor: tensor):
        if hasattr(model, "predict"):
            model.predict(images)
        else:  # Detectron2's SemanticSegmentor, whose head in training wants labels
            model.sem_seg_head.eval()(model.backbone(images))
    saved = sum(storage.nbytes() for key, storage in kept.items() if key not in own)
    parameters = sum(p.numel() for p in model.parameters())
    return Memory(
        _LIBRARIES + parameters * _BYTES_PER_PARAMETER,
        round(saved / len(images) * (_MIXED if mixed else _FLOAT32)),
    )


def device_memory(device: torch.device) -> int:
    """The memory of a device in bytes; of the CPU, that which is free."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    try:
        with open("/proc/meminfo") as file:
            fields = dict(line.split(":") for line in file)
        return int(fields["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError):  # no Linux
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2

"""Arithmetic and memory layout that suit a device; everything that computes asks here.

What is fast on one machine may be hundreds of times slower on another: a product of bfloat16
matrices takes a quarter of float32's time on a CPU with instructions for it, and 400 times as long
on one without.
"""

import logging
import platform
from dataclasses import dataclass

import torch
from detectron2.config import CfgNode
from torch import nn

from mask_former.errors import UserError, check_choice

logger = logging.getLogger(__name__)

_LOW = {"bfloat16": torch.bfloat16, "float16": torch.float16}  # the first is preferred
_MEMORY_FORMATS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}


@dataclass(frozen=True)
class Precision:
    """Arithmetic of matrix products and convolutions.

    Attributes:
        dtype: of mixed precision (autocast); None: float32 throughout.
        reason: why it was chosen, for the log.
    """

    dtype: torch.dtype | None
    reason: str

    def __str__(self) -> str:
        return "float32" if self.dtype is None else f"mixed, {_name(self.dtype)}"


def native_dtypes(device: torch.device | str) -> frozenset[torch.dtype]:
    """The 16-bit types in which a device multiplies itself, in less time than float32 takes."""
    device = torch.device(device)
    if device.type == "cuda":
        capability = torch.cuda.get_device_capability(device)
        first = {torch.float16: (7, 0), torch.bfloat16: (8, 0)}  # Volta's and Ampere's tensor cores
        return frozenset(dtype for dtype, since in first.items() if capability >= since)
    if device.type == "mps":
        return frozenset({torch.float16})  # of all Apple GPUs; only later ones have bfloat16
    return frozenset({torch.bfloat16} if device.type == "cpu" and _cpu_has_bfloat16() else ())


def _cpu_has_bfloat16() -> bool:
    try:
        supported = torch.ops.mkldnn._is_mkldnn_bf16_supported()
    except (AttributeError, RuntimeError):  # PyTorch was built without oneDNN
        return False
    if platform.machine() not in ("x86_64", "AMD64"):
        return supported
    # oneDNN's answer is yes for every AVX-512, but where there are no instructions for bfloat16 it
    # takes 4 times as long as float32.
    return supported and getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True)()


def training_precision(cfg: CfgNode) -> Precision:
    """What SOLVER.AMP asks for.

    Raises:
        UserError: SOLVER.AMP.DTYPE is unknown, or would be emulated on MODEL.DEVICE.
    """
    if not cfg.SOLVER.AMP.ENABLED:
        return Precision(None, "SOLVER.AMP.ENABLED False")
    device = torch.device(cfg.MODEL.DEVICE)
    native = native_dtypes(device)
    if device.type != "cuda":
        native -= {torch.float16}  # its gradients are scaled, which is tested on CUDA only
    return _choose("SOLVER.AMP.DTYPE", cfg.SOLVER.AMP.DTYPE, device, native)


def inference_precision(cfg: CfgNode) -> Precision:
    """What TEST.PRECISION asks for, in evaluation and prediction.

    Raises:
        UserError: it is unknown, or would be emulated on MODEL.DEVICE.
    """
    name = cfg.TEST.PRECISION
    if name == "auto" and not cfg.SOLVER.AMP.ENABLED:
        return Precision(None, "TEST.PRECISION auto: SOLVER.AMP.ENABLED False")
    device = torch.device(cfg.MODEL.DEVICE)
    native = native_dtypes(device)
    learned_in = cfg.SOLVER.AMP.DTYPE
    if name == "auto" and (learned_in == "float32" or _LOW.get(learned_in) in native):
        name = learned_in  # on another device than that of the training it may not be there
    return _choose("TEST.PRECISION", name, device, native)


def _choose(key: str, name: str, device: torch.device, native: frozenset[torch.dtype]) -> Precision:
    check_choice(key, name, ("auto", "float32", *_LOW))
    if name == "float32":
        return Precision(None, f"{key} float32")
    best = next((dtype for dtype in _LOW.values() if dtype in native), None)
    if name == "auto":
        why = "has no native 16-bit type for it" if best is None else "computes it natively"
        return Precision(best, f"{key} auto: {device} {why}")
    if _LOW[name] not in native:
        raise UserError(
            f"{key} is {name}, which {device} would emulate, on CPUs in hundreds of times the time "
            f"of float32. Set {key} auto, which is {_name(best or torch.float32)} here."
        )
    return Precision(_LOW[name], f"{key} {name}")


def memory_format(cfg: CfgNode, *, training: bool) -> str:
    """The name of the layout that MODEL.MEMORY_FORMAT asks for; for auto the faster one.

    Time with channels_last relative to contiguous (R50, variants in turns in one process with freed
    memory kept), of a training step (forward and backward, 256x256, batch 2) and of inference:

        AVX2, float32        1.17 (backward pass 1.4)  0.87 (panoptic, 800x1216), 1.0 (640x640),
                                                       1.13 (256x256)
        AVX-512, float32     0.76 (backward pass 0.8)  0.87 (256x256)
        the same, AMD Zen 4  1.0 (512x512)
        AVX-512, bfloat16    0.75 (backward pass 0.8)  0.75 (256x256)

        H200, float32        1.14, Swin-T 1.02         1.12, Swin-T 0.96
        H200, TF32           0.99, Swin-T 1.15         1.03, Swin-T 1.17
        H200, bfloat16       1.05, Swin-T 1.25         0.92, Swin-T 1.07

    (R50 and Swin-T on the GPU: 512x512, batch 8 and 1.) What was not measured stays contiguous.

    Raises:
        UserError: it is unknown.
    """
    name = cfg.MODEL.MEMORY_FORMAT
    check_choice("MODEL.MEMORY_FORMAT", name, ("auto", *_MEMORY_FORMATS))
    if name != "auto":
        return name
    if torch.device(cfg.MODEL.DEVICE).type != "cpu":
        return "contiguous"
    capability = torch.backends.cpu.get_cpu_capability()
    faster = capability == "AVX512" or (capability == "AVX2" and not training)
    return "channels_last" if faster else "contiguous"


def prepare(cfg: CfgNode, model: nn.Module, *, training: bool) -> Precision:
    """Make ready to train `model`, or to predict with it: its memory layout, and the settings of
    PyTorch that hold for the whole process, MODEL.TF32 and CUDNN_BENCHMARK. Logs what was chosen.

    Returns:
        the precision to run it in.
    """
    precision = training_precision(cfg) if training else inference_precision(cfg)
    layout = memory_format(cfg, training=training)
    model.to(memory_format=_MEMORY_FORMATS[layout])
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = cfg.MODEL.TF32
    # Trying out convolutions pays when sizes repeat, which they do not in an evaluation.
    torch.backends.cudnn.benchmark = cfg.CUDNN_BENCHMARK and training
    logger.info(
        f"{'Training' if training else 'Inference'} on {cfg.MODEL.DEVICE}: {precision} "
        f"({precision.reason}), memory format {layout}"
    )
    return precision


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")

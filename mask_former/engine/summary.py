"""What is about to be trained, on one screen."""

import torch
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.utils import comm
from torch import nn
from torch.utils.data import DataLoader

from mask_former.precision import inference_precision, training_precision


def summarize(
    cfg: CfgNode, model: nn.Module, train_loader: DataLoader, *, start_iter: int = 0
) -> str:
    """Data, optimization and machine of a training, as an aligned block of text."""
    images = len(train_loader.dataset)
    rows = [
        ("training data", f"{', '.join(cfg.DATASETS.TRAIN)}: {_count(images, 'image', 'images')}"),
        ("test data", ", ".join(cfg.DATASETS.TEST) or "none"),
        ("classes", f"{cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES} {_split_classes(cfg)}".rstrip()),
        ("batch", _describe_batch(cfg)),
        ("iterations", _describe_length(cfg, images, start_iter)),
        ("learning rate", _describe_rate(cfg)),
        ("precision", f"{training_precision(cfg)}; evaluation: {inference_precision(cfg)}"),
        ("device", _describe_device(cfg)),
        ("parameters", _describe_parameters(model)),
        ("output", cfg.OUTPUT_DIR),
    ]
    width = max(len(label) for label, _ in rows)
    return "About to train:\n" + "\n".join(f"  {label:<{width}}  {text}" for label, text in rows)


def _split_classes(cfg: CfgNode) -> str:
    metadata = MetadataCatalog.get(cfg.DATASETS.TRAIN[0])
    things = len(set(getattr(metadata, "thing_dataset_id_to_contiguous_id", {}).values()))
    stuff = cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES - things
    return f"({things} things, {stuff} stuff)" if things and stuff > 0 else ""


def _describe_batch(cfg: CfgNode) -> str:
    total, processes = cfg.SOLVER.IMS_PER_BATCH, comm.get_world_size()
    return f"{total} images ({total // processes} x {_count(processes, 'process', 'processes')})"


def _describe_length(cfg: CfgNode, images: int, start_iter: int) -> str:
    length = cfg.SOLVER.MAX_ITER
    epochs = length * cfg.SOLVER.IMS_PER_BATCH / max(images, 1)
    start = f", continuing at {start_iter:,}" if start_iter else ""
    return f"{length:,} ({epochs:.3g} epochs){start}"


def _describe_rate(cfg: CfgNode) -> str:
    solver = cfg.SOLVER
    schedule = solver.LR_SCHEDULER_NAME
    if schedule == "WarmupMultiStepLR":
        schedule += f" at {', '.join(map(str, solver.STEPS))}"
    return (
        f"{solver.BASE_LR:g} (backbone x {solver.BACKBONE_MULTIPLIER:g}), {solver.OPTIMIZER}, "
        f"{schedule}, {_count(solver.WARMUP_ITERS, 'warm-up iteration', 'warm-up iterations')}"
    )


def _describe_device(cfg: CfgNode) -> str:
    device = torch.device(cfg.MODEL.DEVICE)
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{device.type} ({_count(torch.get_num_threads(), 'thread', 'threads')} a process)"


def _describe_parameters(model: nn.Module) -> str:
    total = sum(p.numel() for p in model.parameters())
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    return f"{total / 1e6:.1f} million, {trained / 1e6:.1f} million trained"


def _count(number: int, one: str, many: str) -> str:
    return f"{number:,} {one if number == 1 else many}"

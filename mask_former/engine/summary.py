"""What is about to be trained, on one screen."""

import torch
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.utils import comm
from torch import nn
from torch.utils.data import DataLoader

from mask_former.data.validation_loss import loss_datasets
from mask_former.engine.parameters import frozen_parts
from mask_former.errors import listed
from mask_former.precision import inference_precision, training_precision


def summarize(
    cfg: CfgNode, model: nn.Module, train_loader: DataLoader, *, start_iter: int = 0
) -> str:
    """Data, optimization and machine of a training, as an aligned block of text."""
    images = len(train_loader.dataset)
    rows = [
        ("training data", f"{', '.join(cfg.DATASETS.TRAIN)}: {_count(images, 'image', 'images')}"),
        ("test data", ", ".join(cfg.DATASETS.TEST) or "none"),
        ("validation loss", ", ".join(loss_datasets(cfg))),
        ("classes", _describe_classes(cfg)),
        ("batch", _describe_batch(cfg)),
        ("iterations", _describe_length(cfg, images, start_iter)),
        ("early stopping", _describe_end(cfg)),
        ("learning rate", _describe_rate(cfg)),
        ("precision", f"{training_precision(cfg)}; evaluation: {inference_precision(cfg)}"),
        ("device", _describe_device(cfg)),
        ("parameters", _describe_parameters(model)),
        ("frozen", listed(frozen_parts(getattr(model, "module", model)), 5)),
        ("output", cfg.OUTPUT_DIR),
    ]
    rows = [(label, text) for label, text in rows if text]
    width = max(len(label) for label, _ in rows)
    return "About to train:\n" + "\n".join(f"  {label:<{width}}  {text}" for label, text in rows)


def _describe_classes(cfg: CfgNode) -> str:
    text = f"{cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES} {_split_classes(cfg)}".rstrip()
    weights = [f"{weight:g}" for weight in cfg.MODEL.SEM_SEG_HEAD.CLASS_WEIGHTS]
    return f"{text}, weights {listed(weights)}" if weights else text


def _split_classes(cfg: CfgNode) -> str:
    metadata = MetadataCatalog.get(cfg.DATASETS.TRAIN[0])
    things = len(set(getattr(metadata, "thing_dataset_id_to_contiguous_id", {}).values()))
    stuff = cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES - things
    return f"({things} things, {stuff} stuff)" if things and stuff > 0 else ""


def _describe_batch(cfg: CfgNode) -> str:
    total, processes = cfg.SOLVER.IMS_PER_BATCH, comm.get_world_size()
    parts = cfg.SOLVER.ACCUMULATION_STEPS
    in_parts = f" x {parts} parts" if parts > 1 else ""
    share = total // processes // parts
    return f"{total} images ({share} x {_count(processes, 'process', 'processes')}{in_parts})"


def _describe_length(cfg: CfgNode, images: int, start_iter: int) -> str:
    length = cfg.SOLVER.MAX_ITER
    epochs = length * cfg.SOLVER.IMS_PER_BATCH / max(images, 1)
    start = f", continuing at {start_iter:,}" if start_iter else ""
    return f"{length:,} ({epochs:.3g} epochs){start}"


def _describe_end(cfg: CfgNode) -> str:
    patience, metric = cfg.SOLVER.EARLY_STOPPING_PATIENCE, cfg.TEST.BEST_CHECKPOINT_METRIC
    if not patience:
        return ""
    evaluations = _count(patience, "evaluation", "evaluations")
    return f"after {evaluations} without a better {metric or 'metric'}"


def _describe_rate(cfg: CfgNode) -> str:
    solver = cfg.SOLVER
    schedule = solver.LR_SCHEDULER_NAME
    if schedule == "WarmupMultiStepLR":
        schedule += f" at {', '.join(map(str, solver.STEPS))}"
    factors = [("backbone", solver.BACKBONE_MULTIPLIER), *solver.LR_FACTORS]
    named = ", ".join(f"{name} x {factor:g}" for name, factor in factors)
    return (
        f"{solver.BASE_LR:g} ({named}), {solver.OPTIMIZER}, "
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

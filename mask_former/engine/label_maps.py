"""Evaluators that are content with the class of each pixel get no scores of all classes."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

from detectron2.evaluation import DatasetEvaluator
from torch import nn

from mask_former.meta_arch import MaskFormer


@contextmanager
def labels_if_enough(model: nn.Module, evaluator: DatasetEvaluator) -> Iterator[None]:
    """Have every `MaskFormer` in `model` return labels while they are all that `evaluator` wants.

    An evaluator, and each of several in Detectron2's `DatasetEvaluators`, says so by an attribute
    `takes_labels`, which is true. Others, such as Detectron2's, find what the config asks for.
    """
    parts = getattr(evaluator, "_evaluators", [evaluator])
    enough = all(getattr(part, "takes_labels", False) for part in parts)
    models = [module for module in model.modules() if isinstance(module, MaskFormer)]
    asked = [module.inference for module in models]
    try:
        for module, inference in zip(models, asked, strict=True):
            module.inference = replace(
                inference, semantic_labels=inference.semantic_labels or enough
            )
        yield
    finally:
        for module, inference in zip(models, asked, strict=True):
            module.inference = inference

"""Label maps instead of the scores of all classes, where they are all that is evaluated."""

from collections.abc import Iterator
from contextlib import contextmanager

from detectron2.evaluation import DatasetEvaluator
from torch import nn

from mask_former.meta_arch import MaskFormer


@contextmanager
def label_maps_where_accepted(model: nn.Module, evaluator: DatasetEvaluator) -> Iterator[None]:
    """Have every `MaskFormer` in `model` return label maps, if `evaluator` accepts them.

    It says so by its attribute `accepts_label_maps`. Other evaluators, such as Detectron2's, get
    what the config asks for.
    """
    accepted = getattr(evaluator, "accepts_label_maps", False)
    models = [module for module in model.modules() if isinstance(module, MaskFormer)]
    asked = [module.semantic_labels for module in models]
    try:
        for module in models:
            module.semantic_labels |= accepted
        yield
    finally:
        for module, labels in zip(models, asked, strict=True):
            module.semantic_labels = labels

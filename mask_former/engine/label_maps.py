"""Label maps instead of the scores of all classes, where they are all that is evaluated."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

from detectron2.evaluation import DatasetEvaluator
from torch import nn

from mask_former.meta_arch import MaskFormer


@contextmanager
def label_maps_where_accepted(model: nn.Module, evaluator: DatasetEvaluator) -> Iterator[None]:
    """Have every `MaskFormer` in `model` return label maps, if `evaluator` accepts them.

    It says so by its attribute `accepts_label_maps`; several do by `mask_former.evaluation`'s
    `Evaluators`. Others, such as Detectron2's, get what the config asks for.
    """
    accepted = getattr(evaluator, "accepts_label_maps", False)
    models = [module for module in model.modules() if isinstance(module, MaskFormer)]
    before = [module.inference for module in models]
    try:
        for module in models if accepted else []:
            module.inference = replace(module.inference, semantic_labels=True)
        yield
    finally:
        for module, inference in zip(models, before, strict=True):
            module.inference = inference

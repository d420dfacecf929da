"""The MaskFormer and the Mask2Former of `transformers`, with weights of ours."""

import tempfile
from typing import Any

import torch
from detectron2.config import CfgNode
from torch import Tensor, nn
from transformers import (
    Mask2FormerForUniversalSegmentation,
    MaskFormerForInstanceSegmentation,
    PreTrainedModel,
)
from transformers.utils import logging

from benchmarks.predictions import prediction_of_masks
from mask_former.checkpoint.hugging_face import (
    config_to_hugging_face,
    processor_to_hugging_face,
    to_hugging_face,
    write_folder,
)
from mask_former.structures import Prediction, Target


def hugging_face_model(cfg: CfgNode, weights: dict[str, Tensor]) -> "HuggingFaceModel":
    """The model of `transformers` that equals ours.

    Args:
        cfg: of our model.
        weights: of our model.
    """
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    config = config_to_hugging_face(cfg)
    no_object_weight = cfg.MODEL.MASK_FORMER.NO_OBJECT_WEIGHT
    theirs = to_hugging_face(weights, no_object_weight=no_object_weight)
    peer, cls = {
        "maskformer": (HuggingFaceMaskFormer, MaskFormerForInstanceSegmentation),
        "mask2former": (HuggingFaceMask2Former, Mask2FormerForUniversalSegmentation),
    }[config["model_type"]]
    with tempfile.TemporaryDirectory() as folder:
        write_folder(folder, theirs, config, processor_to_hugging_face(cfg))
        model, info = cls.from_pretrained(folder, output_loading_info=True)
    assert not any(info.values()), info
    return peer(model)


class HuggingFaceModel(nn.Module):
    """Their network and their loss, with frozen batch norms."""

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.model = model
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.requires_grad_(False)

    def train(self, mode: bool = True) -> "HuggingFaceModel":
        super().train(mode)
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eval()
        return self

    def forward(self, images: Tensor) -> list[Prediction]:
        """Normalised (B, 3, H, W) -> predictions of the layers, in inference of the last."""
        raise NotImplementedError

    def losses(self, predictions: list[Prediction], targets: list[Target]) -> dict[str, Tensor]:
        """Their weighted losses, by their names."""
        *auxiliary, final = (
            {"masks_queries_logits": p.mask_logits, "class_queries_logits": p.class_logits}
            for p in predictions
        )
        return self.model.get_loss_dict(
            **final,
            mask_labels=[target.masks.float() for target in targets],
            class_labels=[target.labels for target in targets],
            **self.auxiliary(auxiliary),
        )

    def auxiliary(self, predictions: list[dict[str, Tensor]]) -> dict[str, Any]:
        """Under the name of their argument, the predictions of all layers but the last."""
        raise NotImplementedError


class HuggingFaceMaskFormer(HuggingFaceModel):
    """Their MaskFormer fails with `use_auxiliary_loss`, with which every decoder layer has a loss;
    here it gets the outputs of the layers from hooks, and applies its own parts to them."""

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__(model)
        self.hidden: list[Tensor] = []
        for layer in self.model.model.transformer_module.decoder.layers:
            layer.register_forward_hook(lambda _, inputs, output: self.hidden.append(output))

    def forward(self, images: Tensor) -> list[Prediction]:
        self.hidden.clear()
        outputs = self.model.model(images)
        if not self.training:
            classes, masks, _ = self.model.get_logits(outputs)
            return [prediction_of_masks(classes, masks)]
        norm = self.model.model.transformer_module.decoder.layernorm
        x = norm(torch.stack(self.hidden))
        pixels = outputs.pixel_decoder_last_hidden_state
        masks = torch.einsum("lbqc, bchw -> lbqhw", self.model.mask_embedder(x), pixels)
        classes = self.model.class_predictor(x)
        return [prediction_of_masks(*p) for p in zip(classes, masks, strict=True)]

    def auxiliary(self, predictions: list[dict[str, Tensor]]) -> dict[str, Any]:
        return {"auxiliary_logits": predictions}


class HuggingFaceMask2Former(HuggingFaceModel):
    """Their Mask2Former, as it is."""

    def forward(self, images: Tensor) -> list[Prediction]:
        outputs = self.model(images, output_auxiliary_logits=self.training)
        final = prediction_of_masks(outputs.class_queries_logits, outputs.masks_queries_logits)
        return [
            *(
                prediction_of_masks(x["class_queries_logits"], x["masks_queries_logits"])
                for x in outputs.auxiliary_logits or ()
            ),
            final,
        ]

    def auxiliary(self, predictions: list[dict[str, Tensor]]) -> dict[str, Any]:
        return {"auxiliary_predictions": predictions}

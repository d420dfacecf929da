"""The MaskFormer of `transformers`, with weights of ours."""

import torch
from detectron2.config import CfgNode
from torch import Tensor, nn
from transformers import MaskFormerConfig, MaskFormerForInstanceSegmentation
from transformers.utils import logging

from benchmarks.predictions import prediction_of_masks
from mask_former.checkpoint.hugging_face import config_to_hugging_face, to_hugging_face
from mask_former.structures import Prediction, Target


class HuggingFaceMaskFormer(nn.Module):
    """Their network and their loss, frozen batch norms and no dropout.

    Their model fails with `use_auxiliary_loss`, with which every decoder layer has a loss; here
    it gets the outputs of the layers from hooks, and applies its own parts to them.

    Args:
        cfg: of our model.
        weights: of our model.
    """

    def __init__(self, cfg: CfgNode, weights: dict[str, Tensor]) -> None:
        super().__init__()
        logging.set_verbosity_error()
        config = MaskFormerConfig.from_dict(config_to_hugging_face(cfg))
        self.model = MaskFormerForInstanceSegmentation(config)
        no_object_weight = cfg.MODEL.MASK_FORMER.NO_OBJECT_WEIGHT
        converted = to_hugging_face(weights, no_object_weight=no_object_weight)
        self.model.load_state_dict(_current_names(converted))
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.requires_grad_(False)
        self.hidden: list[Tensor] = []
        for layer in self.model.model.transformer_module.decoder.layers:
            layer.register_forward_hook(lambda _, inputs, output: self.hidden.append(output))

    def train(self, mode: bool = True) -> "HuggingFaceMaskFormer":
        super().train(mode)
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eval()
        return self

    def forward(self, images: Tensor) -> list[Prediction]:
        """Normalised (B, 3, H, W) -> predictions of the layers, in inference of the last."""
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
            auxiliary_logits=auxiliary,
        )


def _current_names(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """The names within a model of transformers 5, of those in its files."""
    renamed = {}
    for name, tensor in weights.items():
        if ".transformer_module.decoder." in name:
            name = name.replace(".out_proj.", ".o_proj.")
            name = name.replace(".fc1.", ".mlp.fc1.").replace(".fc2.", ".mlp.fc2.")
        renamed[name] = tensor
    return renamed

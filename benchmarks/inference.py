"""Whole inference of one image by ours and by the peers, with the same weights."""

from contextlib import nullcontext
from functools import cache
from typing import Any

import torch
from detectron2.modeling import build_model
from torch import Tensor, nn
from transformers import MaskFormerImageProcessor
from transformers.models.maskformer.modeling_maskformer import (
    MaskFormerForInstanceSegmentationOutput,
)

from benchmarks.models import our_model, plain_model, recipe
from benchmarks.peers import plain_inference
from benchmarks.peers.hugging_face import HuggingFaceMaskFormer
from mask_former.meta_arch import result_sizes
from mask_former.structures import Prediction

OURS, FAST = "ours, float32", "ours, float32, fastest order"
COMPILED, BF16 = "ours, float32, compiled", "ours, bfloat16, fastest order"
COMPILED_BF16 = "ours, bfloat16, compiled"
HUGGING_FACE, PLAIN = "`transformers`, float32", "plain, float32"
SEGMENTS, OVERLAP_THRESHOLD = 12, 0.0


class Inference:
    """One contender; a call segments the image: classes, or a panoptic map, as the recipe says.

    Args:
        name: of the contender.
        task: of the recipe.
        image: record with `image`, and the size of the result.
        options: other keys of the recipe and their values.
        threshold: least score of a query in a panoptic map; None: such that `SEGMENTS` queries
            have more.
    """

    def __init__(
        self,
        name: str,
        task: str,
        device: str,
        image: dict[str, Any],
        options: tuple[str, ...] = (),
        threshold: float | None = None,
    ) -> None:
        fastest = name in (FAST, COMPILED, BF16, COMPILED_BF16)
        keys = ["MODEL.PUBLISHED_ROUNDING", str(not fastest)]
        keys += ["MODEL.COMPILE", str(name in (COMPILED, COMPILED_BF16))]
        keys += ["MODEL.MASK_FORMER.TEST.OVERLAP_THRESHOLD", str(OVERLAP_THRESHOLD)]
        keys += ["MODEL.MASK_FORMER.TEST.SEMANTIC_LABELS", "True"]
        self.cfg = recipe(task, device, *options, *keys)
        self.panoptic = self.cfg.MODEL.MASK_FORMER.TEST.PANOPTIC_ON
        self.name = name
        self.batch = [image]
        weights = weights_of_different_queries(task, device, options)
        self.ours = build_model(self.cfg).eval()
        self.ours.load_state_dict(weights)
        self.ours.semantic_on = not self.panoptic
        self.model: nn.Module = self.ours
        if name == PLAIN:
            self.model = plain_model(self.cfg, weights).eval()
        elif name == HUGGING_FACE:
            peer = HuggingFaceMaskFormer(self.cfg, weights)
            self.model = peer.to(device).eval()
        half = name in (BF16, COMPILED_BF16)
        self.autocast = torch.autocast(device, torch.bfloat16) if half else nullcontext()
        if self.panoptic:
            threshold = self._threshold() if threshold is None else threshold
            self.ours.object_mask_threshold = threshold

    def _threshold(self) -> float:
        logits = self.network().class_logits[0].float()
        scores, labels = logits.softmax(-1).max(-1)
        scores = scores[labels < logits.shape[-1] - 1].sort(descending=True).values
        return scores[SEGMENTS - 1 : SEGMENTS + 1].mean().item()

    @torch.no_grad()
    def network(self) -> Prediction:
        with self.autocast:
            images = self.ours.preprocess(self.batch).tensor
            if self.model is self.ours:
                return self.ours.sem_seg_head(self.ours.backbone(images))[-1]
            return self.model(images)[-1]

    @torch.no_grad()
    def segment(self, prediction: Prediction) -> Tensor:
        """The panoptic map, or the class of each pixel, (H, W)."""
        images = self.ours.preprocess(self.batch)
        if self.model is self.ours:
            (result,) = self.ours.postprocess(prediction, images, self.batch)
            return result["panoptic_seg"][0] if self.panoptic else result["sem_seg"]
        if self.name == HUGGING_FACE:
            return self._hugging_face(prediction)
        logits = prediction.class_logits[0], prediction.mask_logits[0]
        (sizes,) = result_sizes(images, self.batch)
        if not self.panoptic:
            return plain_inference.semantic_scaled(*logits, sizes).argmax(0)
        return plain_inference.panoptic(
            *logits,
            sizes,
            thing_classes=self.ours.thing_classes,
            object_threshold=self.ours.object_mask_threshold,
            overlap_threshold=OVERLAP_THRESHOLD,
        )[0]

    def _hugging_face(self, prediction: Prediction) -> Tensor:
        outputs = MaskFormerForInstanceSegmentationOutput(
            class_queries_logits=prediction.class_logits,
            masks_queries_logits=prediction.mask_logits,
        )
        processor = MaskFormerImageProcessor()
        sizes = [(x["height"], x["width"]) for x in self.batch]
        if not self.panoptic:
            return processor.post_process_semantic_segmentation(outputs, target_sizes=sizes)[0]
        classes = prediction.class_logits.shape[-1] - 1
        (found,) = processor.post_process_panoptic_segmentation(
            outputs,
            threshold=self.ours.object_mask_threshold,
            overlap_mask_area_threshold=OVERLAP_THRESHOLD,
            label_ids_to_fuse=set(range(classes)) - set(self.ours.thing_classes),
            target_sizes=sizes,
        )
        return found["segmentation"]

    def __call__(self) -> Tensor:
        return self.segment(self.network())


@cache
@torch.no_grad()
def weights_of_different_queries(
    task: str, device: str, options: tuple[str, ...]
) -> dict[str, Tensor]:
    """Random weights whose queries differ in class and mask, as those of a trained model do; as
    they come they are so alike that one of them gets the whole image."""
    model = our_model(recipe(task, device, *options)).eval()
    predictor = model.sem_seg_head.predictor
    predictor.query_embed.weight.mul_(300)
    image = torch.randn(1, 3, 192, 256, device=device)
    for layer, spread in ((predictor.class_embed, 2.0), (predictor.mask_embed.layers[-1], 0.2)):
        outputs: list[Tensor] = []
        hook = layer.register_forward_hook(lambda *call, kept=outputs: kept.append(call[-1]))
        model.sem_seg_head(model.backbone(image))
        hook.remove()
        of_queries = outputs[0][-1:].flatten(0, -2)
        scale = spread / (of_queries - of_queries.mean(0)).std()
        layer.weight.mul_(scale)
        layer.bias.sub_(of_queries.mean(0)).mul_(scale)
    return model.state_dict()


def differing_pixels(contender: Tensor, ours: Tensor, panoptic: bool) -> float:
    """Share of the pixels that two maps give to different classes; or, whatever the numbers of
    their segments, that are not in the segment which shares most with ours."""
    if not panoptic:
        return (contender != ours).float().mean().item()
    _, theirs = contender.unique(return_inverse=True)
    _, ours = ours.unique(return_inverse=True)
    rows, columns = int(ours.max()) + 1, int(theirs.max()) + 1
    shared = torch.bincount((ours * columns + theirs).flatten(), minlength=rows * columns)
    return 1 - shared.view(rows, columns).amax(1).sum().item() / ours.numel()

"""Whole inference of one image by ours and by the peers, with the same weights."""

from functools import cache
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.modeling import build_model
from torch import Tensor
from torch.nn import functional as F
from transformers import Mask2FormerImageProcessor, MaskFormerImageProcessor

from benchmarks.measure import is_native
from benchmarks.models import our_model, plain_model, precision_keys, recipe
from benchmarks.peers import plain_inference
from benchmarks.peers.hugging_face import hugging_face_model
from benchmarks.predictions import Scene, Sizes
from mask_former.precision import prepare

OURS, BF16 = "ours, float32", "ours, bfloat16"
COMPILED, COMPILED_BF16 = "ours, float32, compiled", "ours, bfloat16, compiled"
HUGGING_FACE, PLAIN = "`transformers`, float32", "plain, float32"
HUGGING_FACE_BF16, PLAIN_BF16 = "`transformers`, bfloat16", "plain, bfloat16"
CONFIDENT, OVERLAP_THRESHOLD = 12, 0.0
TEST = "MODEL.MASK_FORMER.TEST."
DIVISOR = 32  # of the size of a batch, in all recipes here


def contender_names(device: str, compiled: bool = False, *, plain: bool = True) -> list[str]:
    """Ours and the peers, or ours as it is and `compiled`; in all that the device has natively.

    `plain`: with the plain transcription, which there is of MaskFormer alone.
    """
    names = [OURS, COMPILED] if compiled else [OURS, HUGGING_FACE, PLAIN]
    if is_native(torch.bfloat16, device):
        names += [BF16, COMPILED_BF16] if compiled else [BF16, HUGGING_FACE_BF16, PLAIN_BF16]
    return [name for name in names if plain or name not in (PLAIN, PLAIN_BF16)]


def contender_keys(name: str) -> list[Any]:
    """Config keys and values of a contender."""
    precision = precision_keys("bfloat16" if "bfloat16" in name else "float32")
    return ["MODEL.COMPILE", "compiled" in name, *precision]


def test_keys(task: str) -> list[Any]:
    """Config keys and values: one task, and its map as result."""
    panoptic = task.startswith("panoptic")
    keys = [TEST + "PANOPTIC_ON", panoptic, TEST + "SEMANTIC_ON", not panoptic]
    return [*keys, TEST + "SEMANTIC_LABELS", True, TEST + "OVERLAP_THRESHOLD", OVERLAP_THRESHOLD]


class Inference:
    """One contender; a call gives the class of each pixel, or a panoptic map, (H, W).

    Args:
        name: of the contender.
        task: of the recipe.
        image: record with `image`, and the size of the result.
        options: other keys of the recipe and their values.
        threshold: least score of a query in a panoptic map.
    """

    def __init__(
        self,
        name: str,
        task: str,
        device: str,
        image: dict[str, Any],
        options: tuple[Any, ...] = (),
        threshold: float = 0.0,
    ) -> None:
        keys = [*options, *test_keys(task), TEST + "OBJECT_MASK_THRESHOLD", threshold]
        self.cfg = recipe(task, device, *keys, *contender_keys(name))
        self.panoptic = task.startswith("panoptic")
        self.name, self.task, self.batch = name, task, [image]
        weights = weights_of_different_queries(task, device, options)
        if "plain" in name:
            self.model = plain_model(self.cfg, weights)
        elif "transformers" in name:
            self.model = hugging_face_model(self.cfg, weights).to(device)
        else:
            self.model = build_model(self.cfg)
            self.model.load_state_dict(weights)
            prepare(self.cfg, self.model, training=False)
        self.model.eval()
        self.autocast = torch.autocast(device, torch.bfloat16, enabled="bfloat16" in name)

    @torch.inference_mode()
    def __call__(self) -> Tensor:
        if self.name.startswith("ours"):
            with self.autocast:
                (result,) = self.model(self.batch)
            return result["panoptic_seg"][0] if self.panoptic else result["sem_seg"]
        scene = self.predict()
        if "transformers" in self.name:
            return self._hugging_face(scene)
        if not self.panoptic:
            return plain_inference.semantic_scaled(*scene).argmax(0)
        return plain_inference.panoptic(
            *scene,
            thing_classes=thing_classes(self.cfg),
            object_threshold=self.cfg.MODEL.MASK_FORMER.TEST.OBJECT_MASK_THRESHOLD,
            overlap_threshold=OVERLAP_THRESHOLD,
        )[0]

    @torch.inference_mode()
    def predict(self) -> Scene:
        """What the network makes of the image, padded as ours pads it."""
        record = self.batch[0]
        keys, size = self.cfg.MODEL, tuple(record["image"].shape[-2:])
        image = record["image"].to(keys.DEVICE)
        statistics = torch.tensor([keys.PIXEL_MEAN, keys.PIXEL_STD], device=keys.DEVICE)
        mean, std = statistics[:, :, None, None]
        image = (image - mean) / std
        image = F.pad(image, (0, -size[1] % DIVISOR, 0, -size[0] % DIVISOR))
        network = self.model.predict if self.name.startswith("ours") else self.model
        with self.autocast:
            prediction = network(image[None])[-1]
        sizes = Sizes(tuple(image.shape[-2:]), size, (record["height"], record["width"]))
        logits = prediction.class_logits[0].float(), prediction.mask_logits[0].float()
        return Scene(*logits, sizes)

    def _hugging_face(self, scene: Scene) -> Tensor:
        is_mask2former = "mask2former" in self.task
        processor = Mask2FormerImageProcessor() if is_mask2former else MaskFormerImageProcessor()
        sizes = [scene.sizes.output]
        if not self.panoptic:
            return processor.post_process_semantic_segmentation(
                scene.hugging_face, target_sizes=sizes
            )[0]
        classes = scene.class_logits.shape[-1] - 1
        (found,) = processor.post_process_panoptic_segmentation(
            scene.hugging_face,
            threshold=self.cfg.MODEL.MASK_FORMER.TEST.OBJECT_MASK_THRESHOLD,
            overlap_mask_area_threshold=OVERLAP_THRESHOLD,
            label_ids_to_fuse=set(range(classes)) - thing_classes(self.cfg),
            target_sizes=sizes,
        )
        return found["segmentation"]


def thing_classes(cfg: CfgNode) -> set[int]:
    metadata = MetadataCatalog.get(cfg.DATASETS.TRAIN[0])
    return set(metadata.thing_dataset_id_to_contiguous_id.values())


@torch.inference_mode()
def least_score(task: str, device: str, image: Tensor, options: tuple[Any, ...] = ()) -> float:
    """The threshold of scores that `CONFIDENT` queries pass, for the random weights of a task."""
    record = {"image": image, "height": image.shape[-2], "width": image.shape[-1]}
    logits = Inference(OURS, task, device, record, options).predict().class_logits
    scores, labels = logits.softmax(-1).max(-1)
    scores = scores[labels < logits.shape[-1] - 1].sort(descending=True).values
    return scores[CONFIDENT - 1 : CONFIDENT + 1].mean().item()


@cache
@torch.no_grad()
def weights_of_different_queries(
    task: str, device: str, options: tuple[Any, ...] = ()
) -> dict[str, Tensor]:
    """Random weights whose queries differ in class and mask, as those of a trained model do; as
    they come they are so alike that one of them gets the whole image."""
    model = our_model(recipe(task, device, *options)).eval()
    predictor = model.sem_seg_head.predictor
    if not hasattr(predictor, "query_feat"):  # by which Mask2Former's differ
        predictor.query_embed.weight.mul_(300)
    record = {"image": torch.randint(256, (3, 192, 256), dtype=torch.uint8)}
    for layer, spread in ((predictor.class_embed, 2.0), (predictor.mask_embed.layers[-1], 0.2)):
        outputs: list[Tensor] = []
        hook = layer.register_forward_hook(lambda *call, kept=outputs: kept.append(call[-1]))
        model([record])
        hook.remove()
        of_queries = outputs[-1][-1:].flatten(0, -2)
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

"""Panoptic, semantic and instance segmentation of a prediction: ours beside others, timed, and
compared where they have to be equal."""

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from detectron2.structures import Instances
from torch import Tensor
from transformers import MaskFormerImageProcessor

from benchmarks.measure import compare
from benchmarks.peers import plain_inference as plain
from benchmarks.predictions import Scene, Size
from benchmarks.report import Result, agreement
from mask_former import inference
from mask_former.inference.resize import mask_tiles

OURS, PLAIN, KEEP_FIRST = "ours", "plain order", "plain order, confident masks only"
HUGGING_FACE = "`transformers`"
OBJECT_THRESHOLD, OVERLAP_THRESHOLD, INSTANCES = 0.8, 0.5, 100
# Scores that are less apart, relatively, are equal but for rounding.
TIE = 1e-5
# Share of the pixels of maps: where two masks are equal but for rounding.
TOLERANCE = 1e-4


# Panoptic


def our_panoptic(scene: Scene) -> tuple[Tensor, list[dict[str, Any]]]:
    keep, scores, labels = inference.confident_queries(scene.class_logits, OBJECT_THRESHOLD)
    return inference.panoptic_inference(
        scores,
        labels,
        scene.mask_logits[keep],
        scene.sizes,
        thing_classes=scene.things,
        overlap_threshold=OVERLAP_THRESHOLD,
    )


def plain_panoptic(scene: Scene, keep_first: bool = False) -> tuple[Tensor, list[dict[str, Any]]]:
    return plain.panoptic(
        *scene,
        thing_classes=scene.things,
        object_threshold=OBJECT_THRESHOLD,
        overlap_threshold=OVERLAP_THRESHOLD,
        keep_first=keep_first,
    )


@cache
def processor() -> MaskFormerImageProcessor:
    return MaskFormerImageProcessor()


def hugging_face_panoptic(scene: Scene) -> Tensor:
    classes = scene.class_logits.shape[1] - 1
    (found,) = processor().post_process_panoptic_segmentation(
        scene.hugging_face,
        threshold=OBJECT_THRESHOLD,
        overlap_mask_area_threshold=OVERLAP_THRESHOLD,
        label_ids_to_fuse=set(range(classes)) - set(scene.things),
        target_sizes=[scene.sizes.output],
    )
    return found["segmentation"]


def scaling_alone(scene: Scene) -> None:
    keep, _, _ = inference.confident_queries(scene.class_logits, OBJECT_THRESHOLD)
    for _ in mask_tiles(scene.mask_logits[keep], scene.sizes):
        pass


def panoptic(scene: Scene, rounds: int, device: str) -> Result:
    ours, segments = our_panoptic(scene)
    differences = {}
    for name, keep_first in ((PLAIN, False), (KEEP_FIRST, True)):
        other, other_segments = plain_panoptic(scene, keep_first)
        equal = (ours != other).float().mean() <= TOLERANCE and segments == other_segments
        differences[name] = agreement(_share(ours != other), holds=bool(equal))
    differences[HUGGING_FACE] = _share(ours != hugging_face_panoptic(scene))
    timings = compare(
        {
            OURS: lambda: our_panoptic(scene),
            PLAIN: lambda: plain_panoptic(scene),
            KEEP_FIRST: lambda: plain_panoptic(scene, keep_first=True),
            HUGGING_FACE: lambda: hugging_face_panoptic(scene),
            "of ours, scaling the masks": lambda: scaling_alone(scene),
        },
        rounds=rounds,
        device=device,
    )
    case = f"panoptic, {_describe(scene)}"
    return Result(case, OURS, timings, differences)


# Semantic


def hugging_face_semantic(scene: Scene) -> Tensor:
    (labels,) = processor().post_process_semantic_segmentation(
        scene.hugging_face, target_sizes=[scene.sizes.output]
    )
    return labels


def semantic(
    scene: Scene, rounds: int, device: str, *, scaled: bool = False, peers: bool = True
) -> Result:
    """Labels; with `scaled` of scores that are made at the size of the image, then scaled."""
    plain_scores = plain.semantic_scaled if scaled else plain.semantic

    def ours() -> Tensor:
        return inference.semantic_labels(*scene, scale_scores=scaled)

    def plain_labels() -> Tensor:
        return plain_scores(*scene).argmax(0)

    differences = {PLAIN: _ties(scene, ours(), plain_labels(), scaled)}
    contenders: dict[str, Callable[[], Any]] = {OURS: ours}
    if peers:
        contenders["ours, scores of all classes"] = lambda: inference.semantic_inference(
            *scene, scale_scores=scaled
        )
        contenders[HUGGING_FACE] = lambda: hugging_face_semantic(scene)
        differences[HUGGING_FACE] = _share(ours() != hugging_face_semantic(scene))
    contenders[PLAIN] = plain_labels
    timings = compare(contenders, rounds=rounds, warmup=0, device=device)
    how = ", scores scaled" if scaled else ""
    case = f"semantic labels, {_describe(scene)}{how}"
    return Result(case, OURS, timings, differences)


def _ties(scene: Scene, ours: Tensor, other: Tensor, scaled: bool) -> str:
    """In how many pixels labels differ, which have to be ties."""
    tied = True
    rows, columns = (ours != other).nonzero(as_tuple=True)
    if len(rows):
        class_logits, mask_logits, sizes = scene
        if scaled:
            masks = plain.scale(plain.image_masks(mask_logits, sizes).sigmoid(), sizes.output)
        else:
            masks = plain.scale(plain.image_masks(mask_logits, sizes), sizes.output).sigmoid()
        classes = class_logits.softmax(-1)[:, :-1].double()
        scores = masks[:, rows, columns].double().T @ classes  # (differing pixels, K)
        a, b = (scores.gather(1, x[rows, columns][:, None]) for x in (ours, other))
        tied = not ((a - b).abs() > TIE * a).any()
    return agreement(f"{len(rows)} pixels, ties", holds=tied)


# Instances


def our_instances(scene: Scene) -> Instances:
    pairs = inference.top_instances(scene.class_logits, thing_classes=scene.things, top_k=INSTANCES)
    return inference.instance_inference(*pairs, scene.mask_logits, scene.sizes)


def plain_instances(scene: Scene) -> tuple[Tensor, Tensor, Tensor]:
    return plain.instances(*scene, thing_classes=scene.things, top_k=INSTANCES)


def instances(scene: Scene, rounds: int, device: str) -> Result:
    ours, (masks, scores, labels) = our_instances(scene), plain_instances(scene)
    order = scores.argsort(descending=True)
    order = order[masks[order].flatten(1).any(1)]
    equal = torch.equal(ours.pred_classes, labels[order])
    equal = equal and torch.allclose(ours.scores, scores[order], rtol=1e-4)
    different = ours.pred_masks != masks[order] if equal else torch.ones(1)
    difference = agreement(
        f"{different.float().mean():.1g} of the masks' pixels",
        holds=bool(different.float().mean() <= TOLERANCE),
    )
    timings = compare(
        {OURS: lambda: our_instances(scene), PLAIN: lambda: plain_instances(scene)},
        rounds=rounds,
        device=device,
    )
    case = f"{INSTANCES} instances, {_describe(scene)}"
    return Result(case, OURS, timings, {PLAIN: difference})


def _describe(scene: Scene) -> str:
    queries, classes = scene.class_logits.shape
    _, image, output = scene.sizes
    text = f"{queries} queries of {_size(scene.mask_logits.shape[-2:])}, {classes - 1} classes, "
    if image != output:
        text += f"image of {_size(image)} "
    return f"{text}to {_size(output)}"


def _size(size: Size) -> str:
    return "x".join(map(str, size))


def _share(different: Tensor) -> str:
    return f"{different.float().mean():.2%} of pixels"

"""Matching and losses, forward and backward, apart from the network.

    python -m benchmarks.criterion [--compiled] [--device cuda] [--quick]

ADE20K's semantic recipe (512x512, batch 2, 100 queries, 150 classes, 6 layers, 10 segments an
image): ours beside the `transformers` implementation and a plain transcription of the paper, on
the same predictions.
"""

import argparse
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers.models.maskformer.modeling_maskformer import (
    MaskFormerHungarianMatcher,
    MaskFormerLoss,
)

from benchmarks.measure import Timing, compare
from benchmarks.models import recipe
from benchmarks.peers.plain_losses import (
    MASK_WEIGHT,
    NO_OBJECT_WEIGHT,
    plain_losses,
    plain_matching,
)
from benchmarks.predictions import prediction_of_masks
from benchmarks.report import Growth, Result, agreement, growth, report
from mask_former.criterion import SetCriterion
from mask_former.engine.host_memory import keep_freed_memory
from mask_former.structures import Prediction, Target

OURS, COMPILED, POINTS = "ours", "ours, compiled", "ours, 12544 points"
NUM_POINTS = 12544
PLAIN, HUGGING_FACE = "plain transcription", "`transformers`"
# Relative, of the total loss and of the norm of the gradients.
TOLERANCE = 1e-4


def make_inputs(
    device: str,
    *,
    size: int = 512,
    images: int = 2,
    queries: int = 100,
    classes: int = 150,
    segments: int = 10,
    layers: int = 6,
) -> tuple[list[Prediction], list[Target]]:
    """Smooth blobs that make up the image, and masks as smooth."""
    generator = torch.Generator().manual_seed(0)

    def blobs(count: int, height: int) -> Tensor:
        fields = torch.randn(images, count, 8, 8, generator=generator)
        return F.interpolate(fields, size=(height, height), mode="bicubic")

    owner = blobs(segments, size).argmax(1, keepdim=True)
    masks = (owner == torch.arange(segments).view(1, -1, 1, 1)).to(device)
    labels = torch.randint(classes, (images, segments), generator=generator).to(device)
    targets = [Target(label, mask) for label, mask in zip(labels, masks, strict=True)]
    predictions = []
    for _ in range(layers):
        class_logits = torch.randn(images, queries, classes + 1, generator=generator)
        mask_logits = 3 * blobs(queries, size // 4) - 3
        leaves = (x.to(device).requires_grad_() for x in (class_logits, mask_logits))
        predictions.append(prediction_of_masks(*leaves))
    return predictions, targets


class Losses:
    """A contender: weighted losses of predictions, and their gradients."""

    def __init__(
        self,
        losses: Callable[[list[Prediction], list[Target]], Sequence[Tensor]],
        predictions: list[Prediction],
        targets: list[Target],
    ) -> None:
        self.total = lambda: sum(losses(predictions, targets))
        self.leaves = [x for p in predictions for x in (p.class_logits, p.mask_logits)]

    def __call__(self) -> tuple[Tensor, ...]:
        """Loss and gradients."""
        total = self.total()
        return total.detach(), *torch.autograd.grad(total, self.leaves)


def our_criterion(
    classes: int, device: str, *, points: int = 0, compiled: bool = False
) -> SetCriterion:
    keys = ["MODEL.SEM_SEG_HEAD.NUM_CLASSES", classes, "MODEL.COMPILE", compiled]
    keys += ["MODEL.MASK_FORMER.TRAIN_NUM_POINTS", points]
    return SetCriterion(recipe("R50", device, *keys)).to(device)


def our_losses(criterion: SetCriterion, *inputs: list) -> list[Tensor]:
    return list(criterion(*inputs).values())


def all_plain_losses(*inputs: list) -> list[Tensor]:
    return [loss for layer in plain_losses(*inputs) for loss in layer.values()]


def hugging_face_losses(
    criterion: MaskFormerLoss, predictions: list[Prediction], targets: list[Target]
) -> list[Tensor]:
    *auxiliary, final = (
        {"masks_queries_logits": p.mask_logits, "class_queries_logits": p.class_logits}
        for p in predictions
    )
    losses = criterion(
        **final,
        mask_labels=[target.masks.float() for target in targets],
        class_labels=[target.labels for target in targets],
        auxiliary_predictions=auxiliary,
    )
    weights = criterion.weight_dict.items()
    return [w * x for name, x in losses.items() for key, w in weights if name.startswith(key)]


def contenders(
    predictions: list[Prediction], targets: list[Target], compiled: bool = False
) -> dict[str, Losses]:
    """All that have exact losses; ours first."""
    classes = predictions[0].class_logits.shape[-1] - 1
    device = predictions[0].class_logits.device.type
    weights = {"loss_cross_entropy": 1.0, "loss_mask": MASK_WEIGHT, "loss_dice": 1.0}
    matcher = MaskFormerHungarianMatcher(cost_mask=MASK_WEIGHT)
    theirs = MaskFormerLoss(classes, matcher, weights, NO_OBJECT_WEIGHT).to(device)
    functions = {
        OURS: partial(our_losses, our_criterion(classes, device)),
        COMPILED: partial(our_losses, our_criterion(classes, device, compiled=True)),
        HUGGING_FACE: partial(hugging_face_losses, theirs),
        PLAIN: all_plain_losses,
    }
    if not compiled:
        del functions[COMPILED]
    return {name: Losses(f, predictions, targets) for name, f in functions.items()}


def check(steps: Mapping[str, Losses]) -> dict[str, str]:
    """How losses and gradients differ from ours, which they must not."""
    loss, *gradients = steps[OURS]()
    found = {}
    for name in steps.keys() - {OURS}:
        their_loss, *theirs = steps[name]()
        of_loss = ((their_loss - loss) / loss).abs().item()
        squares = sum((a - b).square().sum() for a, b in zip(theirs, gradients, strict=True))
        of_gradient = (squares / sum(g.square().sum() for g in gradients)).sqrt().item()
        text = f"loss {of_loss:.0e}, gradient {of_gradient:.0e}"
        found[name] = agreement(text, holds=max(of_loss, of_gradient) < TOLERANCE)
    return found


def measure(
    predictions: list[Prediction],
    targets: list[Target],
    rounds: int,
    device: str,
    compiled: bool,
) -> list[Result]:
    """Both together; then the matching alone."""
    steps = contenders(predictions, targets, compiled)
    differences = check(steps)
    run = partial(compare, rounds=rounds, warmup=1, device=device)
    classes = predictions[0].class_logits.shape[-1] - 1
    sampled = our_criterion(classes, device, points=NUM_POINTS)
    steps[POINTS] = Losses(partial(our_losses, sampled), predictions, targets)
    differences[POINTS] = "approximate"
    matcher = our_criterion(classes, device).matcher
    matchers = {
        OURS: lambda: matcher(predictions, targets),
        PLAIN: lambda: [plain_matching(p, targets) for p in predictions],
    }
    return [
        Result("matching + losses", OURS, run(steps), differences),
        Result("matching", OURS, run(matchers)),
    ]


def over(name: str, values: list[int], option: str, device: str) -> Growth:
    """Of ours and the plain transcription, as one size changes."""

    def timings_at(value: int) -> dict[str, Timing]:
        steps = contenders(*make_inputs(device, **{option: value}))
        steps = {name: steps[name] for name in (OURS, PLAIN)}
        return compare(steps, rounds=2, warmup=1, memory=False, device=device)

    return growth(name, values, timings_at)


def floor(predictions: list[Prediction], targets: list[Target], ours: Timing, device: str) -> str:
    """What the functions alone take that each pixel needs: a sigmoid and a softplus."""
    looked_at = sum(p.mask_logits.numel() for p in predictions)
    learned = len(predictions) * sum(target.masks.numel() for target in targets)
    x = torch.randn(1 << 19, device=device)
    y = torch.empty_like(x)

    def functions() -> None:
        for _ in range((looked_at + learned) // len(x)):
            torch.sigmoid(x, out=y)
            F.softplus(x, out=y)

    seconds = compare({"": functions}, rounds=3, memory=False, device=device)[""].median
    return (
        f"The matching looks at {looked_at / 1e6:.0f} M pixels, the losses at "
        f"{learned / 1e6:.0f} M. A sigmoid and a softplus of each, without anything else, take "
        f"{seconds * 1e3:.0f} ms, {100 * seconds / ours.median:.0f}% of ours."
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--compiled", action="store_true", help="ours compiled, too")
    parser.add_argument("--no-growth", action="store_true", help="no other sizes, no plot")
    parser.add_argument("--quick", action="store_true", help="small images, to try it out")
    args = parser.parse_args()
    keep_freed_memory()

    small = {"size": 64, "queries": 20, "layers": 2} if args.quick else {}
    inputs = make_inputs(args.device, **small)
    results = measure(*inputs, args.rounds, args.device, args.compiled)
    remarks = [floor(*inputs, results[0].timings[OURS], args.device)]
    of = partial(over, device=args.device)
    growths = []
    if not (args.quick or args.no_growth):
        growths = [
            of("height and width of the images", [256, 512, 1024], "size"),
            of("classes", [20, 150, 847], "classes"),
            of("queries", [50, 100, 200], "queries"),
            of("segments of an image", [2, 10, 50], "segments"),
            of("images of a batch", [1, 2, 4], "images"),
        ]
    report("criterion", results, growths, remarks=remarks, device=args.device)


if __name__ == "__main__":
    main()

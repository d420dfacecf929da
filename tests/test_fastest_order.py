"""The fastest order of operations: equal but for rounding, of the same weights."""

import pytest
import torch
from detectron2.layers import Conv2d
from detectron2.modeling import build_model
from detectron2.structures import BitMasks, Instances

from mask_former.backbone.frozen_norm import FrozenNormConv2d
from mask_former.engine import load_config

RECIPES = ["ade20k-150/maskformer_R50_bs16_160k", "coco-panoptic/maskformer_panoptic_R50_bs64_554k"]
SMALL = ["MODEL.WEIGHTS", "", "MODEL.DEVICE", "cpu", "MODEL.MASK_FORMER.DROPOUT", 0.0]
SMALL += ["MODEL.RESNETS.DEPTH", 50, "MODEL.RESNETS.WIDTH_PER_GROUP", 8]
SMALL += ["MODEL.RESNETS.RES2_OUT_CHANNELS", 16, "MODEL.MASK_FORMER.DIM_FEEDFORWARD", 32]
SMALL += ["MODEL.MASK_FORMER.TEST.PANOPTIC_ON", False]


def build(recipe, published_rounding):
    options = [*SMALL, "MODEL.PUBLISHED_ROUNDING", published_rounding]
    torch.manual_seed(0)
    model = build_model(load_config(f"configs/{recipe}.yaml", options))
    torch.manual_seed(1)
    for name, buffer in model.named_buffers():
        if name.endswith("running_var"):
            buffer.uniform_(1.5, 2.5)
        elif name.endswith(("running_mean", "norm.bias")):
            buffer.normal_(0, 0.1)
    return model.double()


def batch():
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (2, 3, 64, 96), generator=generator, dtype=torch.uint8)
    masks = torch.rand(2, 3, 64, 96, generator=generator) > 0.6
    labels = torch.tensor([1, 5, 7])
    instances = [Instances((64, 96), gt_classes=labels, gt_masks=BitMasks(m)) for m in masks]
    return [{"image": x, "instances": i} for x, i in zip(images, instances, strict=True)]


@pytest.mark.parametrize("recipe", RECIPES)
def test_losses_gradients_and_inference_are_equal(recipe):
    published, fastest = build(recipe, True), build(recipe, False)
    assert list(published.state_dict()) == list(fastest.state_dict())
    losses = [model(batch()) for model in (published, fastest)]
    # Costs and losses are computed in float32.
    torch.testing.assert_close(losses[1], losses[0], rtol=1e-5, atol=1e-6)
    for loss in losses:
        sum(loss.values()).backward()
    for (name, a), b in zip(published.named_parameters(), fastest.parameters(), strict=True):
        torch.testing.assert_close(b.grad, a.grad, rtol=1e-3, atol=1e-5, msg=name)
    with torch.no_grad():
        results = [model.eval()(batch()) for model in (published, fastest)]
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(b["sem_seg"], a["sem_seg"], rtol=1e-5, atol=1e-6)


def test_it_takes_effect():
    published, fastest = (build(RECIPES[0], value) for value in (True, False))
    for model, folds in ((published, False), (fastest, True)):
        kinds = [
            isinstance(m, FrozenNormConv2d)
            for m in model.backbone.modules()
            if isinstance(m, Conv2d)
        ]
        assert all(kinds) if folds else not any(kinds)
        format = torch.channels_last if folds else torch.contiguous_format
        assert model.backbone.res3[0].conv2.weight.is_contiguous(memory_format=format)
        flags = [m.published_rounding for m in model.modules() if hasattr(m, "published_rounding")]
        assert len(flags) > 20 and all(flag is not folds for flag in flags)

"""Network and losses can be compiled: the network in one piece, under the same names."""

import pytest
import torch

from mask_former.criterion import SetCriterion
from mask_former.engine import build_model, load_config
from mask_former.structures import Prediction, Target

R50 = "coco-panoptic/maskformer_panoptic_R50_bs64_554k"
SWIN = "ade20k-150/swin/maskformer_swin_tiny_bs16_160k"
SMALL = ["MODEL.WEIGHTS", "", "MODEL.DEVICE", "cpu", "MODEL.MASK_FORMER.DROPOUT", 0.0]
SMALL += ["MODEL.RESNETS.WIDTH_PER_GROUP", 8, "MODEL.RESNETS.RES2_OUT_CHANNELS", 16]
SMALL += ["MODEL.MASK_FORMER.DIM_FEEDFORWARD", 32, "MODEL.MASK_FORMER.DEC_LAYERS", 1]
SMALL += ["MODEL.SEM_SEG_HEAD.TRANSFORMER_ENC_LAYERS", 1, "MODEL.SWIN.DEPTHS", [1, 1, 1, 1]]
SMALL += ["MODEL.SWIN.DROP_PATH_RATE", 0.0]
TIMM = ["MODEL.BACKBONE.NAME", "TimmBackbone", "MODEL.TIMM.NAME", "convnext_zepto_rms"]
MASK2FORMER = ["MODEL.SEM_SEG_HEAD.PIXEL_DECODER_NAME", "MSDeformAttnPixelDecoder"]
MASK2FORMER += ["MODEL.MASK_FORMER.PREDICTOR_NAME", "MultiScaleMaskedTransformerDecoder"]
MASK2FORMER += ["MODEL.MASK_FORMER.TRANSFORMER_IN_FEATURE", "multi_scale_pixel_decoder"]
MASK2FORMER += ["MODEL.MASK_FORMER.DEC_LAYERS", 4]
PEM = [*MASK2FORMER, MASK2FORMER[0], "PEM_Pixel_Decoder"]
PEM += [MASK2FORMER[2], "PrototypeTransformerDecoder", "MODEL.SEM_SEG_HEAD.NORM", "BN"]


def build(recipe, *options):
    torch.manual_seed(0)
    return build_model(load_config(f"configs/{recipe}.yaml", [*SMALL, *options]))


@pytest.fixture(autouse=True)
def forget_compiled_code():
    torch.compiler.reset()
    yield
    torch.compiler.reset()


@pytest.mark.parametrize(
    ("recipe", "options", "training"),
    [
        (R50, [], True),
        (R50, [], False),
        (SWIN, [], True),
        (R50, MASK2FORMER, True),
        (R50, PEM, False),
        (R50, TIMM, False),
    ],
)
def test_the_network_is_one_graph(recipe, options, training):
    """What a compiler gets is the whole network, and computes the same."""
    model = build(recipe, *options).train(training)

    def network(images):
        predictions = model.predict(images)
        return [(p.class_logits, p.mask_logits) for p in predictions]

    captured = torch.compile(network, backend="eager", fullgraph=True)
    with torch.set_grad_enabled(training):
        images = torch.randn(1, 3, 64, 96)
        torch.testing.assert_close(captured(images), network(images))


@pytest.mark.gpu
def test_compiled_losses_and_gradients_are_the_same():
    """And the second size takes what was compiled for the first: two losses and the costs."""
    counters = torch._dynamo.utils.counters
    counters.clear()
    generator = torch.Generator().manual_seed(0)
    for size in (24, 32):
        logits = 4 * torch.randn(2, 3, size, size, generator=generator)
        masks = torch.rand(2, 2, 4 * size, 4 * size, generator=generator) < 0.3
        targets = [Target(torch.tensor([0, 1]).cuda(), m.cuda()) for m in masks]
        results = []
        for compiled in (False, True):
            leaf = logits.cuda().requires_grad_()
            criterion = SetCriterion(
                load_config(f"configs/{R50}.yaml", ["MODEL.COMPILE", compiled])
            ).cuda()
            predictions = [Prediction(torch.zeros(2, 3, 134).cuda(), leaf)] * 2
            losses = torch.stack(list(criterion(predictions, targets).values()))
            (gradient,) = torch.autograd.grad(losses.sum(), leaf)
            results.append((losses.detach(), gradient))
        torch.testing.assert_close(*results, rtol=1e-5, atol=1e-6)
    assert counters["stats"]["unique_graphs"] == 3

"""A few steps of training, with a backbone under the head of MaskFormer or Mask2Former."""

import copy

import torch
from detectron2.config import CfgNode
from detectron2.structures import BitMasks, Instances

from mask_former.engine import build_model
from mask_former.engine.optimizer import build_optimizer

# Options of `tests.engine.tiny.tiny_cfg`; without them it is MaskFormer's head.
MASK2FORMER = {
    "MODEL__SEM_SEG_HEAD__PIXEL_DECODER_NAME": "MSDeformAttnPixelDecoder",
    "MODEL__SEM_SEG_HEAD__TRANSFORMER_ENC_LAYERS": 1,
    "MODEL__MASK_FORMER__PREDICTOR_NAME": "MultiScaleMaskedTransformerDecoder",
    "MODEL__MASK_FORMER__TRANSFORMER_IN_FEATURE": "multi_scale_pixel_decoder",
    "MODEL__MASK_FORMER__DEC_LAYERS": 4,
    "MODEL__MASK_FORMER__TRAIN_NUM_POINTS": 64,
}


def assert_trains(cfg: CfgNode) -> None:
    """Two steps have finite losses, and every parameter of the backbone takes part."""
    model = build_model(cfg).train()
    optimizer = build_optimizer(cfg, model)
    masks = torch.zeros(2, 64, 64, dtype=torch.bool)
    masks[0, :32], masks[1, 32:] = True, True
    instances = Instances((64, 64), gt_classes=torch.tensor([1, 9]), gt_masks=BitMasks(masks))
    images = torch.randint(0, 256, (2, 3, 64, 64))
    before = copy.deepcopy(dict(model.backbone.named_parameters()))
    for _ in range(2):
        losses = model([{"image": image, "instances": instances} for image in images])
        loss = sum(losses.values())
        assert torch.isfinite(loss)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    parameters = dict(model.backbone.named_parameters())
    still = [name for name, parameter in parameters.items() if not parameter.grad.any()]
    assert not still, still
    # Layer scales of 1e-5 leave some with gradients that are too small for a step.
    moved = [not torch.equal(before[name], x) for name, x in parameters.items()]
    assert sum(moved) > 0.7 * len(moved)

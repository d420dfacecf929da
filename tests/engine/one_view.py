"""Test-time augmentation of any model."""

import torch

from mask_former.engine import build_model
from mask_former.engine.tta import MaskFormerWithTTA
from tests.engine import tiny


@torch.no_grad()
def assert_one_view_is_the_model(folder, **options):
    """With one scale, and without mirror images, augmentation changes nothing."""
    options |= {"MODEL__MASK_FORMER__TEST__PANOPTIC_ON": False, "TEST__AUG__FLIP": False}
    options |= {"TEST__AUG__MIN_SIZES": (64,), "INPUT__MIN_SIZE_TEST": 64}
    cfg = tiny.tiny_cfg(folder, **options)
    model = build_model(cfg).eval()
    image = torch.randint(0, 256, (3, 64, 96), dtype=torch.uint8)
    inputs = [{"image": image, "height": 64, "width": 96}]
    expected = model(inputs)[0]["sem_seg"]
    merged = MaskFormerWithTTA(cfg, model)(inputs)[0]["sem_seg"]
    torch.testing.assert_close(merged, expected, rtol=1e-4, atol=1e-4)

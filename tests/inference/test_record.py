"""In which order the record of inference scales and sums."""

import pytest
import torch

from mask_former.inference import Inference, Sizes, semantic_inference


@pytest.mark.parametrize(
    ("switch", "scores_are_scaled"),
    [
        ("semantic_on", True),
        ("resize_before_semantic", False),
        ("panoptic_on", False),
        ("instance_on", False),
    ],
)
def test_masks_are_scaled_before_the_semantic_sum_wherever_they_are_needed(
    switch, scores_are_scaled
):
    generator = torch.Generator().manual_seed(0)
    prediction = (
        torch.randn(5, 4, generator=generator),
        5 * torch.randn(5, 8, 12, generator=generator),
    )
    sizes = Sizes((32, 48), (30, 40), (60, 90))
    before, after = (
        semantic_inference(*prediction, sizes, scale_scores=scaled) for scaled in (False, True)
    )
    assert (before - after).abs().max() > 1e-2
    found = Inference(thing_classes=[0], **{switch: True})(*prediction, sizes)["sem_seg"]
    assert torch.equal(found, after if scores_are_scaled else before)

"""The masks that learn, multiplied out again from their factors."""

import pytest
import torch

from mask_former.criterion import matched_masks
from mask_former.matcher import FixedMatcher, HungarianMatcher
from mask_former.structures import Prediction, Target

L, B, Q, C, K, SIZE = 3, 3, 4, 5, 4, (6, 7)


def make(segments, matcher):
    """Predictions with factors and without, targets and their matching."""
    torch.manual_seed(0)
    embeddings = torch.randn(L, B, Q, C, dtype=torch.float64, requires_grad=True)
    features = torch.randn(B, C, *SIZE, dtype=torch.float64, requires_grad=True)
    classes = torch.randn(L, B, Q, K + 1, dtype=torch.float64)
    masks = torch.einsum("lbqc,bchw->lbqhw", embeddings, features)
    plain = [Prediction(c, m) for c, m in zip(classes, masks, strict=True)]
    factored = [Prediction(c, features, e) for c, e in zip(classes, embeddings, strict=True)]
    targets = [
        Target(
            torch.randperm(K)[:n] if n <= K else torch.zeros(n).long(), torch.rand(n, 12, 14) > 0.5
        )
        for n in segments
    ]
    return plain, factored, targets, matcher(plain, targets), (embeddings, features)


@pytest.mark.parametrize("segments", [(2, 3, 1), (0, 4, 2), (0, 0, 0), (9, 1, 5)])
def test_equal_the_predicted_masks_and_have_their_gradient(segments):
    plain, factored, targets, matching, leaves = make(segments, HungarianMatcher())
    expected = matched_masks(plain, targets, matching)
    found = matched_masks(factored, targets, matching)
    assert len(found) == L * sum(min(n, Q) for n in segments)
    torch.testing.assert_close(found, expected)
    weight = torch.randn_like(found)
    expected = torch.autograd.grad((weight * expected).sum(), leaves)
    torch.testing.assert_close(torch.autograd.grad((weight * found).sum(), leaves), expected)


def test_fixed_matching():
    matcher = FixedMatcher(num_classes=K, num_queries=Q)
    plain, factored, targets, matching, _ = make((3, 0, 4), matcher)
    expected = matched_masks(plain, targets, matching)
    torch.testing.assert_close(matched_masks(factored, targets, matching), expected)

import pytest
import torch

from mask_former.engine.merge_views import Mean, QueryMean, match_queries


def test_matching_finds_a_permutation():
    generator = torch.Generator().manual_seed(0)
    classes = torch.rand(9, 5, generator=generator)
    masks = torch.rand(9, 30, generator=generator)
    order = torch.randperm(9, generator=generator)
    assert torch.equal(match_queries((classes[order], masks[order]), (classes, masks)), order)


def test_matching_by_hand():
    # Two large masks that share half of their pixels, and a query without an object.
    reference = torch.tensor([[1.0, 1, 0, 0], [0, 1, 1, 0], [1, 1, 1, 1]])
    other = torch.tensor([[0.0, 1, 1, 1], [1, 1, 1, 1], [1, 1, 0, 0]])
    # Of one class, for the first two of `reference` and the last and first of `other`.
    sure, nothing = [1.0, 0.0], [0.0, 0.0]
    order = match_queries(
        (torch.tensor([sure, sure, nothing]), reference),
        (torch.tensor([sure, nothing, sure]), other),
    )
    assert order.tolist() == [2, 0, 1]
    # Of another class the largest overlap counts for nothing.
    order = match_queries(
        (torch.tensor([sure, sure, nothing]), reference),
        (torch.tensor([[0.0, 1.0], nothing, sure]), other),
    )
    assert order[0] == 2


def test_matching_in_mixed_precision_is_that_of_float32():
    generator = torch.Generator().manual_seed(0)
    views = [
        (torch.rand(9, 5, generator=generator), torch.rand(9, 30, generator=generator))
        for _ in range(2)
    ]
    expected = match_queries(*views)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(match_queries(*views), expected)
    halves = [tuple(x.bfloat16() for x in view) for view in views]
    assert sorted(match_queries(*halves).tolist()) == list(range(9))


def test_mean_by_hand():
    mean = Mean()
    mean.add(torch.tensor([[1.0, 2.0], [3.0, 4.0]]), torch.tensor([[1.0], [3.0]]))
    mean.add(torch.tensor([[2.0, 0.0], [7.0, 0.0]]), torch.tensor([[1.0], [1.0]]))
    assert mean.value.tolist() == [[1.5, 1.0], [4.0, 3.0]]


def logits(*queries):
    """Class logits of an object and of "no object", and the mask logits of a row of pixels."""
    classes, masks = zip(*queries, strict=True)
    return torch.tensor(classes), torch.tensor(masks)[:, None]


FOUND, LOST, NOTHING = [4.0, 0.0], [0.0, 1.0], [0.0, 30.0]
LEFT, RIGHT = [9.0, 5.0, -9.0, -9.0], [-9.0, -9.0, 7.0, 9.0]


def test_queries_are_averaged_with_what_they_found():
    mean = QueryMean()
    mean.add(*logits((FOUND, LEFT), (FOUND, RIGHT)))
    mean.add(*logits((FOUND, RIGHT), (LOST, [5.0, 9.0, -9.0, -9.0])))
    classes, masks = mean.value
    assert classes.tolist() == [[2.0, 0.5], [4.0, 0.0]]
    # Probabilities to have found an object weigh the masks.
    weights = torch.tensor([FOUND, LOST]).softmax(-1)[:, 0]
    expected = torch.tensor([LEFT, [5.0, 9.0, -9.0, -9.0]])
    expected = (weights[:, None] * expected).sum(0) / weights.sum()
    torch.testing.assert_close(masks[:, 0], torch.stack((expected, torch.tensor(RIGHT))))


def test_the_mask_of_a_query_that_found_nothing_does_not_count():
    mean = QueryMean()
    mean.add(*logits((FOUND, LEFT), (NOTHING, RIGHT)))
    mean.add(*logits((NOTHING, RIGHT), (NOTHING, RIGHT)))
    classes, masks = mean.value
    torch.testing.assert_close(masks[0, 0], torch.tensor(LEFT), rtol=0, atol=1e-4)
    assert classes[0].tolist() == [2.0, 15.0]
    # Where no view found anything, numbers stay numbers.
    assert masks[1, 0].tolist() == pytest.approx(RIGHT)


def test_what_the_first_view_missed_comes_together():
    mean = QueryMean()
    for view in (
        logits((LOST, LEFT), (LOST, LEFT)),
        logits((LOST, LEFT), (FOUND, RIGHT)),
        logits((FOUND, RIGHT), (LOST, LEFT)),
    ):
        mean.add(*view)
        mean.end_scale()
    found = mean.value[0].tolist()
    assert sorted(found) == [LOST, pytest.approx([8 / 3, 1 / 3])]

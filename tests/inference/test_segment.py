"""Semantic, panoptic and instance inference by hand-computed cases and properties."""

import pytest
import torch
import torch.nn.functional as F
from detectron2.structures import BitMasks

from mask_former.inference import resize as scaling
from mask_former.inference.resize import Sizes, scale_masks
from mask_former.inference.segment import (
    confident_queries,
    instance_inference,
    panoptic_inference,
    semantic_inference,
    semantic_labels,
    top_instances,
)


def logits_for(probabilities):
    return torch.tensor(probabilities).log()


def rectangle(y0, y1, x0, x1, size=(10, 20), inside=0.9, outside=0.01):
    p = torch.full(size, outside)
    p[y0:y1, x0:x1] = inside
    return p.logit()


def test_semantic_scores_by_hand():
    classes = logits_for([[0.5, 0.3, 0.2], [0.1, 0.2, 0.7]])  # the last is "no object"
    masks = torch.tensor([[[0.9, 0.2]], [[0.4, 0.8]]]).logit()
    expected = [
        [[0.5 * 0.9 + 0.1 * 0.4, 0.5 * 0.2 + 0.1 * 0.8]],
        [[0.3 * 0.9 + 0.2 * 0.4, 0.3 * 0.2 + 0.2 * 0.8]],
    ]
    torch.testing.assert_close(semantic_inference(classes, masks), torch.tensor(expected))


def test_confident_queries_drop_no_object_and_low_scores():
    classes = logits_for([[0.6, 0.3, 0.1], [0.1, 0.2, 0.7], [0.1, 0.5, 0.4]])
    keep, scores, labels = confident_queries(classes, 0.5)
    assert keep.tolist() == [0]  # 0.5 is not above the threshold
    assert scores.tolist() == pytest.approx([0.6])
    assert labels.tolist() == [0]


class TestPanoptic:
    def merge(self, scores, labels, masks, things=(0, 1), overlap=0.5):
        return panoptic_inference(
            torch.tensor(scores),
            torch.tensor(labels),
            torch.stack(masks),
            thing_classes=things,
            overlap_threshold=overlap,
        )

    def test_the_larger_product_wins_a_pixel(self):
        left, all_of_it = rectangle(0, 10, 0, 8), rectangle(0, 10, 0, 20, inside=0.8)
        panoptic, segments = self.merge([0.9, 0.9], [1, 2], [left, all_of_it], overlap=0.5)
        assert [s["category_id"] for s in segments] == [1, 2]
        assert [s["isthing"] for s in segments] == [True, False]
        assert panoptic[:, :8].unique().tolist() == [1]
        assert panoptic[:, 8:].unique().tolist() == [2]

    @pytest.mark.parametrize(("overlap", "kept"), [(0.59, [1, 2]), (0.61, [1])])
    def test_a_covered_segment_is_dropped(self, overlap, kept):
        # 120 of the second's 200 pixels stay visible.
        masks = [rectangle(0, 10, 0, 8), rectangle(0, 10, 0, 20, inside=0.8)]
        panoptic, segments = self.merge([0.9, 0.9], [0, 2], masks, overlap=overlap)
        assert [s["id"] for s in segments] == kept
        assert panoptic.max() == len(kept)
        assert (panoptic[:, 8:] == (2 if 2 in kept else 0)).all()

    def test_stuff_of_one_class_is_merged_and_things_are_not(self):
        masks = [
            rectangle(0, 10, 0, 5),
            rectangle(0, 10, 5, 10),
            rectangle(0, 10, 10, 15),
            rectangle(0, 10, 15, 20),
        ]
        panoptic, segments = self.merge([0.9] * 4, [2, 0, 2, 0], masks)
        assert segments == [
            {"id": 1, "isthing": False, "category_id": 2},
            {"id": 2, "isthing": True, "category_id": 0},
            {"id": 3, "isthing": True, "category_id": 0},
        ]
        assert panoptic[0, ::5].tolist() == [1, 2, 1, 3]
        assert panoptic.dtype == torch.int32

    def test_a_segment_that_is_nowhere_probable_is_dropped(self):
        faint = rectangle(0, 10, 0, 20, inside=0.4)
        panoptic, segments = self.merge([0.9], [0], [faint], overlap=0.0)
        assert segments == []
        assert panoptic.max() == 0

    def test_nothing_is_confident(self):
        panoptic, segments = panoptic_inference(
            torch.zeros(0),
            torch.zeros(0, dtype=torch.int64),
            torch.zeros(0, 4, 5),
            thing_classes=[0],
            overlap_threshold=0.8,
        )
        assert panoptic.shape == (4, 5) and panoptic.dtype == torch.int32
        assert segments == []


class TestInstances:
    def test_best_pairs_of_a_query_and_a_thing(self):
        classes = logits_for([[0.5, 0.3, 0.1, 0.1], [0.1, 0.2, 0.6, 0.1]])
        queries, scores, labels = top_instances(classes, thing_classes={0, 2}, top_k=3)
        assert scores.tolist() == pytest.approx([0.6, 0.5, 0.1])
        assert queries.tolist()[:2] == [1, 0]
        assert labels.tolist()[:2] == [2, 0]

    @pytest.mark.parametrize(("things", "n"), [([0, 1], 8), ([], 0)])
    def test_no_more_than_there_are(self, things, n):
        result = top_instances(torch.zeros(4, 4), thing_classes=things, top_k=100)
        assert [len(x) for x in result] == [n] * 3

    def test_score_box_and_order(self):
        masks = torch.stack(
            [
                rectangle(2, 5, 3, 9, inside=0.6),
                rectangle(1, 9, 10, 14, inside=0.9),
                rectangle(0, 0, 0, 0),
            ]
        )
        result = instance_inference(
            torch.arange(3), torch.tensor([0.9, 0.8, 1.0]), torch.tensor([4, 5, 6]), masks
        )
        assert result.image_size == (10, 20)
        assert result.pred_classes.tolist() == [5, 4]  # the empty mask is left out
        assert result.scores.tolist() == pytest.approx([0.8 * 0.9, 0.9 * 0.6])
        assert result.pred_boxes.tensor.tolist() == [[10, 1, 14, 9], [3, 2, 9, 5]]
        assert result.pred_masks.flatten(1).sum(1).tolist() == [32, 18]
        assert result.pred_masks.dtype == torch.bool


class TestScaledMasks:
    SIZES = Sizes(padded=(32, 64), image=(30, 50), output=(30, 50))

    def test_padding_is_cut_before_the_second_scaling(self):
        logits = torch.zeros(1, 8, 16)
        logits[:, :, 13:] = 100.0  # beyond pixel 52: padding
        result = scale_masks(logits, self.SIZES._replace(output=(60, 100)))
        assert result.shape == (1, 60, 100)
        # Only the column next to the padding was touched by it, in the first scaling.
        assert result[:, :, :90].abs().max() == 0

    def test_constant_masks_stay_constant_in_float32(self):
        logits = torch.full((2, 8, 16), -3.5, dtype=torch.bfloat16)
        result = scale_masks(logits, self.SIZES._replace(output=(7, 211)))
        assert result.dtype == torch.float32
        torch.testing.assert_close(result, torch.full((2, 7, 211), -3.5))

    def test_no_masks(self):
        assert scale_masks(torch.zeros(0, 8, 16), self.SIZES).shape == (0, 30, 50)


def plain_order(masks, sizes):
    """All masks at the size of the result, by PyTorch's interpolation."""
    x = F.interpolate(masks[None], size=sizes.padded, mode="bilinear")
    x = x[..., : sizes.image[0], : sizes.image[1]]
    return F.interpolate(x, size=sizes.output, mode="bilinear")[0]


@pytest.mark.parametrize("seed", range(6))
class TestPlainOrder:
    """Tile by tile the results are those of the plain order of operations."""

    @pytest.fixture
    def prediction(self, seed, monkeypatch):
        """Class logits, blurred masks, and sizes at which there are several tiles."""
        monkeypatch.setitem(scaling._TILE_BYTES, "cpu", 1 << 15)
        generator = torch.Generator().manual_seed(seed)
        height, width, *output = (20 + torch.randint(60, (4,), generator=generator)).tolist()
        noise = torch.randn(12, 1, 6, 7, generator=generator)
        masks = 9 * F.interpolate(noise, size=(24, 32), mode="bicubic")[:, 0]
        sizes = Sizes((96, 128), (height, width), tuple(output))
        return 3 * torch.randn(12, 8, generator=generator), masks, sizes

    def test_panoptic(self, prediction):
        classes, masks, sizes = prediction
        keep, scores, labels = confident_queries(classes, 0.5)
        assert len(keep) > 3
        options = {"thing_classes": range(4), "overlap_threshold": 0.3}
        found, segments = panoptic_inference(scores, labels, masks[keep], sizes, **options)
        probability = plain_order(masks[keep], sizes).sigmoid()
        winner = (probability * scores[:, None, None]).argmax(0)
        expected, stuff, categories = torch.zeros_like(found), {}, []
        for query, label in enumerate(labels.tolist()):
            own, left = (probability[query] >= 0.5).sum(), (winner == query).sum()
            if left == 0 or own == 0 or left / own < 0.3:
                continue
            if label not in stuff:
                categories.append(label)
            expected[winner == query] = stuff.get(label, len(categories))
            if label >= 4:
                stuff.setdefault(label, len(categories))
        assert torch.equal(found, expected)
        assert [segment["category_id"] for segment in segments] == categories

    @pytest.mark.parametrize("scale_scores", [False, True])
    def test_semantic(self, prediction, scale_scores):
        classes, masks, sizes = prediction
        options = {"scale_scores": scale_scores}
        probability = classes.softmax(-1)[:, :-1]
        if scale_scores:
            at_image = plain_order(masks, sizes._replace(output=sizes.image)).sigmoid()
            expected = torch.einsum("qk,qhw->khw", probability, at_image)
            expected = F.interpolate(expected[None], size=sizes.output, mode="bilinear")[0]
        else:
            at_output = plain_order(masks, sizes).sigmoid()
            expected = torch.einsum("qk,qhw->khw", probability, at_output)
        found = semantic_inference(classes, masks, sizes, **options)
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
        assert torch.equal(semantic_labels(classes, masks, sizes, **options), expected.argmax(0))

    def test_instances(self, prediction):
        classes, masks, sizes = prediction
        queries, scores, labels = top_instances(classes, thing_classes=range(4), top_k=20)
        assert len(queries.unique()) < len(queries)  # a query may stand for two instances
        found = instance_inference(queries, scores, labels, masks, sizes)
        expected = instance_inference(
            torch.arange(20), scores, labels, plain_order(masks[queries], sizes)
        )
        assert torch.equal(found.pred_masks, expected.pred_masks)
        assert torch.equal(found.pred_classes, expected.pred_classes)
        torch.testing.assert_close(found.scores, expected.scores)
        boxes = BitMasks(found.pred_masks).get_bounding_boxes()
        assert torch.equal(found.pred_boxes.tensor, boxes.tensor)


def test_the_first_of_equal_scores_wins():
    same = torch.zeros(4, 5)
    classes = logits_for([[0.2, 0.3, 0.3, 0.2]])
    assert (semantic_labels(classes, same[None]) == 1).all()
    panoptic, segments = panoptic_inference(
        torch.full((3,), 0.7),
        torch.arange(3),
        same.repeat(3, 1, 1),
        thing_classes=[],
        overlap_threshold=0.0,
    )
    assert (panoptic == 1).all()
    assert [segment["category_id"] for segment in segments] == [0]


def test_instances_of_half_precision_have_scores_in_float32():
    # The sum of so many probabilities is infinite in float16.
    masks = torch.full((1, 300, 300), 20.0)
    pairs = [torch.tensor([0]), torch.tensor([0.75]).half(), torch.tensor([1])]
    (score,) = instance_inference(*pairs, masks.half()).scores
    assert score.dtype == torch.float32 and score.item() == pytest.approx(0.75)

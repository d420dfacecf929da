import math

import numpy as np
import pytest

from mask_former.evaluation import PanopticQuality, panoptic_statistics

IS_THING = [True, True, True, False, False]
K = len(IS_THING)
THING, STUFF = 0, 3


def segment(id_, category, iscrowd=0):
    return {"id": id_, "category_id": category, "iscrowd": iscrowd}


def row(*ids):
    """A map of one row."""
    return np.array([ids])


def statistics(pred_map, pred_segments, gt_map, gt_segments, category=THING):
    """(sum of IoU, TP, FP, FN) of one class, after checking that no other class counts."""
    table = panoptic_statistics(pred_map, pred_segments, gt_map, gt_segments, K)
    others = np.delete(table, category, axis=0)
    assert not others.any()
    return table[category].tolist()


class TestByHand:
    def test_equal_maps_match_with_iou_1(self):
        gt = row(1, 1, 2, 2)
        segments = [segment(1, THING), segment(2, THING)]
        assert statistics(gt, segments, gt, segments) == [2, 2, 0, 0]

    @pytest.mark.parametrize(
        ("pred", "gt", "expected"),
        [
            # 2 common pixels of 4, in both cases: IoU exactly 0.5 is no match
            (row(1, 1, 1, 0), row(2, 2, 3, 2), [0, 0, 1, 1]),
            (row(1, 1, 1, 1), row(2, 2, 3, 3), [0, 0, 1, 1]),
            # 3 of 5
            (row(1, 1, 1, 1, 0), row(2, 2, 2, 3, 2), [3 / 5, 1, 0, 0]),
        ],
    )
    def test_match_needs_more_than_half(self, pred, gt, expected):
        gt_segments = [segment(2, THING)] + [segment(3, THING, iscrowd=1)] * (3 in gt)
        # The crowd excuses at most half of the prediction here.
        assert statistics(pred, [segment(1, THING)], gt, gt_segments) == expected

    def test_void_pixels_do_not_count_in_the_union(self):
        # union: 5 + 3 - 3, less the 2 predicted pixels without annotation
        result = statistics(row(1, 1, 1, 1, 1), [segment(1, THING)], row(2, 2, 2, 0, 0),
                            [segment(2, THING)])  # fmt: skip
        assert result == [1, 1, 0, 0]

    def test_unpredicted_pixels_do_count(self):
        result = statistics(row(1, 1, 0), [segment(1, THING)], row(2, 2, 2), [segment(2, THING)])
        assert result == [2 / 3, 1, 0, 0]

    def test_prediction_of_another_class_is_a_false_positive_and_a_miss(self):
        table = panoptic_statistics(row(1, 1), [segment(1, THING)], row(2, 2), [segment(2, 1)], K)
        assert table[THING].tolist() == [0, 0, 1, 0]
        assert table[1].tolist() == [0, 0, 0, 1]

    @pytest.mark.parametrize(
        ("gt", "false_positives"),
        [(row(0, 0, 0, 5), 0), (row(0, 0, 5, 5), 1), (row(0, 5, 5, 5), 1)],
    )
    def test_false_positive_is_excused_by_more_than_half_on_void(self, gt, false_positives):
        table = panoptic_statistics(
            row(1, 1, 1, 1), [segment(1, THING)], gt, [segment(5, STUFF)], K
        )
        assert table[THING].tolist() == [0, 0, false_positives, 0]

    @pytest.mark.parametrize(
        ("crowd_class", "gt", "false_positives"),
        [
            (THING, row(7, 7, 7, 5), 0),
            (THING, row(7, 7, 0, 5), 0),  # void and crowd count together
            (THING, row(7, 7, 5, 5), 1),
            (1, row(7, 7, 7, 5), 1),  # a crowd of another class excuses nothing
        ],
    )
    def test_false_positive_is_excused_by_a_crowd_of_its_class(
        self, crowd_class, gt, false_positives
    ):
        table = panoptic_statistics(
            row(1, 1, 1, 1),
            [segment(1, THING)],
            gt,
            [segment(7, crowd_class, iscrowd=1), segment(5, STUFF)],
            K,
        )
        assert table[THING].tolist() == [0, 0, false_positives, 0]

    def test_crowd_is_neither_matched_nor_missed(self):
        crowd = [segment(2, THING, iscrowd=1)]
        assert statistics(row(1, 1), [segment(1, THING)], row(2, 2), crowd) == [0, 0, 0, 0]
        assert statistics(row(0, 0), [], row(2, 2), crowd) == [0, 0, 0, 0]

    def test_nothing_predicted(self):
        assert statistics(row(0, 0), [], row(2, 2), [segment(2, THING)]) == [0, 0, 0, 1]

    def test_nothing_annotated(self):
        assert statistics(row(1, 1), [segment(1, THING)], row(0, 0), []) == [0, 0, 0, 0]

    def test_averages(self):
        """Class 0: one match of IoU 3/4, one miss; class 3: one match of IoU 1/1; the rest absent.

        Pixels 0-3 are class 0 (the prediction has 3 of them), 4-5 class 0 (missed),
        6-9 class 3.
        """
        gt = row(1, 1, 1, 1, 2, 2, 3, 3, 3, 3)
        pred = row(9, 9, 9, 0, 0, 0, 8, 8, 8, 8)
        quality = PanopticQuality(IS_THING)
        quality.update(
            "image",
            pred,
            [segment(9, THING), segment(8, STUFF)],
            gt,
            [segment(1, THING), segment(2, THING), segment(3, STUFF)],
        )
        rq = 1 / (1 + 1 / 2)
        assert quality.compute() == pytest.approx(
            {
                "PQ": 100 * (0.75 * rq + 1) / 2,
                "SQ": 100 * (0.75 + 1) / 2,
                "RQ": 100 * (rq + 1) / 2,
                "PQ_th": 100 * 0.75 * rq,
                "SQ_th": 75,
                "RQ_th": 100 * rq,
                "PQ_st": 100,
                "SQ_st": 100,
                "RQ_st": 100,
            },
            rel=1e-12,
        )
        assert np.isnan(quality.per_class().pq[[1, 2, 4]]).all()

    def test_no_match_at_all_is_0(self):
        quality = PanopticQuality(IS_THING)
        quality.update("a", row(1, 1), [segment(1, THING)], row(2, 2), [segment(2, STUFF)])
        assert set(quality.compute().values()) == {0.0}

    def test_no_image_is_nan(self):
        assert all(math.isnan(value) for value in PanopticQuality(IS_THING).compute().values())


def test_an_annotated_segment_without_a_pixel_is_missed():
    """As in the reference evaluation."""
    annotated = [segment(1, THING), segment(2, THING), {**segment(3, STUFF), "iscrowd": 1}]
    statistics = panoptic_statistics(row(1, 1), [segment(1, THING)], row(1, 1), annotated, K)
    assert statistics[THING].tolist() == [1, 1, 0, 1]
    assert statistics.sum() == 3


class TestErrors:
    GOOD = (row(1, 1), [segment(1, THING)], row(2, 2), [segment(2, THING)])

    @pytest.mark.parametrize(
        ("position", "value", "message"),
        [
            (0, row(1, 1, 1), r"prediction has height and width \(1, 3\).*truth \(1, 2\)"),
            (0, row(1, 4), r"prediction's map has segments that its list lacks: \[4\]"),
            (2, row(2, 4), r"ground truth's map has segments that its list lacks: \[4\]"),
            (0, row(0, 0), r"prediction's list has segments without a pixel.*\[1\]"),
            (0, row(-1, 1), r"prediction's map has segments that its list lacks: \[-1\]"),
            (0, row(1.0, 1.0), r"prediction is a map of float64"),
            (1, [segment(1, K)], r"prediction has classes \[5\].*\[0, 5\)"),
            (3, [segment(2, -1)], r"ground truth has classes \[-1\]"),
            (1, [segment(1, THING), segment(1, STUFF)], r"prediction lists a segment twice"),
            (3, [segment(2, THING), segment(0, STUFF)], r"ground truth lists .* id 0"),
        ],
    )
    def test_names_what_is_wrong(self, position, value, message):
        arguments = list(self.GOOD)
        arguments[position] = value
        with pytest.raises(ValueError, match=message):
            panoptic_statistics(*arguments, K)

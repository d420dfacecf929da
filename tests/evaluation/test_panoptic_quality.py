import json
import math
from pathlib import Path

import numpy as np
import pytest
from hotcoco.panoptic import PanopticEval
from PIL import Image

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


class TestErrors:
    GOOD = (row(1, 1), [segment(1, THING)], row(2, 2), [segment(2, THING)])

    @pytest.mark.parametrize(
        ("position", "value", "message"),
        [
            (0, row(1, 1, 1), r"prediction has height and width \(1, 3\).*truth \(1, 2\)"),
            (0, row(1, 4), r"prediction's map has segments that its list lacks: \[4\]"),
            (2, row(2, 4), r"ground truth's map has segments that its list lacks: \[4\]"),
            (0, row(0, 0), r"prediction's list has segments without a pixel.*\[1\]"),
            (2, row(0, 0), r"ground truth's list has segments without a pixel.*\[2\]"),
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


def random_image(rng, shape=(24, 30)):
    """A ground truth with void and crowds (also two of one class), and a related prediction."""

    def rectangles(canvas, count):
        for id_ in rng.choice(np.arange(1, 256**3 // 7), count, replace=False):
            y, x = rng.integers(0, shape[0] - 3), rng.integers(0, shape[1] - 3)
            height, width = rng.integers(3, 15, 2)
            canvas[y : y + height, x : x + width] = id_
        return canvas

    gt_map = rectangles(np.zeros(shape, dtype=np.int64), 8)
    gt_segments = [
        segment(int(id_), int(rng.integers(K)), iscrowd=int(rng.random() < 0.3))
        for id_ in rng.permutation(np.unique(gt_map[gt_map > 0]))
    ]
    gt_class = {s["id"]: s["category_id"] for s in gt_segments}
    pred_map = rectangles(np.roll(gt_map, rng.integers(-2, 3, 2), axis=(0, 1)), rng.integers(0, 3))
    pred_map[rng.random(shape) < 0.05] = 0
    pred_segments = [
        segment(int(id_), gt_class.get(id_, 0) if rng.random() < 0.8 else int(rng.integers(K)))
        for id_ in np.unique(pred_map[pred_map > 0])
    ]
    return pred_map, pred_segments, gt_map, gt_segments


def random_images(seed, count):
    rng = np.random.default_rng(seed)
    return [random_image(rng) for _ in range(count)]


def literal_statistics(pred_map, pred_segments, gt_map, gt_segments):
    """The rules one after another, pixel set by pixel set."""
    table = np.zeros((K, 4))
    void = gt_map == 0
    matched_gt, matched_pred = set(), set()
    for g in gt_segments:
        for p in pred_segments:
            if g["iscrowd"] or g["category_id"] != p["category_id"]:
                continue
            g_mask, p_mask = gt_map == g["id"], pred_map == p["id"]
            iou = (g_mask & p_mask).sum() / (g_mask | (p_mask & ~void)).sum()
            if iou > 0.5:
                table[g["category_id"]] += [iou, 1, 0, 0]
                matched_gt.add(g["id"])
                matched_pred.add(p["id"])
    for g in gt_segments:
        if not g["iscrowd"] and g["id"] not in matched_gt:
            table[g["category_id"], 3] += 1
    for p in pred_segments:
        if p["id"] in matched_pred:
            continue
        p_mask = pred_map == p["id"]
        excuse = void.copy()
        crowds = [g for g in gt_segments if g["iscrowd"]]
        crowds = [g for g in crowds if g["category_id"] == p["category_id"]]
        if crowds:
            excuse |= gt_map == crowds[-1]["id"]
        if (p_mask & excuse).sum() / p_mask.sum() <= 0.5:
            table[p["category_id"], 2] += 1
    return table


def quality_of(images):
    quality = PanopticQuality(IS_THING)
    for key, image in enumerate(images):
        quality.update(key, *image)
    return quality


def test_equals_the_literal_rules():
    images = random_images(seed=0, count=60)
    for image in images:
        np.testing.assert_allclose(
            panoptic_statistics(*image, K), literal_statistics(*image), rtol=1e-12
        )
    # The images exercise what they are for.
    total = quality_of(images).statistics()
    assert (total > 0).all()


def write_coco_panoptic(folder: Path, maps_and_segments) -> Path:
    """COCO's panoptic format; category ids are the contiguous ones."""
    images, annotations = [], []
    png_folder = folder / "png"
    png_folder.mkdir(parents=True)
    for key, (id_map, segments) in enumerate(maps_and_segments):
        height, width = id_map.shape
        rgb = np.stack([id_map % 256, id_map // 256 % 256, id_map // 256**2], axis=-1)
        Image.fromarray(rgb.astype(np.uint8)).save(png_folder / f"{key}.png")
        images.append({"id": key, "file_name": f"{key}.jpg", "height": height, "width": width})
        info = [{**s, "area": int((id_map == s["id"]).sum()), "bbox": [0, 0, 1, 1]}
                for s in segments]  # fmt: skip
        annotations.append({"image_id": key, "file_name": f"{key}.png", "segments_info": info})
    categories = [{"id": k, "name": str(k), "isthing": int(t)} for k, t in enumerate(IS_THING)]
    content = {"images": images, "annotations": annotations, "categories": categories}
    path = folder / "panoptic.json"
    path.write_text(json.dumps(content))
    return path


def test_equals_an_independent_implementation(tmp_path):
    images = random_images(seed=1, count=40)
    evaluation = PanopticEval(
        write_coco_panoptic(tmp_path / "gt", [image[2:] for image in images]),
        write_coco_panoptic(tmp_path / "pred", [image[:2] for image in images]),
        gt_folder=tmp_path / "gt" / "png",
        pred_folder=tmp_path / "pred" / "png",
    )
    evaluation.evaluate()
    theirs = evaluation.results()
    quality = quality_of(images)
    per_class = [theirs["per_class"][k] for k in range(K)]
    expected = [[c[name] for name in ("iou", "tp", "fp", "fn")] for c in per_class]
    np.testing.assert_allclose(quality.statistics(), expected, rtol=1e-12)
    assert quality.compute() == pytest.approx(
        {
            f"{name.upper()}{suffix}": 100 * theirs[group][name]
            for suffix, group in (("", "All"), ("_th", "Things"), ("_st", "Stuff"))
            for name in ("pq", "sq", "rq")
        },
        rel=1e-12,
    )


class TestInvariance:
    def test_to_the_order_of_images_to_the_last_bit(self):
        images = random_images(seed=2, count=20)
        backwards = PanopticQuality(IS_THING)
        for key in reversed(range(len(images))):
            backwards.update(key, *images[key])
        assert backwards.compute() == quality_of(images).compute()

    def test_to_merging_to_the_last_bit(self):
        images = random_images(seed=3, count=20)
        parts = [PanopticQuality(IS_THING) for _ in range(3)]
        for key, image in enumerate(images):
            parts[key % 3].update(key, *image)
        parts[0].update(1, *images[1])  # as a sampler that pads does
        merged = parts[2].merge(parts[0]).merge(parts[1])
        assert len(merged) == 20
        assert merged.compute() == quality_of(images).compute()

    def test_to_an_image_seen_twice(self):
        images = random_images(seed=4, count=5)
        quality = quality_of(images)
        before = quality.compute()
        quality.update(2, *images[2])
        assert quality.compute() == before

    def test_to_the_segment_ids(self):
        rng = np.random.default_rng(5)

        def renamed(id_map, segments):
            new = rng.choice(np.arange(1, 256**3), len(segments), replace=False)
            result = np.zeros_like(id_map)
            for s, id_ in zip(segments, new, strict=True):
                result[id_map == s["id"]] = id_
            return result, [{**s, "id": int(i)} for s, i in zip(segments, new, strict=True)]

        for pred_map, pred_segments, gt_map, gt_segments in random_images(seed=5, count=10):
            np.testing.assert_array_equal(
                panoptic_statistics(pred_map, pred_segments, gt_map, gt_segments, K),
                panoptic_statistics(
                    *renamed(pred_map, pred_segments), *renamed(gt_map, gt_segments), K
                ),
            )

    def test_to_the_integer_type(self):
        pred_map, pred_segments, gt_map, gt_segments = random_images(seed=6, count=1)[0]
        np.testing.assert_array_equal(
            panoptic_statistics(pred_map, pred_segments, gt_map, gt_segments, K),
            panoptic_statistics(
                pred_map.astype(np.int32), pred_segments, gt_map.astype(np.uint32), gt_segments, K
            ),
        )

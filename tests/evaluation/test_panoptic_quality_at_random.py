"""Panoptic quality of random images: by the literal rules, by another program, in any order."""

import json
from pathlib import Path

import numpy as np
import pytest
from hotcoco.panoptic import PanopticEval
from PIL import Image

from mask_former.evaluation import PanopticQuality, panoptic_statistics

IS_THING = [True, True, True, False, False]
K = len(IS_THING)


def segment(id_, category, iscrowd=0):
    return {"id": id_, "category_id": category, "iscrowd": iscrowd}


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

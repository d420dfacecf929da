import numpy as np
import pytest

from mask_former.evaluation import ConfusionMatrix

NAMES = ("a", "b", "c")


def confusion(*images, ignore_label=255):
    matrix = ConfusionMatrix(len(NAMES), ignore_label)
    for key, (pred, gt) in enumerate(images):
        matrix.update(key, np.array([pred]), np.array([gt]))
    return matrix


def test_metrics_by_hand():
    """Ignored pixels count nowhere; class c is predicted but not annotated."""
    matrix = confusion(([0, 0, 1, 2, 1, 2], [0, 0, 0, 1, 1, 255]))
    np.testing.assert_array_equal(matrix.counts(), [[2, 0, 0], [1, 1, 0], [0, 1, 0]])
    iou_a, iou_b = 2 / 3, 1 / 3
    assert matrix.compute(NAMES) == pytest.approx(
        {
            "mIoU": 100 * (iou_a + iou_b) / 2,
            "fwIoU": 100 * (iou_a * 3 / 5 + iou_b * 2 / 5),
            "IoU-a": 100 * iou_a,
            "IoU-b": 100 * iou_b,
            "IoU-c": float("nan"),
            "mACC": 100 * (2 / 3 + 1 / 2) / 2,
            "pACC": 100 * 3 / 5,
            "ACC-a": 100 * 2 / 3,
            "ACC-b": 100 * 1 / 2,
            "ACC-c": float("nan"),
        },
        rel=1e-12,
        nan_ok=True,
    )


def test_nothing_right_is_0():
    assert confusion(([1, 1], [0, 0])).compute(NAMES)["mIoU"] == 0


@pytest.mark.filterwarnings("error")
def test_nothing_annotated_is_nan():
    metrics = confusion(([1, 1], [255, 255])).compute(NAMES)
    assert all(np.isnan(metrics[name]) for name in ("mIoU", "mACC", "pACC"))


def test_ignore_label_may_be_any():
    np.testing.assert_array_equal(
        confusion(([0, 1], [65535, 1]), ignore_label=65535).counts(), np.diag([0, 1, 0])
    )


def test_unsigned_labels_do_not_wrap():
    """300 classes: products of uint8 labels would overflow."""
    matrix = ConfusionMatrix(300, 255)
    matrix.update(0, np.array([[250]], dtype=np.uint8), np.array([[249]], dtype=np.uint8))
    assert matrix.counts()[250, 249] == 1


@pytest.mark.parametrize("block", [1, 2, 8])
@pytest.mark.parametrize("classes", [3, 100])
def test_noise_and_blocks_are_counted_alike(block, classes):
    """Single pixels, short and long runs, few and many classes; against counting class by class."""
    rng = np.random.default_rng(0)
    pred, gt = rng.integers(0, classes, (2, 16, 24 // block)).repeat(block, axis=2)
    gt[:3, 5:9] = 255
    matrix = ConfusionMatrix(classes)
    matrix.update(0, pred, gt.astype(np.uint8))
    of_pred, of_gt = (values == np.arange(classes)[:, None, None] for values in (pred, gt))
    expected = np.einsum("phw,ghw->pg", of_pred.astype(int), of_gt.astype(int))
    np.testing.assert_array_equal(matrix.counts(), expected)


def test_merged_parts_equal_the_whole_and_an_image_counts_once():
    rng = np.random.default_rng(0)
    images = rng.integers(0, 3, (6, 2, 50))
    parts = [ConfusionMatrix(3), ConfusionMatrix(3)]
    for key, (pred, gt) in enumerate(images):
        parts[key % 2].update(key, pred[None], gt[None])
    parts[1].update(0, images[0, 0][None], images[0, 1][None])
    merged = parts[1].merge(parts[0])
    assert len(merged) == 6
    np.testing.assert_array_equal(merged.counts(), confusion(*images).counts())
    assert merged.counts().sum() == 300


@pytest.mark.parametrize(
    ("pred", "gt", "message"),
    [
        ([0, 1, 2], [0, 1], r"prediction has height and width \(1, 3\).*truth \(1, 2\)"),
        ([0, 3], [0, 1], r"prediction has labels \[3\]; they must lie in \[0, 3\)$"),
        ([0, 1], [0, 7], r"ground truth has labels \[7\].*\[0, 3\) or be 255"),
        ([0.5, 1.0], [0, 1], "prediction is a map of float64"),
        ([0, 1], [0, -1], r"ground truth has labels \[-1\]"),
    ],
)
def test_errors(pred, gt, message):
    with pytest.raises(ValueError, match=message):
        confusion((pred, gt))


def test_nothing_annotated_has_no_metric():
    confusion = ConfusionMatrix(2, 255)
    confusion.update("a", np.zeros((2, 3), np.uint8), np.full((2, 3), 255, np.uint8))
    metrics = confusion.compute(["cat", "dog"])
    assert np.isnan([metrics[name] for name in ("mIoU", "fwIoU", "mACC", "pACC")]).all()

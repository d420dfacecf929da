import numpy as np
import pytest
import torch
from detectron2.evaluation import SemSegEvaluator
from PIL import Image

from mask_former.errors import NonFiniteError, UserError
from mask_former.evaluation import SemanticEvaluator

NAMES = ["sky", "sea", "sand", "rock", "never"]
K = len(NAMES)


@pytest.fixture
def dataset(tmp_path, register):
    """Six images of different sizes with ignored pixels; class "never" does not occur."""
    rng = np.random.default_rng(0)
    records = []
    for index in range(6):
        labels = rng.integers(0, K - 1, (12 + index, 17)).astype(np.uint8)
        labels[rng.random(labels.shape) < 0.1] = 255
        path = tmp_path / f"{index}.png"
        Image.fromarray(labels).save(path)
        records.append({"file_name": f"{index}.jpg", "sem_seg_file_name": str(path)})
    return register(records, stuff_classes=NAMES, ignore_label=255), records


def predictions(records):
    """Scores that are right for about half of the pixels."""
    generator = torch.Generator().manual_seed(0)
    outputs = []
    for record in records:
        labels = np.array(Image.open(record["sem_seg_file_name"]), dtype=np.int64)
        scores = torch.rand((K, *labels.shape), generator=generator)
        right = torch.from_numpy(np.where(labels == 255, 0, labels))
        scores += 0.6 * torch.nn.functional.one_hot(right, K).permute(2, 0, 1)
        outputs.append({"sem_seg": scores})
    return outputs


def metrics(evaluator, records, outputs):
    evaluator.reset()
    for record, output in zip(records, outputs, strict=True):
        evaluator.process([{"file_name": record["file_name"]}], [output])
    return evaluator.evaluate()["sem_seg"]


def test_equals_detectron2(dataset):
    name, records = dataset
    outputs = predictions(records)
    ours = metrics(SemanticEvaluator(name), records, outputs)
    reference = SemSegEvaluator(
        name, sem_seg_loading_fn=lambda path, dtype: np.array(Image.open(path), dtype=dtype)
    )
    theirs = metrics(reference, records, outputs)
    assert 30 < ours["mIoU"] < 70
    assert np.isnan(ours["IoU-never"])
    ours = {key: value for key, value in ours.items() if not key.endswith("_St")}
    assert ours == pytest.approx({key: theirs[key] for key in ours}, rel=1e-12, nan_ok=True)


def test_scores_and_labels_are_the_same(dataset):
    name, records = dataset
    outputs = predictions(records)
    labels = [{"sem_seg": output["sem_seg"].argmax(0)} for output in outputs]
    evaluator = SemanticEvaluator(name)
    assert metrics(evaluator, records, labels) == pytest.approx(
        metrics(evaluator, records, outputs), rel=0, abs=0, nan_ok=True
    )


def test_processes_are_reduced_and_an_image_counts_once(dataset, evaluate_in_two):
    name, records = dataset
    found, whole = evaluate_in_two(lambda: SemanticEvaluator(name), records, predictions(records))
    assert found["sem_seg"] == pytest.approx(whole["sem_seg"], rel=0, abs=0, nan_ok=True)


def test_warns_of_missing_images(dataset, log):
    name, records = dataset
    metrics(SemanticEvaluator(name), records[:4], predictions(records)[:4])
    assert any("4 of 6 images" in message for message in log)


def test_what_training_ignores_is_ignored(dataset):
    name, records = dataset
    labels = np.array(Image.open(records[1]["sem_seg_file_name"]))
    Image.fromarray(np.where(labels == 255, 0, labels)).save(records[1]["sem_seg_file_name"])
    outputs = [{"sem_seg": torch.from_numpy(np.maximum(labels, 1) % 255).int()}]
    found = metrics(SemanticEvaluator(name, ignore_label=0), records[1:2], outputs)
    assert found["mIoU"] == 100 and np.isnan(found["IoU-sky"])
    assert metrics(SemanticEvaluator(name), records[1:2], outputs)["mIoU"] < 90


def test_two_annotations_of_one_image(dataset):
    name, records = dataset
    records[1]["file_name"] = records[0]["file_name"]
    with pytest.raises(
        ValueError, match=r"two records have the file_name '0\.jpg'.*0\.png.*1\.png"
    ):
        SemanticEvaluator(name).check_ground_truth()


def test_sixteen_bit_annotations(tmp_path, register):
    path = tmp_path / "labels.tif"
    labels = np.array([[0, 1, 65535], [299, 299, 2]], dtype=np.uint16)
    Image.fromarray(labels).save(path)
    record = {"file_name": "a.jpg", "sem_seg_file_name": str(path)}
    name = register([record], stuff_classes=[str(k) for k in range(300)], ignore_label=65535)
    result = metrics(
        SemanticEvaluator(name),
        [record],
        [{"sem_seg": torch.tensor([[0, 1, 5], [299, 298, 2]])}],
    )
    assert result["pACC"] == pytest.approx(80)
    assert result["IoU-299"] == pytest.approx(50)


def test_two_images_whose_names_differ_in_the_suffix(tmp_path, register):
    """One prediction would overwrite the other."""
    records = []
    for image in ("x/a.jpg", "x/a.png", "y/a.jpg"):
        path = tmp_path / f"{len(records)}.png"
        Image.fromarray(np.zeros((2, 3), np.uint8)).save(path)
        records.append({"file_name": image, "sem_seg_file_name": str(path)})
    name = register(records, stuff_classes=NAMES)
    outputs = [{"sem_seg": torch.zeros(2, 3, dtype=torch.int64)}] * 3
    assert metrics(SemanticEvaluator(name), records, outputs)["pACC"] == 100
    with pytest.raises(UserError, match=r"x/a\.jpg and x/a\.png would both be saved as .*Rename"):
        metrics(SemanticEvaluator(name, output_folder=str(tmp_path / "out")), records, outputs)
    assert not (tmp_path / "out" / "semantic.json").exists()
    name = register([records[0], records[2]], stuff_classes=NAMES)
    evaluator = SemanticEvaluator(name, output_folder=str(tmp_path / "out"))
    metrics(evaluator, [records[0], records[2]], outputs[:2])
    saved = {path.relative_to(tmp_path / "out") for path in (tmp_path / "out").rglob("*.png")}
    assert sorted(map(str, saved)) == ["semantic/x/a.png", "semantic/y/a.png"]


class TestPanopticQualityOfStuff:
    def metrics(self, register, tmp_path, *images):
        """PQ^St of (prediction, ground truth) pairs."""
        records = []
        for index, (_, gt) in enumerate(images):
            path = tmp_path / f"{index}.png"
            Image.fromarray(np.array(gt, dtype=np.uint8)).save(path)
            records.append({"file_name": f"{index}.jpg", "sem_seg_file_name": str(path)})
        name = register(records, stuff_classes=NAMES, ignore_label=255)
        outputs = [{"sem_seg": torch.tensor(pred)} for pred, _ in images]
        result = metrics(SemanticEvaluator(name), records, outputs)
        return {key: result[f"{key}_St"] for key in ("PQ", "SQ", "RQ")}

    def test_by_hand(self, register, tmp_path):
        """Four classes count; only the segment of class 1 is found."""
        gt = [[0, 0, 1, 1, 1, 255], [0, 2, 1, 1, 2, 255], [0, 0, 2, 2, 2, 255]]
        pred = [[0, 1, 1, 1, 1, 3], [0, 0, 1, 1, 2, 3], [4, 0, 4, 4, 2, 3]]
        result = self.metrics(register, tmp_path, (pred, gt))
        # Class 0: 3 pixels in common of 4 and 5, an IoU of one half, which is no match. Class 1: 5
        # of 6 and 5. Class 2: 2 of 2 and 5. Class 3: predicted where nothing is annotated, which is
        # no mistake, so it does not count. Class 4: predicted, but not there.
        iou_1 = 5 / 6
        assert result["PQ"] == pytest.approx(100 * iou_1 / 4)
        assert result["RQ"] == pytest.approx(100 / 4)
        assert result["SQ"] == pytest.approx(100 * iou_1 / 4)

    def test_is_an_average_over_classes_of_all_images(self, register, tmp_path):
        """Class 0: matches of IoU 1 and 3/4, one missed; class 1: a match of 3/4, one too many."""
        result = self.metrics(
            register,
            tmp_path,
            ([[0, 0, 0, 0]], [[0, 0, 0, 0]]),
            ([[0, 0, 0, 1]], [[0, 0, 0, 0]]),
            ([[1, 1, 1, 1]], [[0, 1, 1, 1]]),
        )
        of_0 = (1 + 3 / 4) / (2 + 1 / 2)
        of_1 = (3 / 4) / (1 + 1 / 2)
        assert result["PQ"] == pytest.approx(100 * (of_0 + of_1) / 2)

    def test_the_size_of_a_segment_does_not_matter(self, register, tmp_path):
        """A missed pixel of 400 costs mIoU little that it costs PQ^St a class."""
        gt = np.zeros((20, 20), dtype=int)
        gt[3, 4] = 1
        result = self.metrics(register, tmp_path, (np.zeros((20, 20), dtype=int), gt))
        assert result["PQ"] == pytest.approx(100 * (399 / 400) / 2)

    def test_ground_truth_is_perfect(self, dataset):
        name, records = dataset
        labels = [torch.tensor(np.array(Image.open(r["sem_seg_file_name"]))) for r in records]
        outputs = [{"sem_seg": torch.where(x == 255, 0, x)} for x in labels]
        result = metrics(SemanticEvaluator(name), records, outputs)
        assert [result[f"{key}_St"] for key in ("PQ", "SQ", "RQ")] == [100, 100, 100]


class TestErrors:
    def process(self, dataset, output, **changes):
        name, records = dataset
        SemanticEvaluator(name).process([{**records[0], **changes}], [{"sem_seg": output}])

    def test_another_number_of_classes(self, dataset):
        with pytest.raises(ValueError, match=r"0\.jpg.*predicts 7 classes.* has 5.*NUM_CLASSES"):
            self.process(dataset, torch.zeros(7, 12, 17))

    def test_scores_that_are_not_finite(self, dataset):
        scores = predictions(dataset[1])[0]["sem_seg"]
        scores[2, 3, 4] = float("nan")
        with pytest.raises(NonFiniteError, match=r"0\.jpg.*scores are NaN"):
            self.process(dataset, scores)

    def test_another_size(self, dataset):
        with pytest.raises(ValueError, match=r"0\.jpg.*0\.png.*\(9, 17\).*\(12, 17\)"):
            self.process(dataset, torch.zeros(K, 9, 17))

    def test_labels_out_of_range(self, dataset):
        Image.fromarray(np.full((12, 17), 9, dtype=np.uint8)).save(
            dataset[1][0]["sem_seg_file_name"]
        )
        with pytest.raises(ValueError, match=r"0\.png.*ground truth has labels \[9\]"):
            self.process(dataset, torch.zeros(K, 12, 17))

    def test_unknown_image(self, dataset):
        with pytest.raises(ValueError, match=r"other\.jpg: no record of "):
            self.process(dataset, torch.zeros(K, 12, 17), file_name="other.jpg")

    def test_file_not_there(self, dataset, tmp_path):
        (tmp_path / "0.png").unlink()
        with pytest.raises(FileNotFoundError, match=r"0\.png"):
            self.process(dataset, torch.zeros(K, 12, 17))

    @pytest.mark.parametrize("content", [b"no image", b"\x89PNG\r\n\x1a\n truncated"])
    def test_corrupt_file(self, dataset, tmp_path, content):
        (tmp_path / "0.png").write_bytes(content)
        with pytest.raises(ValueError, match=r"0\.png cannot be read as an image"):
            self.process(dataset, torch.zeros(K, 12, 17))

    def test_colour_image(self, dataset, tmp_path):
        Image.new("RGB", (17, 12)).save(tmp_path / "0.png")
        with pytest.raises(ValueError, match=r"0\.png: .*one channel .*\(12, 17, 3\)"):
            self.process(dataset, torch.zeros(K, 12, 17))

    def test_metadata_without_classes(self, register):
        name = register([], evaluator_type="sem_seg")
        with pytest.raises(ValueError, match="lack `stuff_classes`"):
            SemanticEvaluator(name)

"""The files of the shapes data set agree with each other, and with what reads such files."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from detectron2.data.datasets import load_coco_json, load_sem_seg
from detectron2.data.datasets.coco_panoptic import load_coco_panoptic_json
from pycocotools.coco import COCO

from mask_former.data.shapes import make, make_shapes

NUM_IMAGES = {"train": 12, "val": 4}
# One that draws, for these 12 images, a crowd, a void region and an image without things.
SEED = 7


def make_small(root: Path, **arguments) -> Path:
    sizes = {"num_train": NUM_IMAGES["train"], "num_val": NUM_IMAGES["val"], "workers": 1}
    return make_shapes(root, **{**sizes, **arguments})


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return make_small(tmp_path_factory.mktemp("datasets"), seed=SEED)


@pytest.fixture(params=["train", "val"])
def split(request) -> str:
    return request.param


def read_label(path: Path) -> np.ndarray:
    label = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    assert label is not None
    return label


def read_ids(path: Path) -> np.ndarray:
    """COCO: id = R + 256 G + 256^2 B."""
    blue, green, red = np.moveaxis(read_label(path).astype(int), -1, 0)
    return red + 256 * green + 256**2 * blue


def panoptic(folder: Path, split: str) -> dict:
    return json.loads((folder / "annotations" / f"panoptic_{split}.json").read_text())


def contents(folder: Path) -> dict[str, bytes]:
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def test_depends_on_the_seed_and_not_on_the_number_of_workers(folder, tmp_path):
    again = make_small(tmp_path / "again", seed=SEED, workers=2)
    other = make_small(tmp_path / "other", seed=SEED + 1, num_val=1)
    assert contents(again) == contents(folder)
    assert contents(other)["train/000001.jpg"] != contents(folder)["train/000001.jpg"]


def test_splits_differ(folder):
    files = contents(folder)
    assert files["train/000001.jpg"] != files["val/000001.jpg"]


def test_images_have_the_size_that_the_index_states(folder, split):
    images = panoptic(folder, split)["images"]
    assert len(images) == NUM_IMAGES[split]
    for image in images:
        pixels = cv2.imread(str(folder / split / image["file_name"]))
        assert pixels.shape == (image["height"], image["width"], 3)
        assert all(128 <= side <= 192 for side in pixels.shape[:2])
    assert len({(image["height"], image["width"]) for image in images}) > 1


def test_panoptic_png_holds_exactly_the_segments_of_the_index(folder, split):
    for annotation in panoptic(folder, split)["annotations"]:
        ids = read_ids(folder / f"panoptic_{split}" / annotation["file_name"])
        segments = {segment["id"]: segment for segment in annotation["segments_info"]}
        assert len(segments) == len(annotation["segments_info"])
        assert set(np.unique(ids)) - {0} == set(segments)
        for segment_id, segment in segments.items():
            y, x = np.nonzero(ids == segment_id)
            assert segment["area"] == len(x)
            box = [x.min(), y.min(), x.max() - x.min() + 1, y.max() - y.min() + 1]
            assert segment["bbox"] == box


def test_semantic_png_is_the_panoptic_one_in_contiguous_ids(folder, split):
    content = panoptic(folder, split)
    contiguous = {category["id"]: i for i, category in enumerate(content["categories"])}
    for annotation in content["annotations"]:
        ids = read_ids(folder / f"panoptic_{split}" / annotation["file_name"])
        expected = np.full(ids.shape, 255, np.uint8)
        for segment in annotation["segments_info"]:
            expected[ids == segment["id"]] = contiguous[segment["category_id"]]
        label = read_label(folder / f"sem_seg_{split}" / annotation["file_name"])
        np.testing.assert_array_equal(label, expected)


def test_instances_are_the_panoptic_things(folder, split):
    coco = COCO(folder / "annotations" / f"instances_{split}.json")
    content = panoptic(folder, split)
    things = {category["id"] for category in content["categories"] if category["isthing"]}
    assert set(coco.cats) == things
    for annotation in content["annotations"]:
        ids = read_ids(folder / f"panoptic_{split}" / annotation["file_name"])
        segments = [s for s in annotation["segments_info"] if s["category_id"] in things]
        instances = coco.imgToAnns[annotation["image_id"]]
        assert len(instances) == len(segments)
        for instance, segment in zip(instances, segments, strict=True):
            np.testing.assert_array_equal(coco.annToMask(instance), ids == segment["id"])
            for key in ("category_id", "iscrowd", "area", "bbox"):
                assert instance[key] == segment[key]


def test_crowds_and_rings_are_rle_and_other_things_polygons(folder):
    coco = COCO(folder / "annotations" / "instances_train.json")
    instances = coco.loadAnns(coco.getAnnIds())
    assert any(instance["iscrowd"] for instance in instances)
    assert any(isinstance(instance["segmentation"], list) for instance in instances)
    whole_rings = 0
    for instance in instances:
        if instance["iscrowd"]:
            assert isinstance(instance["segmentation"], dict)
        elif isinstance(instance["segmentation"], dict):
            whole_rings += coco.cats[instance["category_id"]]["name"] == "ring"
    assert whole_rings > 0


def test_images_without_things_and_without_full_labels_occur(folder):
    annotations = panoptic(folder, "train")["annotations"]
    things = {category["id"] for category in make.CATEGORIES if category["isthing"]}
    classes = [{s["category_id"] for s in image["segments_info"]} for image in annotations]
    assert any(not present & things for present in classes)
    labels = [read_label(path) for path in (folder / "sem_seg_train").iterdir()]
    assert any((label == 255).sum() > 100 for label in labels)


def test_dataset_ids_are_neither_contiguous_nor_small():
    ids = [category["id"] for category in make.CATEGORIES]
    assert ids != list(range(len(ids))) and ids != list(range(1, len(ids) + 1))
    assert ids == sorted(set(ids))
    is_thing = [category["isthing"] for category in make.CATEGORIES]
    assert is_thing == sorted(is_thing, reverse=True)
    assert sum(is_thing) >= 6 and len(is_thing) - sum(is_thing) >= 4


def test_loaders_of_detectron2_read_it(folder, split):
    annotations = folder / "annotations"
    metadata = {
        "thing_dataset_id_to_contiguous_id": {1: 0, 2: 1, 3: 2, 5: 3, 7: 4, 8: 5},
        "stuff_dataset_id_to_contiguous_id": {20: 6, 21: 7, 24: 8, 30: 9},
    }
    records = load_coco_panoptic_json(
        str(annotations / f"panoptic_{split}.json"),
        str(folder / split),
        str(folder / f"panoptic_{split}"),
        metadata,
    )
    instances = load_coco_json(str(annotations / f"instances_{split}.json"), str(folder / split))
    semantic = load_sem_seg(str(folder / f"sem_seg_{split}"), str(folder / split))
    assert len(records) == len(instances) == len(semantic) == NUM_IMAGES[split]
    for record, image in zip(records, instances, strict=True):
        assert record["file_name"] == image["file_name"]
        things = sum(segment["isthing"] for segment in record["segments_info"])
        assert things == len(image["annotations"])


def test_video_plays_and_moves(folder):
    video = cv2.VideoCapture(str(folder / "video.mp4"))
    frames = []
    while (read := video.read())[0]:
        frames.append(read[1].astype(float))
    assert len(frames) == make.VIDEO_FRAMES
    assert video.get(cv2.CAP_PROP_FPS) == make.VIDEO_FPS
    # Half a period away the scene is another one; the next frame is nearly the same.
    half = len(frames) // 2
    assert abs(frames[half] - frames[0]).mean() > 2 * abs(frames[1] - frames[0]).mean()
    # It can be shown in a loop.
    assert abs(frames[-1] - frames[0]).mean() < 0.5 * abs(frames[half] - frames[0]).mean()


def test_is_made_once(folder):
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    assert make_small(folder.parent, seed=SEED) == folder
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before


@pytest.fixture
def no_video(monkeypatch):
    """Most of the time of a tiny data set goes into its video."""
    monkeypatch.setattr(make, "VIDEO_FRAMES", 1)


def test_is_made_anew_for_other_parameters(tmp_path, no_video):
    make_small(tmp_path, num_train=2, num_val=1)
    folder = make_small(tmp_path, num_train=1, num_val=1)
    assert [path.name for path in (folder / "train").iterdir()] == ["000001.jpg"]
    assert [path.name for path in tmp_path.iterdir()] == ["shapes"]


@pytest.mark.parametrize("error", [OSError("disk full"), KeyboardInterrupt()])
def test_interrupted_run_leaves_nothing(tmp_path, monkeypatch, error):
    def interrupted(*_, **__):
        raise error

    monkeypatch.setattr(make, "write_annotations", interrupted)
    with pytest.raises(type(error)):
        make_small(tmp_path, num_train=1, num_val=1)
    assert list(tmp_path.iterdir()) == []


def test_interrupted_run_keeps_the_complete_one(tmp_path, monkeypatch, no_video):
    before = contents(make_small(tmp_path, num_train=1, num_val=1))
    monkeypatch.setattr(make, "_write_video", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        make_small(tmp_path, num_train=1, num_val=1, seed=1)
    assert contents(tmp_path / "shapes") == before
    assert [path.name for path in tmp_path.iterdir()] == ["shapes"]


def test_foreign_folder_is_left_alone(tmp_path):
    (tmp_path / "shapes").mkdir()
    (tmp_path / "shapes" / "thesis.tex").write_text("years of work")
    with pytest.raises(FileExistsError, match="Move it away"):
        make_small(tmp_path)
    assert (tmp_path / "shapes" / "thesis.tex").read_text() == "years of work"


@pytest.mark.parametrize("wrong", [{"num_train": 0}, {"num_val": -1}, {"seed": -1}])
def test_numbers_out_of_range(tmp_path, wrong):
    with pytest.raises(ValueError, match="at least"):
        make_small(tmp_path, **wrong)
    assert list(tmp_path.iterdir()) == []

"""PASCAL VOC in miniature: prepared, registered, trained on and evaluated."""

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from scipy.io import savemat

from mask_former.data.datasets.pascal_voc import prepare_pascal_voc, register_pascal_voc
from tests.data.datasets.cycle import (
    cfg_of,
    empty_catalogs,
    evaluate,
    picture,
    read,
    train_step,
    write,
)

LISTS = {"train": ["2007_a", "2007_b"], "val": ["2007_c"]}
# SBD has images that VOC trains on (a) and validates on (c) in its own two lists.
SBD_LISTS = {"train": ["2008_z", "2007_c"], "val": ["2008_y", "2007_a"]}
LABELS = (0, 3, 20, 255)
OBJECTS = [f"object {i:02}" for i in range(20)]


def label_map(labels=LABELS):
    """Bands of eight rows."""
    return np.repeat(np.array(labels, dtype=np.uint8), 8)[:, None].repeat(48, axis=1)


@pytest.fixture
def root(tmp_path, monkeypatch):
    """The folder of data sets, with VOC 2012 and SBD as they are unpacked."""
    root = tmp_path / "datasets"
    voc, sbd = root / "VOCdevkit" / "VOC2012", root / "benchmark_RELEASE" / "dataset"
    for folder in (voc / "ImageSets" / "Main", voc / "ImageSets" / "Segmentation", sbd / "cls"):
        folder.mkdir(parents=True)
    for name in OBJECTS:
        for split in ("train", "val", "trainval"):
            (voc / "ImageSets" / "Main" / f"{name}_{split}.txt").touch()
    (voc / "ImageSets" / "Main" / "train.txt").touch()
    for split, stems in LISTS.items():
        (voc / "ImageSets" / "Segmentation" / f"{split}.txt").write_text("\n".join(stems))
        for stem in stems:
            write(voc / "SegmentationClass" / f"{stem}.png", label_map(), "P")
    for split, stems in SBD_LISTS.items():
        (sbd / f"{split}.txt").write_text("\n".join(stems))
        for stem in stems:
            segmentation = {"Segmentation": label_map((0, 1, 20, 3)), "CategoriesPresent": [1]}
            savemat(sbd / "cls" / f"{stem}.mat", {"GTcls": segmentation})
    for stem in {
        stem for lists in (LISTS, SBD_LISTS) for stems in lists.values() for stem in stems
    }:
        write(voc / "JPEGImages" / f"{stem}.jpg", picture(32, 48))
    empty_catalogs(monkeypatch)
    register_pascal_voc(root)
    return root


def stems(name):
    return [record["file_name"].split("/")[-1].removesuffix(".jpg") for record in name]


def test_splits(root):
    prepare_pascal_voc(root)
    found = {
        split: stems(DatasetCatalog.get(f"pascal_voc_sem_seg_{split}"))
        for split in ("train", "val", "trainaug")
    }
    assert found == {**LISTS, "trainaug": ["2007_a", "2007_b", "2008_y", "2008_z"]}


def test_labels_of_sbd(root):
    prepare_pascal_voc(root)
    records = DatasetCatalog.get("pascal_voc_sem_seg_trainaug")
    labels = [read(record["sem_seg_file_name"]) for record in records]
    for added in labels[2:]:
        np.testing.assert_array_equal(added, label_map((0, 1, 20, 3)))
    np.testing.assert_array_equal(labels[0], label_map())  # VOC's own, where there are both


def test_classes(root):
    metadata = MetadataCatalog.get("pascal_voc_sem_seg_val")
    assert metadata.stuff_classes == ["background", *OBJECTS]
    assert metadata.evaluator_type == "sem_seg" and metadata.ignore_label == 255


def test_classes_of_another_data_set(root):
    (root / "VOCdevkit/VOC2012/ImageSets/Main/object 07_train.txt").unlink()
    with pytest.raises(ValueError, match="has 19 lists"):
        prepare_pascal_voc(root)


def test_train_and_evaluate(root, tmp_path):
    prepare_pascal_voc(root)
    sample = train_step(cfg_of("pascal_voc_sem_seg_train", 21, tmp_path, "SEMANTIC_ON"))
    assert sample["instances"].gt_classes.tolist() == [0, 3, 20]
    cfg = cfg_of("pascal_voc_sem_seg_val", 21, tmp_path, "SEMANTIC_ON")
    assert evaluate(cfg)["sem_seg"]["mIoU"] == pytest.approx(100)

    def without_border(output):
        """The border counts for nothing; half of class 3 is taken for the background."""
        scores = output["sem_seg"].clone()
        scores[:, 24:] = 0
        scores[7, 24:] = 1
        scores[0, 8:12], scores[3, 8:12] = 1, 0
        return {"sem_seg": scores}

    assert evaluate(cfg, without_border)["sem_seg"]["mIoU"] == pytest.approx(
        100 * (2 / 3 + 1 / 2 + 1) / 3
    )


def test_sbd_may_be_left_out(root, tmp_path):
    (root / "benchmark_RELEASE").rename(tmp_path / "elsewhere")
    prepare_pascal_voc(root)
    assert stems(DatasetCatalog.get("pascal_voc_sem_seg_train")) == LISTS["train"]
    with pytest.raises(FileNotFoundError, match="tools.prepare_datasets pascal_voc`"):
        DatasetCatalog.get("pascal_voc_sem_seg_trainaug")


@pytest.mark.parametrize(
    "missing",
    [
        "VOCdevkit/VOC2012/JPEGImages/2008_z.jpg",
        "VOCdevkit/VOC2012/SegmentationClass/2007_c.png",
        "VOCdevkit/VOC2012/ImageSets/Segmentation/train.txt",
        "benchmark_RELEASE/dataset/cls/2008_y.mat",
        "benchmark_RELEASE/dataset/val.txt",
    ],
)
def test_incomplete_download(root, missing):
    (root / missing).unlink()
    with pytest.raises(FileNotFoundError, match=missing.rpartition("/")[2]):
        prepare_pascal_voc(root)


@pytest.mark.parametrize("content", [{"GTcls": {"Segmentation": label_map()}}, {"GTinst": 1}])
def test_broken_annotation(root, content):
    """255 is no label of SBD; and another file of it, without classes."""
    path = root / "benchmark_RELEASE" / "dataset" / "cls" / "2008_y.mat"
    savemat(path, content)
    with pytest.raises(ValueError, match=path.name):
        prepare_pascal_voc(root)

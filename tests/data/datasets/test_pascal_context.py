"""Pascal Context in miniature: prepared, registered, trained on and evaluated."""

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from scipy.io import savemat

from mask_former.data.datasets.pascal_context import (
    prepare_pascal_context,
    read_classes,
    register_pascal_context,
)
from tests.data.datasets.cycle import (
    cfg_of,
    empty_catalogs,
    evaluate,
    picture,
    read,
    train_step,
    write,
)

STEMS = {"train": "2008_000002", "val": "2010_000003"}
# 59 classes, among 459 labels in the order of the alphabet: "name 0" is label 1, "name 1" 9, ...
CLASSES = {f"class {i:02}": 1 + 8 * i for i in range(58)} | {"aeroplane": 459}
# Label -> class, by hand: 0 and 2 are none of them; "aeroplane" is the first in the alphabet.
IDS = {0: 0, 2: 0, 459: 1, 1: 2, 457: 59}


def label_map(labels=tuple(IDS)):
    """Bands of eight rows."""
    return np.repeat(np.array(labels, dtype=np.uint16), 8)[:, None].repeat(48, axis=1)


@pytest.fixture
def root(tmp_path, monkeypatch):
    """The folder of data sets, with Pascal Context and VOC 2010 as they are unpacked."""
    root = tmp_path / "datasets"
    voc, folder = root / "VOCdevkit" / "VOC2010", root / "pascal_context"
    (voc / "ImageSets" / "Main").mkdir(parents=True)
    (folder / "trainval").mkdir(parents=True)
    for split, stem in STEMS.items():
        write(voc / "JPEGImages" / f"{stem}.jpg", picture(40, 48))
        (voc / "ImageSets" / "Main" / f"{split}.txt").write_text(f"{stem}\n")
        savemat(folder / "trainval" / f"{stem}.mat", {"LabelMap": label_map()})
    names = {label: name for name, label in CLASSES.items()}
    lines = [f"{label}: {names.get(label, f'other {label}')}" for label in range(1, 460)]
    (folder / "labels.txt").write_text("\n".join(lines))
    listed = [f"{i}: {name}" for i, name in enumerate(reversed(CLASSES), 1)]
    (folder / "59_labels.txt").write_text("\n".join(["0: empty", *listed, ""]))
    empty_catalogs(monkeypatch)
    register_pascal_context(root)
    return root


def test_labels(root):
    folder = prepare_pascal_context(root)
    for split, stem in STEMS.items():
        labels = read(folder / "annotations_detectron2" / split / f"{stem}.png")
        assert labels.dtype == np.uint8
        np.testing.assert_array_equal(labels, label_map(tuple(IDS.values())))


def test_classes_are_in_the_order_of_the_alphabet(root):
    metadata = MetadataCatalog.get("pascal_context_sem_seg_val")
    assert metadata.evaluator_type == "sem_seg" and metadata.ignore_label == 255
    classes = metadata.stuff_classes
    assert classes[:3] == ["background", "aeroplane", "class 00"] and len(classes) == 60
    assert classes[1:] == sorted(classes[1:])


def test_train_and_evaluate(root, tmp_path):
    prepare_pascal_context(root)
    sample = train_step(cfg_of("pascal_context_sem_seg_train", 60, tmp_path, "SEMANTIC_ON"))
    assert sample["instances"].gt_classes.tolist() == [0, 1, 2, 59]
    cfg = cfg_of("pascal_context_sem_seg_val", 60, tmp_path, "SEMANTIC_ON")
    assert evaluate(cfg)["sem_seg"]["mIoU"] == pytest.approx(100)

    def without_background(output):
        """Its two bands are taken for class 59, which has one."""
        scores = output["sem_seg"].clone()
        scores[59] += scores[0]
        scores[0] = 0
        return {"sem_seg": scores}

    assert evaluate(cfg, without_background)["sem_seg"]["mIoU"] == pytest.approx(
        100 * (0 + 1 + 1 + 1 / 3) / 4
    )


@pytest.mark.parametrize(
    "missing",
    [
        "VOCdevkit/VOC2010/JPEGImages/2008_000002.jpg",
        "VOCdevkit/VOC2010/ImageSets/Main/val.txt",
        "pascal_context/trainval/2010_000003.mat",
        "pascal_context/labels.txt",
        "pascal_context/59_labels.txt",
    ],
)
def test_incomplete_download(root, missing):
    (root / missing).unlink()
    with pytest.raises(FileNotFoundError, match=missing.rpartition("/")[2]):
        prepare_pascal_context(root)


@pytest.mark.parametrize("labels", [label_map() + 1, label_map() / 2, label_map()[0]])
def test_broken_annotation(root, labels):
    path = root / "pascal_context" / "trainval" / "2008_000002.mat"
    savemat(path, {"LabelMap": labels})
    with pytest.raises(ValueError, match=path.name):
        prepare_pascal_context(root)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("59_labels.txt", "1: aeroplane", "names 1 classes instead of 59"),
        ("59_labels.txt", "aeroplane", "the line 'aeroplane'"),
        ("labels.txt", "2: aeroplane", "lacks classes .*class 00"),
    ],
)
def test_lists_of_something_else(root, name, text, message):
    folder = root / "pascal_context"
    (folder / name).write_text(text)
    with pytest.raises(ValueError, match=message):
        read_classes(folder)


def test_unprepared(root):
    with pytest.raises(FileNotFoundError, match="tools.prepare_datasets pascal_context`"):
        DatasetCatalog.get("pascal_context_sem_seg_train")

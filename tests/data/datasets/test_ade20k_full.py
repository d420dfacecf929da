"""ADE20K full: a miniature in the download's format, prepared, trained on, evaluated."""

import os
import pickle
from pathlib import Path

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image

from mask_former.data.datasets.ade20k_full import (
    IGNORE_LABEL,
    prepare_ade20k_full,
    register_ade20k_full,
    scaled_size,
)
from tests.data.datasets.cycle import cfg_of, empty_catalogs, evaluate, picture, train_step, write
from tools.prepare_datasets import main

NAMES = [f"object {i}, thing {i}" for i in range(1, 601)]
# Numbers count from 1. In training 700 has most pixels, but only 300, 2 and 513 are in both splits.
WALL, SKY, TREE, ONLY_TRAINING, ONLY_VALIDATION = 513, 2, 300, 600, 256
HEIGHT, WIDTH = 24, 40


def scene(split: str) -> np.ndarray:
    """Numbers of the classes (24, 40): most pixels have WALL, then SKY, then TREE."""
    classes = np.full((HEIGHT, WIDTH), WALL)
    classes[:8] = SKY
    classes[8:12, :20] = TREE
    classes[12:14] = ONLY_TRAINING if split == "training" else ONLY_VALIDATION
    classes[-1] = 0
    return classes


IMAGES = {
    "images/ADE/training/urban/street/ADE_train_00000001.jpg": 1,
    "images/ADE/training/work_place/office/ADE_frame_00000007.jpg": 1,
    "images/ADE/validation/urban/street/ADE_val_00000001.jpg": 1,
    # 528 x 880 pixels, to be scaled down to 512 x 853
    "images/ADE/validation/nature_landscape/hill/ADE_val_00000002.jpg": 22,
}


def make_download(root: Path) -> Path:
    folder = root / "ADE20K_2021_17_01"
    presence = np.zeros((len(NAMES), len(IMAGES)), dtype=np.int64)
    for column, (name, scale) in enumerate(IMAGES.items()):
        path = folder / name
        classes = scene(path.parts[-4]).repeat(scale, 0).repeat(scale, 1)
        write(path, picture(*classes.shape))
        # The red channel says which 256 classes, in steps of 10; blue numbers the instances.
        coded = np.stack([classes // 256 * 10, classes % 256, (classes > 0) * 255], axis=-1)
        write(path.with_name(f"{path.stem}_seg.png"), coded.astype(np.uint8))
        presence[np.setdiff1d(classes, 0) - 1, column] = 3
    content = {
        "filename": [Path(name).name for name in IMAGES],
        "folder": [f"{folder.name}/{Path(name).parent}" for name in IMAGES],
        "objectnames": np.array(NAMES, dtype=object),
        "objectPresence": presence,
        "scene": ["/street"] * len(IMAGES),
    }
    (folder / "index_ade20k.pkl").write_bytes(pickle.dumps(content))
    return folder


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("datasets")
    make_download(root)
    prepare_ade20k_full(root)
    return root


@pytest.fixture
def data(root, monkeypatch) -> Path:
    empty_catalogs(monkeypatch)
    register_ade20k_full(root)
    return root / "ADE20K_2021_17_01"


def test_classes_are_those_of_both_splits_by_falling_number_of_pixels(data):
    classes = [NAMES[number - 1] for number in (WALL, SKY, TREE)]
    metadata = MetadataCatalog.get("ade20k_full_sem_seg_val")
    assert metadata.stuff_classes == classes
    assert metadata.ignore_label == 65535
    assert (data / "classes_detectron2.txt").read_text().splitlines() == classes


def test_labels_have_16_bits(data):
    records = DatasetCatalog.get("ade20k_full_sem_seg_train")
    assert [Path(record["file_name"]).name for record in records] == [
        "ADE_frame_00000007.jpg",
        "ADE_train_00000001.jpg",
    ]
    expected = np.select([scene("training") == c for c in (WALL, SKY, TREE)], [0, 1, 2], 65535)
    for record in records:
        labels = np.array(Image.open(record["sem_seg_file_name"]))
        assert labels.dtype == np.uint16 and np.array_equal(labels, expected)


def test_small_images_are_copied_and_large_ones_scaled(data):
    small = "ADE_val_00000001.jpg"
    source = data / "images/ADE/validation/urban/street" / small
    made = data / "images_detectron2/validation"
    assert (made / small).read_bytes() == source.read_bytes()
    with Image.open(made / "ADE_val_00000002.jpg") as image:
        assert image.size == (853, 512)
    labels = np.array(Image.open(data / "annotations_detectron2/validation/ADE_val_00000002.png"))
    assert labels.shape == (512, 853)
    rows = np.flatnonzero((labels == 1).all(axis=1))
    assert len(rows) == pytest.approx(512 / 3, abs=1)  # SKY has a third of the height
    assert set(np.unique(labels)) == {0, 1, 2, 65535}


@pytest.mark.parametrize(
    ("size", "expected"),
    [((512, 900), (512, 900)), ((300, 2000), (300, 2000)), ((1024, 2047), (512, 1024))],
)
def test_scaled_size(size, expected):
    assert scaled_size(*size) == expected
    assert scaled_size(*size[::-1]) == expected[::-1]


def test_train_a_step_and_evaluate(data, tmp_path):
    train, val = (
        cfg_of(
            f"ade20k_full_sem_seg_{split}", 3, tmp_path, "SEMANTIC_ON", ignore_value=IGNORE_LABEL
        )
        for split in ("train", "val")
    )
    sample = train_step(train)
    assert sample["instances"].gt_classes.tolist() == [0, 1, 2]
    assert set(sample["sem_seg"].unique().tolist()) == {0, 1, 2, 65535}
    assert evaluate(val)["sem_seg"]["mIoU"] == 100

    def sky_is_wall(output):
        output["sem_seg"][0] += 2 * output["sem_seg"][1]
        return output

    # Shares of the height: sky a third; tree 4 rows by half the width; wall what is annotated else.
    figures = evaluate(val, sky_is_wall)["sem_seg"]
    wall, sky = (24 - 8 - 2 - 1) * 40 - 80, 8 * 40
    expected = 100 * (wall / (wall + sky) + 0 + 1) / 3
    assert figures["mIoU"] == pytest.approx(expected, abs=0.2)  # one image is scaled


def test_a_given_list_of_classes(tmp_path, monkeypatch):
    folder = make_download(tmp_path)
    chosen = [NAMES[number - 1] for number in (TREE, ONLY_TRAINING, 77)]
    (tmp_path / "mine.txt").write_text("\n".join(chosen) + "\n")
    command = ["ade20k_full", "--root", str(tmp_path), "--classes", str(tmp_path / "mine.txt")]
    main(command)
    labels = np.array(Image.open(folder / "annotations_detectron2/training/ADE_train_00000001.png"))
    expected = np.select([scene("training") == c for c in (TREE, ONLY_TRAINING)], [0, 1], 65535)
    assert np.array_equal(labels, expected)
    empty_catalogs(monkeypatch)
    register_ade20k_full(tmp_path)
    assert MetadataCatalog.get("ade20k_full_sem_seg_train").stuff_classes == chosen

    (tmp_path / "mine.txt").write_text(NAMES[SKY - 1])
    with pytest.raises(SystemExit, match="2"):
        main(command)  # the folder is of another list
    (tmp_path / "mine.txt").write_text("unheard of")
    with pytest.raises(ValueError, match="mine.txt: the index has no classes unheard of"):
        prepare_ade20k_full(tmp_path, tmp_path / "mine.txt")
    (tmp_path / "mine.txt").write_text("\n")
    with pytest.raises(ValueError, match="mine.txt names no class"):
        prepare_ade20k_full(tmp_path, tmp_path / "mine.txt")
    (tmp_path / "mine.txt").write_text(f"{NAMES[0]}\n{NAMES[0]}\n")
    with pytest.raises(ValueError, match="mine.txt names classes twice"):
        prepare_ade20k_full(tmp_path, tmp_path / "mine.txt")


class MakeFolder:
    """Unpickled by Python itself, it makes a folder."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


def test_nothing_in_the_index_is_run(tmp_path):
    index = make_download(tmp_path) / "index_ade20k.pkl"
    content = pickle.loads(index.read_bytes())
    trace = tmp_path / "trace"
    content["objectnames"] = np.array([MakeFolder(trace)] * len(NAMES), dtype=object)
    index.write_bytes(pickle.dumps(content))
    with pytest.raises(ValueError, match=r"index_ade20k.pkl is not read: it refers to \w+.mkdir"):
        prepare_ade20k_full(tmp_path)
    assert not trace.exists()


@pytest.mark.parametrize("kind", [list, np.array])
def test_the_index_may_have_lists_or_arrays_of_names(tmp_path, kind):
    folder = make_download(tmp_path)
    content = pickle.loads((folder / "index_ade20k.pkl").read_bytes())
    for key in ("objectnames", "filename", "folder"):
        content[key] = kind([str(name) for name in content[key]])
    (folder / "index_ade20k.pkl").write_bytes(pickle.dumps(content))
    prepare_ade20k_full(tmp_path)
    assert (folder / "classes_detectron2.txt").read_text().startswith(NAMES[WALL - 1])


def shift_names(content: dict) -> None:
    content["objectPresence"] = np.roll(content["objectPresence"], 1, axis=0)


def drop_a_class(content: dict) -> None:
    content["objectnames"] = content["objectnames"][1:]


def name_another_image(content: dict) -> None:
    content["filename"][0] = "ADE_train_00000099.jpg"


def drop_the_folders(content: dict) -> None:
    del content["folder"]


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (shift_names, ValueError, "says of only 0% of the classes"),
        (drop_a_class, ValueError, "objectPresence has the shape"),
        (name_another_image, FileNotFoundError, "lacks 2 files .*00000099.jpg.*00000099_seg.png"),
        (drop_the_folders, ValueError, "cannot be read .KeyError: 'folder'"),
    ],
)
def test_an_index_that_does_not_fit(tmp_path, change, error, message):
    index = make_download(tmp_path) / "index_ade20k.pkl"
    content = pickle.loads(index.read_bytes())
    change(content)
    index.write_bytes(pickle.dumps(content))
    with pytest.raises(error, match=message):
        prepare_ade20k_full(tmp_path)


def test_missing_index(tmp_path):
    with pytest.raises(FileNotFoundError, match="ADE20K_2021_17_01 is missing"):
        prepare_ade20k_full(tmp_path)

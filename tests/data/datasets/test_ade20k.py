"""ADE20K, 150 classes: a miniature in the download's format, prepared, trained on, evaluated."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets.builtin import register_all_ade20k
from PIL import Image

from mask_former.data.datasets import check_dataset
from mask_former.data.datasets.ade20k import (
    panoptic_map,
    prepare_ade20k,
    prepare_ade20k_panoptic,
    register_ade20k,
)
from mask_former.data.metadata import thing_classes
from tests.data.datasets.cycle import cfg_of, empty_catalogs, evaluate, picture, train_step, write

# In the miniature every third of the 150 classes is stuff, so things are neither first nor last.
LABELS = range(1, 151)
THINGS = [label for label in LABELS if label % 3]
HEIGHT, WIDTH = 24, 32
# (rows, columns) of: two instances of label 4, one of label 8, and label 10 without an instance.
BOXES = [(4, 12, 4, 12), (4, 12, 16, 24), (14, 22, 4, 8), (14, 18, 20, 28)]
FIRST, SECOND, THIRD, NOBODY = (np.s_[top:bottom, left:right] for top, bottom, left, right in BOXES)


def scene() -> tuple[np.ndarray, np.ndarray]:
    """The semantic labels and the instance image of every picture of the miniature."""
    semantic = np.full((HEIGHT, WIDTH), 3, dtype=np.uint8)
    semantic[12:] = 6
    semantic[:, -1] = 0
    semantic[FIRST] = semantic[SECOND] = 4
    semantic[THIRD] = 8
    semantic[NOBODY] = 10
    instances = np.zeros((HEIGHT, WIDTH, 3), dtype=np.uint8)
    for number, (box, label) in enumerate([(FIRST, 4), (SECOND, 4), (THIRD, 8)], start=1):
        instances[box] = THINGS.index(label) + 1, number, 0
    return semantic, instances


def make_download(root: Path) -> Path:
    """ADEChallengeData2016 with two training and two validation images."""
    folder = root / "ADEChallengeData2016"
    semantic, instances = scene()
    for split, prefix in (("training", "ADE_train"), ("validation", "ADE_val")):
        for number in (1, 2):
            image = picture(HEIGHT, WIDTH)
            for kind, array, suffix in (
                ("images", image, "jpg"),
                ("annotations", semantic, "png"),
                ("annotations_instance", instances, "png"),
            ):
                write(folder / kind / split / f"{prefix}_{number:08d}.{suffix}", array)
    rows = [f"{i}\t0.0066\t2\t2\t{int(i not in THINGS)}\tname {i}, synonym" for i in LABELS]
    write_table(folder / "objectInfo150.txt", "Idx\tRatio\tTrain\tVal\tStuff\tName", rows)
    rows = [f"{category}\t{label}\t{7 * label}" for category, label in enumerate(THINGS, start=1)]
    write_table(folder / "categoryMapping.txt", "Instance100\tSceneParse150\tFullADE20K", rows)
    return folder


def write_table(path: Path, head: str, rows: list[str]) -> None:
    path.write_text("\n".join([head, *rows]) + "\n")


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("datasets")
    make_download(root)
    prepare_ade20k_panoptic(root)
    return root


def register(root: Path, monkeypatch) -> None:
    empty_catalogs(monkeypatch)
    register_all_ade20k(str(root))
    register_ade20k(root)


@pytest.fixture
def data(root, monkeypatch) -> Path:
    register(root, monkeypatch)
    return root / "ADEChallengeData2016"


def test_semantic_labels_count_from_zero(data):
    made = np.array(Image.open(data / "annotations_detectron2/training/ADE_train_00000002.png"))
    assert made.dtype == np.uint8
    assert np.array_equal(made, scene()[0] - np.uint8(1))  # 0 becomes 255
    assert len(DatasetCatalog.get("ade20k_sem_seg_train")) == 2


def test_panoptic_annotation(data):
    (first, second) = DatasetCatalog.get("ade20k_panoptic_val")
    assert first["file_name"] == str(data / "images/validation/ADE_val_00000001.jpg")
    assert (first["height"], first["width"], second["image_id"]) == (HEIGHT, WIDTH, 2)
    assert Path(first["sem_seg_file_name"]).is_file()
    found = [(s["category_id"], s["isthing"], s["area"]) for s in first["segments_info"]]
    # Stuff: 12 rows of 31 columns less the boxes.
    assert sorted(found) == [
        (2, False, 12 * 31 - 2 * 64),
        (3, True, 64),
        (3, True, 64),
        (5, False, 12 * 31 - 2 * 32),
        (7, True, 32),
    ]
    ids = np.array(Image.open(first["pan_seg_file_name"])) @ [1, 256, 65536]
    assert (ids[NOBODY] == 0).all() and (ids[:, -1] == 0).all()
    assert (ids == 0).sum() == 32 + HEIGHT


def test_metadata_come_from_the_files(data):
    panoptic = MetadataCatalog.get("ade20k_panoptic_train")
    names = [f"name {label}, synonym" for label in LABELS]
    assert panoptic.stuff_classes == names
    assert panoptic.thing_dataset_id_to_contiguous_id == {label - 1: label - 1 for label in THINGS}
    assert len(panoptic.stuff_dataset_id_to_contiguous_id) == 50
    instance = MetadataCatalog.get("ade20k_instance_train")
    assert instance.thing_classes == [names[label - 1] for label in THINGS]
    DatasetCatalog.get("ade20k_instance_train")  # Detectron2 sets the same once more


@pytest.mark.parametrize(
    ("kind", "switch", "classes", "labels"),
    [
        ("sem_seg", "SEMANTIC_ON", 150, [2, 3, 5, 7, 9]),
        ("panoptic", "PANOPTIC_ON", 150, [2, 3, 3, 5, 7]),
        ("instance", "INSTANCE_ON", 100, [2, 2, 5]),
    ],
)
def test_train_a_step(data, tmp_path, kind, switch, classes, labels):
    sample = train_step(cfg_of(f"ade20k_{kind}_train", classes, tmp_path, switch))
    assert sorted(sample["instances"].gt_classes.tolist()) == labels


@pytest.fixture
def panoptic_cfg(tmp_path):
    outputs = ("PANOPTIC_ON", "SEMANTIC_ON", "INSTANCE_ON")
    return cfg_of("ade20k_panoptic_val", 150, tmp_path, *outputs)


def test_ground_truth_is_perfect(data, panoptic_cfg):
    figures = evaluate(panoptic_cfg)
    assert figures["panoptic_seg"]["PQ"] == figures["sem_seg"]["mIoU"] == 100
    assert figures["segm"]["AP"] == pytest.approx(100) == figures["bbox"]["AP"]


def test_figures_of_a_known_corruption(data, panoptic_cfg):
    def corrupt(output):
        ids, segments = output["panoptic_seg"]
        scores, instances = output["sem_seg"], output["instances"]
        ids[FIRST][6:] = 0  # 48 of its 64 pixels remain
        ids[SECOND] = 0
        scores[3][SECOND], scores[2][SECOND] = 0, 1
        missed = torch.stack([mask[SECOND].any() for mask in instances.pred_masks])
        return {
            "panoptic_seg": (ids, [s for s in segments if (ids == s["id"]).any()]),
            "sem_seg": scores,
            "instances": instances[~missed],
        }

    figures = evaluate(panoptic_cfg, corrupt)
    # Of class 3, in each image one instance is found with IoU 0.75 and one is missed.
    assert figures["panoptic_seg"]["PQ"] == pytest.approx(100 * (3 + 0.75 / 1.5) / 4)
    assert figures["panoptic_seg"]["PQ_th"] == pytest.approx(100 * (1 + 0.75 / 1.5) / 2)
    stuff = 12 * 31 - 128
    iou = [stuff / (stuff + 64), 0.5, 1, 1, 1]
    assert figures["sem_seg"]["mIoU"] == pytest.approx(100 * sum(iou) / 5)
    # Class 3 has a recall of one half: 51 of COCO's 101 points.
    assert figures["segm"]["AP"] == pytest.approx(100 * (51 / 101 + 1) / 2)


def test_average_precision_of_the_instance_data_set(data, tmp_path):
    cfg = cfg_of("ade20k_instance_val", 100, tmp_path, "INSTANCE_ON")

    def forget_the_last(output):
        return {"instances": output["instances"][:-1]}

    assert evaluate(cfg)["segm"]["AP"] == pytest.approx(100)
    assert evaluate(cfg, forget_the_last)["segm"]["AP"] == pytest.approx(50)


def test_panoptic_map():
    """Instances lie above stuff; a thing class without instance, and an instance 0, are void."""
    semantic = np.array([[1, 1, 2, 2, 2, 0]])
    instances = np.zeros((1, 6, 3), dtype=np.uint8)
    instances[0, 1, :2] = 9, 200  # on stuff
    instances[0, 3, :2] = 9, 3
    instances[0, 4, :2] = 9, 0
    ids, segments = panoptic_map(semantic, instances, {9: 1})
    assert segments == [(0, False), (1, True), (1, True)]
    assert ids.tolist() == [[1, 3, 0, 2, 0, 0]]


def test_a_model_needs_no_data_set_to_be_built(tmp_path, monkeypatch, panoptic_cfg, caplog):
    register(tmp_path, monkeypatch)
    assert thing_classes(panoptic_cfg) == list(range(150))
    assert "ade20k_panoptic_val.json, which does not exist" in caplog.text
    MetadataCatalog.get("ade20k_panoptic_val").set(
        stuff_classes=["any"] * 150, thing_dataset_id_to_contiguous_id={5: 5}
    )
    assert thing_classes(panoptic_cfg) == [5]


@pytest.mark.parametrize("kind", ["sem_seg", "panoptic", "instance"])
def test_who_lacks_the_files_is_told_the_command(tmp_path, monkeypatch, kind):
    register(tmp_path, monkeypatch)
    with pytest.raises(FileNotFoundError, match="tools.prepare_datasets ade20k"):
        check_dataset(f"ade20k_{kind}_val")


def remove(path: Path) -> None:
    path.unlink()


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:45])


def enlarge(path: Path) -> None:
    Image.fromarray(np.zeros((HEIGHT + 1, WIDTH, 3), np.uint8)).save(path)


def strange_category(path: Path) -> None:
    Image.fromarray(np.full((HEIGHT, WIDTH, 3), 101, np.uint8)).save(path)


def too_large_label(path: Path) -> None:
    Image.fromarray(np.full((HEIGHT, WIDTH), 151, np.uint8)).save(path)


@pytest.mark.parametrize(
    ("damage", "file", "error", "message"),
    [
        (remove, "categoryMapping.txt", FileNotFoundError, "is missing.*placeschallenge"),
        (remove, "objectInfo150.txt", FileNotFoundError, "objectInfo150.txt is missing"),
        (truncate, "objectInfo150.txt", ValueError, "objectInfo150.txt: expected"),
        (remove, "images/training/ADE_train_00000002.jpg", FileNotFoundError, "00000002.jpg"),
        (remove, "annotations/validation/ADE_val_00000001.png", FileNotFoundError, "lacks 1 files"),
        (truncate, "annotations/training/ADE_train_00000001.png", ValueError, "cannot be read"),
        (too_large_label, "annotations/training/ADE_train_00000001.png", ValueError, "label 151"),
        (
            enlarge,
            "annotations_instance/training/ADE_train_00000001.png",
            ValueError,
            r"shape \(25, 32, 3\)",
        ),
        (
            strange_category,
            "annotations_instance/validation/ADE_val_00000001.png",
            ValueError,
            r"categories not in categoryMapping.txt: \[101\]",
        ),
    ],
)
def test_incomplete_downloads(tmp_path, damage, file, error, message):
    folder = make_download(tmp_path)
    damage(folder / file)
    with pytest.raises(error, match=message):
        prepare_ade20k_panoptic(tmp_path)


def test_nothing_is_made_twice(tmp_path):
    folder = make_download(tmp_path)
    prepare_ade20k(tmp_path)
    made = folder / "annotations_detectron2/training/ADE_train_00000001.png"
    made.write_bytes(b"mine")
    prepare_ade20k(tmp_path)
    assert made.read_bytes() == b"mine"
    made.unlink()
    with pytest.raises(ValueError, match="annotations_detectron2/training lacks 1 of its 2 files"):
        prepare_ade20k(tmp_path)


def test_panoptic_images_without_their_json(tmp_path):
    folder = make_download(tmp_path)
    prepare_ade20k_panoptic(tmp_path)
    (folder / "ade20k_instance_val.json").unlink()
    with pytest.raises(FileNotFoundError, match="_val.json is missing. Remove .*ade20k_panoptic_"):
        prepare_ade20k_panoptic(tmp_path)


def test_files_of_the_2021_release_are_read(data, tmp_path, monkeypatch):
    """Its panoptic JSON names images by their stems, and its categories have colours."""
    source = data / "ade20k_panoptic_val.json"
    content = json.loads(source.read_text())
    for image, annotation in zip(content["images"], content["annotations"], strict=True):
        image["id"] = annotation["image_id"] = Path(image["file_name"]).stem
    for category in content["categories"]:
        category["color"] = [category["id"], 0, 0]
    make_download(tmp_path)
    prepare_ade20k_panoptic(tmp_path)
    (tmp_path / "ADEChallengeData2016/ade20k_panoptic_val.json").write_text(json.dumps(content))
    register(tmp_path, monkeypatch)
    assert MetadataCatalog.get("ade20k_panoptic_val").stuff_colors[149] == [149, 0, 0]
    assert DatasetCatalog.get("ade20k_panoptic_val")[0]["image_id"] == "ADE_val_00000001"

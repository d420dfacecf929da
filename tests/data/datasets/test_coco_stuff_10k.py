"""COCO-Stuff-10K in miniature: prepared, registered, trained on and evaluated."""

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets.builtin_meta import COCO_CATEGORIES
from scipy.io import savemat

from mask_former.data.datasets.coco_stuff_10k import (
    prepare_coco_stuff_10k,
    read_classes,
    register_coco_stuff_10k,
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

STEMS = {"train": "COCO_train2014_000000000077", "test": "COCO_train2014_000000000154"}
THINGS = {c["id"]: c["name"] for c in COCO_CATEGORIES if c["isthing"]}
# Label -> class, by hand: COCO leaves out 10 of the labels up to 90, and 91.
CLASSES = {0: 255, 1: 0, 90: 79, 92: 80, 182: 170}
NAMES = ["unlabeled", *(THINGS.get(label, f"label {label}") for label in range(1, 183))]


def label_map() -> np.ndarray:
    """Bands of eight rows of the labels of CLASSES, as MATLAB stores them."""
    return np.repeat(np.array(list(CLASSES), dtype=np.uint16), 8)[:, None].repeat(48, axis=1)


def save_mat(path, labels, names=NAMES):
    cells = np.array(names, dtype=object)[:, None]
    content = {
        "S": labels,
        "names": cells,
        "captions": np.array(["a cat"], dtype=object)[:, None],
        "regionMapsStuff": labels,
        "regionLabelsStuff": np.array([[92], [182]], dtype=np.uint16),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    savemat(path, content, do_compression=True)


@pytest.fixture
def root(tmp_path, monkeypatch):
    """The folder of data sets, with COCO-Stuff-10K as it is unpacked."""
    folder = tmp_path / "datasets" / "coco" / "coco_stuff_10k"
    for split, stem in STEMS.items():
        write(folder / "images" / f"{stem}.jpg", picture(40, 48))
        save_mat(folder / "annotations" / f"{stem}.mat", label_map())
        (folder / "imageLists").mkdir(exist_ok=True)
        (folder / "imageLists" / f"{split}.txt").write_text(f"{stem}\n")
    empty_catalogs(monkeypatch)
    register_coco_stuff_10k(tmp_path / "datasets")
    return tmp_path / "datasets"


def test_labels(root):
    folder = prepare_coco_stuff_10k(root)
    labels = read(folder / "annotations_detectron2" / "test" / f"{STEMS['test']}.png")
    assert labels.dtype == np.uint8
    np.testing.assert_array_equal(
        labels, np.repeat(list(CLASSES.values()), 8)[:, None] + 0 * labels
    )


def test_labels_of_matlab_may_be_floating_point(root):
    folder = root / "coco" / "coco_stuff_10k"
    save_mat(folder / "annotations" / f"{STEMS['train']}.mat", label_map().astype(np.float64))
    prepare_coco_stuff_10k(root)
    made = [folder / "annotations_detectron2" / s / f"{stem}.png" for s, stem in STEMS.items()]
    np.testing.assert_array_equal(*(read(path) for path in made))


def test_classes(root):
    metadata = MetadataCatalog.get("coco_2017_test_stuff_10k_sem_seg")
    assert metadata.evaluator_type == "sem_seg" and metadata.ignore_label == 255
    classes = metadata.stuff_classes
    assert len(classes) == 171
    assert classes[:80] == list(THINGS.values())
    assert classes[80:] == [f"label {label}" for label in range(92, 183)]


def test_classes_without_unlabelled(tmp_path):
    save_mat(tmp_path / "a.mat", label_map(), NAMES[1:])
    assert read_classes(tmp_path / "a.mat")[0] == "person"


def test_classes_of_something_else(tmp_path):
    save_mat(tmp_path / "a.mat", label_map(), NAMES[:-1])
    with pytest.raises(ValueError, match="a.mat names 181 labels"):
        read_classes(tmp_path / "a.mat")


def test_train_and_evaluate(root, tmp_path):
    prepare_coco_stuff_10k(root)
    sample = train_step(cfg_of("coco_2017_train_stuff_10k_sem_seg", 171, tmp_path, "SEMANTIC_ON"))
    assert sample["instances"].gt_classes.tolist() == [0, 79, 80, 170]
    cfg = cfg_of("coco_2017_test_stuff_10k_sem_seg", 171, tmp_path, "SEMANTIC_ON")
    assert evaluate(cfg)["sem_seg"]["mIoU"] == pytest.approx(100)

    def half(output):
        """The right half of the persons, at the rows 8 to 15, is taken for class 170."""
        scores = output["sem_seg"].clone()
        scores[0, 8:16, 24:], scores[170, 8:16, 24:] = 0, 1
        return {"sem_seg": scores}

    # Of four bands one is found by half, and one is taken for 1.5 times its size.
    assert evaluate(cfg, half)["sem_seg"]["mIoU"] == pytest.approx(
        100 * (1 / 2 + 1 + 1 + 2 / 3) / 4
    )


@pytest.mark.parametrize("missing", ["images/{}.jpg", "annotations/{}.mat", "imageLists/train.txt"])
def test_incomplete_download(root, missing):
    path = root / "coco" / "coco_stuff_10k" / missing.format(STEMS["train"])
    path.unlink()
    with pytest.raises(FileNotFoundError, match=path.name):
        prepare_coco_stuff_10k(root)


@pytest.mark.parametrize("broken", ["no .mat", "label", "negative", "fraction"])
def test_broken_annotation(root, broken):
    path = root / "coco" / "coco_stuff_10k" / "annotations" / f"{STEMS['train']}.mat"
    if broken == "label":
        save_mat(path, label_map() + 1)
    elif broken == "negative":
        save_mat(path, label_map().astype(np.int16) - 1)
    elif broken == "fraction":
        save_mat(path, label_map() / 2)
    else:
        path.write_bytes(b"cut off")
    with pytest.raises(ValueError, match=path.name):
        prepare_coco_stuff_10k(root)


def test_unprepared(root):
    with pytest.raises(FileNotFoundError, match="tools.prepare_datasets coco_stuff_10k`"):
        DatasetCatalog.get("coco_2017_train_stuff_10k_sem_seg")

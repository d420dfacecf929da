"""Checkpoints know the classes that they were trained on, and are refused for others."""

import pickle

import pytest
import torch

from mask_former.checkpoint.checkpointer import MaskFormerCheckpointer
from mask_former.checkpoint.classes import check_trained_on
from mask_former.checkpoint.read import read_weights_file, trained_classes
from mask_former.checkpoint.write import write_weights
from tests.checkpoint.test_checkpointer import Model, state

CLASSES = [
    {"id": 9, "name": "cat", "isthing": 1, "color": [1, 2, 3], "supercategory": "animal"},
    {"id": "x", "name": "sky", "isthing": 0},
    {"id": 7, "name": "dog", "isthing": 1},
]


def changed(number, **values):
    return [{**c, **values} if i == number else c for i, c in enumerate(CLASSES)]


@pytest.fixture
def saved(tmp_path):
    MaskFormerCheckpointer(Model(), str(tmp_path), classes=CLASSES).save("model", iteration=3)
    return str(tmp_path / "model.pth")


def test_classes_are_saved_as_plain_values(saved):
    content = torch.load(saved, weights_only=True)
    assert content["classes"] == CLASSES and content["iteration"] == 3
    assert trained_classes(saved) == CLASSES
    assert MaskFormerCheckpointer(Model(), classes=CLASSES).load(saved)["classes"] == CLASSES


@pytest.mark.parametrize("suffix", [".pth", ".safetensors", ".pkl"])
def test_every_format_keeps_them(tmp_path, suffix):
    path = str(tmp_path / f"model{suffix}")
    write_weights(path, state(Model()), CLASSES)
    assert trained_classes(path) == CLASSES
    MaskFormerCheckpointer(Model(), accept_backbone=False, classes=CLASSES).load(path)
    with pytest.raises(ValueError, match=f"model{suffix} was trained on other classes"):
        MaskFormerCheckpointer(Model(), classes=changed(0, name="cow")).load(path)


@pytest.mark.parametrize(
    ("classes", "difference"),
    [
        (changed(1, name="sea"), "class 1 is 'sky' there and 'sea' here"),
        (CLASSES[:1] + CLASSES[:0:-1], "class 1 is 'sky' there and 'dog' here"),
        (changed(1, isthing=1), r"'sky' is a thing in only one of them \(isthing\)"),
        (CLASSES[:2], "class 2 is 'dog' there and missing here"),
        ([*CLASSES, {"id": 1, "name": "cow"}], "class 3 is missing there and 'cow' here"),
    ],
)
def test_the_first_class_that_differs_is_named(classes, difference):
    with pytest.raises(ValueError, match=f"model.pth was .*: {difference}.*CLASS_HEAD True"):
        check_trained_on("model.pth", CLASSES, classes)


def test_ids_of_files_colours_and_what_is_not_known_may_differ():
    check_trained_on("model.pth", CLASSES, changed(0, id=1, color=[0, 0, 0], supercategory="pet"))
    unsaid = [{key: c[key] for key in ("id", "name")} for c in CLASSES]
    for one, other in ((CLASSES, unsaid), (unsaid, CLASSES), (None, CLASSES), (CLASSES, None)):
        check_trained_on("model.pth", one, other)


def test_all_but_the_class_head_fits_other_classes(saved):
    checkpointer = MaskFormerCheckpointer(model := Model(), classes=changed(0, name="cow"))
    before = state(model)
    checkpointer.load(saved, without_class_head=True)
    after, weights = model.state_dict(), read_weights_file(saved)["model"]
    head, queries = (f"sem_seg_head.predictor.{n}.weight" for n in ("class_embed", "query_embed"))
    assert torch.equal(after[head], before[head]) and not torch.equal(before[head], weights[head])
    assert torch.equal(after[queries], weights[queries])


@pytest.mark.parametrize("theirs", [["cat", "dog"], [], "cat", [{"name": "cat"}], {"0": "cat"}])
def test_what_other_programs_call_classes_is_none(tmp_path, theirs):
    content = {"model": state(Model()), "classes": theirs}
    torch.save(content, tmp_path / "model.pth")
    assert trained_classes(str(tmp_path / "model.pth")) is None
    content["model"] = {name: tensor.numpy() for name, tensor in content["model"].items()}
    (tmp_path / "model.pkl").write_bytes(pickle.dumps(content))
    assert trained_classes(str(tmp_path / "model.pkl")) is None
    MaskFormerCheckpointer(Model(), classes=CLASSES).load(str(tmp_path / "model.pth"))


def test_classes_of_a_file_that_cannot_be_read(tmp_path):
    (tmp_path / "broken.pth").write_bytes(b"no weights")
    with pytest.raises(ValueError, match="broken.pth cannot be read"):
        trained_classes(str(tmp_path / "broken.pth"))
    with pytest.raises(FileNotFoundError, match="gone.pth"):
        trained_classes(str(tmp_path / "gone.pth"))

"""DATASETS.CUSTOM: keys, and the data sets that they register."""

import numpy as np
import pytest
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from PIL import Image

from mask_former.data import MaskFormerDatasetMapper
from mask_former.data.checks import check_records
from mask_former.data.datasets import check_dataset, register_instances
from mask_former.data.datasets.custom import custom_dataset, register_custom
from mask_former.data.records import load_records, read_label_map
from mask_former.engine.config import get_cfg
from mask_former.errors import MissingFileError, UserError
from tests.data import small_coco

pytestmark = pytest.mark.usefixtures("restored_catalog")
SEMANTIC = {"FORMAT": "semantic", "IMAGES": "images", "LABELS": "labels", "CLASSES": ["a", "b"]}
INSTANCES = {"FORMAT": "instances", "IMAGES": "images", "JSON": "x.json"}
PANOPTIC = {"FORMAT": "panoptic", "IMAGES": "images", "LABELS": "labels", "JSON": "x.json"}


def register(**entries):
    cfg = get_cfg()
    for name, entry in entries.items():
        cfg.DATASETS.CUSTOM[name] = CfgNode(dict(entry))
    register_custom(cfg)


@pytest.fixture
def coco(tmp_path):
    small_coco.write_files(tmp_path)
    small_coco.write_json(tmp_path / "instances.json", small_coco.instances())
    small_coco.write_json(tmp_path / "panoptic.json", small_coco.panoptic())
    return {"ROOT": str(tmp_path)}


def test_instances(coco, tmp_path):
    register(mine={**INSTANCES, **coco, "JSON": "instances.json", "COLORS": [[1, 1, 1], [2, 2, 2]]})
    metadata = MetadataCatalog.get("mine")
    assert metadata.thing_classes == ["cat", "dog"] and metadata.thing_colors[1] == [2, 2, 2]
    records = load_records("mine")
    assert records[0]["file_name"] == str(tmp_path / "images/a.png")
    assert [len(record["annotations"]) for record in records] == [1, 2]


def test_a_missing_image_names_the_keys(coco, tmp_path):
    register(mine={**INSTANCES, **coco, "JSON": "instances.json"})
    (tmp_path / "images/b.png").unlink()
    with pytest.raises(MissingFileError, match="1 files are missing.*CUSTOM.mine.IMAGES, .*JSON"):
        check_records("mine", load_records("mine"), MaskFormerDatasetMapper(get_cfg()))


def test_panoptic(coco, tmp_path):
    names = [{"id": c["id"], "name": c["name"]} for c in small_coco.CATEGORIES]
    content = {**small_coco.panoptic(), "categories": names}
    small_coco.write_json(tmp_path / "panoptic.json", content)
    entry = {**PANOPTIC, **coco, "JSON": "panoptic.json"}
    register(mine=entry)
    with pytest.raises(
        UserError, match=r"panoptic.json: category 1, 'cat', has no 'isthing'.*THINGS"
    ):
        load_records("mine")
    register(mine={**entry, "THINGS": ["cat"]})
    metadata = MetadataCatalog.get("mine")
    assert metadata.thing_classes == ["cat"] and metadata.stuff_classes == ["cat", "ground"]
    segments = load_records("mine")[0]["segments_info"]
    assert [(segment["category_id"], segment["isthing"]) for segment in segments] == [
        (0, True),
        (1, False),
    ]


def test_semantic_with_all_keys(tmp_path):
    """CVAT's colours; background ignored; labels beside the images under another suffix."""
    (tmp_path / "labelmap.txt").write_text("# label:color\nsky:0,0,0::\ncar:255,0,0::\n")
    (tmp_path / "lists").mkdir()
    (tmp_path / "lists/val.txt").write_text("p\n")
    pixels = np.zeros((2, 3, 3), np.uint8)
    pixels[0, :2] = (255, 0, 0)
    pixels[1, 0] = (9, 9, 9)
    for name in "pq":
        Image.fromarray(pixels).save(tmp_path / f"{name}_left.png")
        Image.fromarray(pixels).save(tmp_path / f"{name}_mask.png")
    register(
        mine={
            "FORMAT": "semantic",
            "ROOT": str(tmp_path),
            "SPLITS": ["val"],
            "IMAGES": ".",
            "LABELS": ".",
            "IMAGE_SUFFIX": "_left.png",
            "LABEL_SUFFIX": "_mask.png",
            "IMAGE_LIST": "lists/{split}.txt",
            "CLASS_FILE": "labelmap.txt",
            "ENCODING": "colors",
            "IGNORE": ["sky", [9, 9, 9]],
        }
    )
    metadata = MetadataCatalog.get("mine_val")
    assert metadata.stuff_classes == ["car"] and metadata.stuff_colors == [[255, 0, 0]]
    assert metadata.ignore_label == 255 and metadata.evaluator_type == "sem_seg"
    (record,) = load_records("mine_val")
    assert record["file_name"].endswith("p_left.png")
    labels = read_label_map(record, (2, 3), 1, 255)
    assert labels.tolist() == [[0, 0, 255], [255, 255, 255]] and labels.dtype == np.uint8


def test_plain_label_maps(tmp_path):
    for name, value in (("images/a.jpg", 0), ("labels/a.png", 1)):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.fromarray(np.full((2, 3), value, np.uint8)).save(tmp_path / name)
    register(mine={**SEMANTIC, "ROOT": str(tmp_path)})
    (record,) = load_records("mine")
    assert read_label_map(record, (2, 3), 2, 255).tolist() == [[1] * 3] * 2


def test_a_changed_entry_is_registered_anew(tmp_path):
    register(mine=SEMANTIC)
    before = MetadataCatalog.get("mine")
    register(mine=SEMANTIC)
    assert MetadataCatalog.get("mine") is before
    register(mine={**SEMANTIC, "CLASSES": ["x", "y", "z"]})
    assert MetadataCatalog.get("mine").stuff_classes == ["x", "y", "z"]


def test_a_name_of_another_data_set():
    with pytest.raises(UserError, match="CUSTOM.coco_2017_val: there is another data set 'coco_20"):
        register(coco_2017_val=INSTANCES)
    register(mine=INSTANCES)
    with pytest.raises(UserError, match="another data set of the name 'mine'; choose a new name"):
        register_instances("mine", image_root="images", json_file="x.json")


@pytest.mark.parametrize("key", ["IMAGES", "LABELS", "IMAGE_LIST", "CLASS_FILE"])
def test_what_is_missing_is_named_by_its_key(tmp_path, key):
    for folder in ("images", "labels"):
        (tmp_path / folder).mkdir()
    for file in ("list.txt", "classes.txt"):
        (tmp_path / file).write_text("a\nb\n")
    entry = {**SEMANTIC, "ROOT": str(tmp_path), "IMAGE_LIST": "list.txt"}
    entry = {**entry, "CLASS_FILE": "classes.txt", key: "gone"}
    register(mine=entry)
    message = (
        f"'mine' needs {tmp_path}/gone, which does not exist. Correct DATASETS.CUSTOM.mine.{key}"
    )
    with pytest.raises(MissingFileError, match=message):
        check_dataset("mine")


def test_every_key_has_a_meaning_with_some_format():
    """... and is refused with the others: tried with a value that is not its default."""
    formats = {"semantic": SEMANTIC, "instances": INSTANCES, "panoptic": PANOPTIC}
    values = {"ENCODING": "values", "SPLITS": ("train",), "CLASSES": ("a", "b"), "IGNORE": (3,)}
    values |= {"LABEL_VALUES": (1, 2), "COLORS": ((1, 1, 1), (2, 2, 2)), "THINGS": ("a",)}
    taken = {key: set() for key in custom_dataset()}
    for format_, entry in formats.items():
        for key, default in custom_dataset().items():
            value = format_ if key == "FORMAT" else values.get(key, "{split}")
            assert value != default
            extra = {"SPLITS": ("train",), "IMAGES": "images/{split}", key: value}
            try:
                register(mine={**entry, **extra})
                taken[key].add(format_)
            except UserError as error:
                assert str(error).startswith(f"DATASETS.CUSTOM.mine.{key} is {value!r}")
                assert f"no meaning with FORMAT {format_}" in str(error)
    everywhere = set(formats)
    for key in ("FORMAT", "SPLITS", "ROOT", "IMAGES", "CLASSES", "COLORS"):
        assert taken.pop(key) == everywhere
    assert taken.pop("LABELS") == {"semantic", "panoptic"}
    assert taken.pop("JSON") == {"instances", "panoptic"}
    for key in ("INSTANCES_JSON", "SEMANTIC_LABELS", "THINGS"):
        assert taken.pop(key) == {"panoptic"}
    assert taken and set(map(frozenset, taken.values())) == {frozenset({"semantic"})}


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({}, "mine.FORMAT is '', but must be one of semantic, instances, panoptic"),
        ({**SEMANTIC, "FORMAT": "voc"}, "mine.FORMAT is 'voc', but must be one of"),
        ({**SEMANTIC, "IMAGES": ""}, "mine.IMAGES is missing, which FORMAT semantic needs"),
        ({**PANOPTIC, "LABELS": ""}, "mine.LABELS is missing, which FORMAT panoptic needs"),
        ({**INSTANCES, "JSON": ""}, "mine.JSON is missing, which FORMAT instances needs"),
        ({**INSTANCES, "IGNORE": [0]}, r"mine.IGNORE is \[0\], which has no meaning"),
        ({**INSTANCES, "IMAGE": "x"}, "mine.IMAGE is unknown; the keys are FORMAT, SPLITS"),
        ({**INSTANCES, "JSON": "{split}.json"}, "mine.JSON is .* no splits.*SPLITS, such as"),
        ({**INSTANCES, "SPLITS": ["a", "b"]}, r"mine.SPLITS is \['a', 'b'\], but no path has"),
        (
            {**INSTANCES, "JSON": "{split}", "SPLITS": [1]},
            r"mine.SPLITS is \[1\], but must be names",
        ),
        ({**SEMANTIC, "CLASSES": []}, "'mine': CLASSES is empty"),
        ({**SEMANTIC, "COLORS": [[1, 2, 3]]}, "'mine': COLORS has 1 entries, but there are 2"),
    ],
)
def test_bad_entries(entry, message):
    with pytest.raises(UserError, match=message):
        register(mine=entry)

"""Classes of the data sets of one config: number, names, order, things, ignored label."""

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog

from mask_former.data.checks import check_data
from mask_former.data.datasets import register_instances, register_panoptic
from mask_former.engine.config import load_config
from tests.data.small_coco import CATEGORIES, instances, panoptic, write_files, write_json

TRAIN, TEST = "test_agreement_train", "test_agreement_test"


@pytest.fixture
def check(tmp_path):
    """Registers two sets, which have the given categories, and checks a config of both."""
    write_files(tmp_path)

    def check(categories, mapper="mask_former_panoptic", **options):
        content = panoptic() if "panoptic" in mapper else instances()
        for name, given in ((TRAIN, content["categories"]), (TEST, categories)):
            path = write_json(tmp_path / f"{name}.json", {**content, "categories": given})
            if "panoptic" in mapper:
                roots = {"panoptic_root": tmp_path / "labels", "panoptic_json": path}
                register_panoptic(name, image_root=tmp_path / "images", **roots)
            else:
                register_instances(name, image_root=tmp_path / "images", json_file=path)
        options = {"INPUT.DATASET_MAPPER_NAME": mapper, **options}
        options["DATASETS.TRAIN"], options["DATASETS.TEST"] = (TRAIN,), (TEST,)
        options.setdefault("MODEL.SEM_SEG_HEAD.NUM_CLASSES", 2)
        return check_data(load_config(opts=[x for pair in options.items() for x in pair]))

    yield check
    for name in (TRAIN, TEST):
        DatasetCatalog.pop(name, None)
        MetadataCatalog.pop(name, None)


def test_equal_classes(check):
    assert check(CATEGORIES) == []


def test_another_order(check):
    with pytest.raises(ValueError, match=f"{TRAIN}.*{TEST}.*class 0 is 'cat' .* and 'ground'"):
        check(CATEGORIES[::-1])


def test_another_name_for_an_id(check):
    swapped = [{"id": 1, "name": "dog"}, {"id": 2, "name": "cat"}]
    with pytest.raises(ValueError, match=f"{TRAIN}.*{TEST}.*class 0 is 'cat' .* and 'dog'"):
        check(swapped, mapper="mask_former_instance")


def test_another_number(check):
    more = [*CATEGORIES, {"id": 3, "name": "sky", "isthing": 0}]
    with pytest.raises(ValueError, match=f"{TRAIN}.*{TEST}.* have 2 and 3 .* has sky"):
        check(more)


def test_a_thing_in_one_only(check):
    things = [{**category, "isthing": 1} for category in CATEGORIES]
    with pytest.raises(ValueError, match=f"{TRAIN}.*{TEST}.*'ground' is a thing in only one"):
        check(things)


def test_another_ignored_label(check):
    with pytest.raises(ValueError, match=f"{TRAIN}.* ignore_label 255.*IGNORE_VALUE is 0"):
        check(CATEGORIES, **{"MODEL.SEM_SEG_HEAD.IGNORE_VALUE": 0})


def test_two_classes_of_one_name(check):
    check(CATEGORIES)
    MetadataCatalog.pop(TEST)
    MetadataCatalog.get(TEST).stuff_classes = ["cat", "cat"]
    with pytest.raises(ValueError, match="several classes of the name 'cat'"):
        check_data(
            load_config(
                opts=[
                    *("DATASETS.TEST", (TEST,), "MODEL.SEM_SEG_HEAD.NUM_CLASSES", 2),
                    *("INPUT.DATASET_MAPPER_NAME", "mask_former_panoptic"),
                ]
            ),
            eval_only=True,
        )


def test_the_json_of_other_categories_than_registered(check, tmp_path):
    check(CATEGORIES)
    DatasetCatalog.pop(TEST)
    MetadataCatalog.pop(TEST)
    swapped = [{"id": 2, "name": "cat", "isthing": 1}, {"id": 1, "name": "ground", "isthing": 0}]
    register_panoptic(
        TEST,
        image_root=tmp_path / "images",
        panoptic_root=tmp_path / "labels",
        panoptic_json=tmp_path / f"{TEST}.json",
        categories=swapped,
    )
    with pytest.raises(ValueError, match=r"json: the category 1 is 'cat', but 'ground'"):
        DatasetCatalog.get(TEST)

from detectron2.data import Metadata

from mask_former.data.classes import class_names, contiguous_ids


def test_panoptic_classes_are_things_and_stuff():
    metadata = Metadata(
        stuff_classes=["cat", "sky"],
        thing_classes=["cat"],
        thing_dataset_id_to_contiguous_id={17: 0},
        stuff_dataset_id_to_contiguous_id={93: 1},
    )
    assert class_names(metadata) == ["cat", "sky"]
    assert contiguous_ids(metadata) == {17: 0, 93: 1}


def test_instance_classes_are_things():
    metadata = Metadata(thing_classes=["cat"], thing_dataset_id_to_contiguous_id={17: 0})
    assert class_names(metadata) == ["cat"]
    assert contiguous_ids(metadata) == {17: 0}


def test_metadata_without_classes():
    assert class_names(Metadata()) == [] and contiguous_ids({}) == {}

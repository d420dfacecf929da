from detectron2.data import Metadata

from mask_former.data.classes import (
    categories_of,
    class_color,
    class_names,
    contiguous_ids,
    metadata_of,
)


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


CATEGORIES = [
    {"id": 9, "name": "cat", "isthing": 1, "color": [1, 2, 3], "supercategory": "animal"},
    {"id": 4, "name": "sky", "isthing": 0, "color": [4, 5, 6]},
    {"id": 7, "name": "dog", "isthing": 1, "color": [7, 8, 9], "supercategory": "animal"},
]


def test_categories_and_metadata_say_the_same():
    metadata = metadata_of(CATEGORIES)
    # Things do not come first, so that thing_classes are all classes.
    assert metadata["thing_classes"] == metadata["stuff_classes"] == ["cat", "sky", "dog"]
    assert metadata["thing_dataset_id_to_contiguous_id"] == {9: 0, 7: 2}
    assert metadata["stuff_dataset_id_to_contiguous_id"] == {4: 1}
    assert categories_of(Metadata(**metadata)) == CATEGORIES
    things_first = [CATEGORIES[0], CATEGORIES[2], CATEGORIES[1]]
    assert metadata_of(things_first)["thing_classes"] == ["cat", "dog"]
    assert categories_of(Metadata(**metadata_of(things_first))) == things_first


def test_what_nobody_said_stays_unknown():
    categories = categories_of(Metadata(stuff_classes=["road", "sky"]))
    assert [set(category) for category in categories] == [{"id", "name", "color"}] * 2
    metadata = metadata_of(categories)
    assert metadata.keys() == {"stuff_classes", "stuff_colors"}
    assert "stuff_colors" not in metadata_of([{"id": 0, "name": "road"}])
    # Label maps whose values are not contiguous.
    own = [
        {"id": 10, "name": "road", "color": [1, 2, 3]},
        {"id": 20, "name": "sky", "color": [4] * 3},
    ]
    assert categories_of(Metadata(**metadata_of(own))) == own


def test_colours_of_tools():
    given = [{"id": 0, "name": "a", "color": "#0a0B0c"}, {"id": 1, "name": "b", "color": [1, 2, 3]}]
    assert metadata_of(given)["stuff_colors"] == [[10, 11, 12], [1, 2, 3]]
    for wrong in ("red", None, [1, 2], [1, 2, 256], [0.5, 0.5, 0.5], "#12345"):
        given[1]["color"] = wrong
        assert "stuff_colors" not in metadata_of(given)


def test_classes_without_colours_get_different_ones():
    metadata = Metadata(stuff_classes=[str(i) for i in range(50)], stuff_colors=[[1, 2, 3]])
    assert len({class_color(metadata, i) for i in range(50)}) == 50

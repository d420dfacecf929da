import detectron2.data.datasets  # noqa: F401  registers the builtin data sets
import pytest
from detectron2.data import Metadata, MetadataCatalog

from mask_former.visualization import Palette


def test_colours_turn_from_rgb_to_bgr_and_names_keep_the_first_synonym():
    metadata = Metadata(
        stuff_classes=["road, route", "sky"], stuff_colors=[[10, 20, 30], [1, 2, 3]]
    )
    palette = Palette(metadata)
    assert palette.color(0) == (30, 20, 10)
    assert palette.name(0) == "road"


def test_shades_of_a_class_differ_and_shade_zero_is_the_class_colour():
    palette = Palette(Metadata(thing_classes=["cat"], thing_colors=[[200, 60, 60]]))
    shades = [palette.color(0, shade) for shade in range(8)]
    assert shades[0] == (60, 60, 200)
    assert len(set(shades)) == 8
    # Still reddish: the instances of a class look related.
    assert all(red > max(blue, green) for blue, green, red in shades)


@pytest.mark.parametrize("metadata", [Metadata(), Metadata(stuff_classes=["a"])])
def test_what_the_metadata_lacks_is_made_up(metadata):
    palette = Palette(metadata)
    colors = [palette.color(c) for c in range(20)]
    assert len(set(colors)) == 20
    assert palette.name(7) == "class 7"


def test_colours_that_do_not_cover_the_classes_are_not_used():
    few = Metadata(stuff_classes=["a", "b", "c"], stuff_colors=[[9, 9, 9]])
    assert Palette(few).color(0) == Palette(Metadata()).color(0)


@pytest.mark.parametrize(
    ("data_set", "last"),
    [
        ("coco_2017_val_panoptic", "rug-merged"),
        ("ade20k_sem_seg_val", "flag"),
        ("coco_2017_val", "toothbrush"),
    ],
)
def test_detectron2s_own_metadata(data_set, last):
    metadata = MetadataCatalog.get(data_set)
    count = len(metadata.get("stuff_classes") or metadata.thing_classes)
    palette = Palette(metadata)
    assert palette.name(count - 1) == last
    assert all(0 <= value <= 255 for value in palette.color(count - 1, shade=3))

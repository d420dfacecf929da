"""COCO's annotation files: what is refused names file and place; what is missing is computed."""

import copy
import gzip
import json

import numpy as np
import pytest

from mask_former.data import json_files
from mask_former.data.coco_json import read_instances, read_panoptic
from mask_former.data.geometry import EMPTY, FRACTIONS, OTHER_BOX, TOO_FEW_POINTS, mask_area
from mask_former.errors import UserError
from tests.data.small_coco import HEIGHT, WIDTH, instances, panoptic, rectangle, write_json

NAN = float("nan")
POLYGON = [10.0, 10.0, 30.0, 10.0, 30.0, 30.0]
DELETED = object()


def change(content, path, value):
    """`content` with the value at a path, a tuple of keys, set or deleted."""
    content = copy.deepcopy(content)
    place = content
    for key in path[:-1]:
        place = place[key]
    if value is DELETED:
        del place[path[-1]]
    else:
        place[path[-1]] = value
    return content


def first(kind, key):
    return (kind, 0, key)


# Of both formats: where, what, message.
COMMON = [
    (("images",), DELETED, "has no 'images'"),
    (("images",), {}, "'images' is an object"),
    (("images",), [], "no images"),
    (("images", 0), 5, r"images\[0\] is a number, 5"),
    (("annotations",), DELETED, "has no 'annotations'"),
    (("annotations", 1), None, r"annotations\[1\] is null"),
    (("categories",), {"1": {"id": 1, "name": "x"}}, "'categories' is an object"),
    (("categories",), [], "'categories' is empty"),
    (first("images", "id"), None, "null, but an id"),
    (first("images", "id"), "1", "'1'.*make all|Make all"),
    (first("images", "id"), 2, "image number 2 is 2, which occurs before"),
    (first("images", "id"), True, "a truth value"),
    (first("images", "file_name"), DELETED, r"images\[0\].* has no 'file_name'"),
    (first("images", "file_name"), "b.png", "'b.png', like image 1"),
    (first("images", "height"), -1, "image 1: its height is a number, -1"),
    (first("images", "height"), NAN, "its height is a number, NaN"),
    (first("images", "width"), "50", 'its width is text, "50"'),
    (first("images", "width"), 10**9, "its width"),
    (first("categories", "id"), 2, "category number 2 is 2, which occurs before"),
    (first("categories", "id"), "1", "partly text"),
    (first("categories", "name"), None, "the name of category 1 is null"),
    (("categories", 1, "name"), "cat", "categories 1 and 2 both have the name 'cat'"),
    (first("annotations", "image_id"), 9, "image_id 9, which no image has"),
    (first("annotations", "image_id"), "1", "image_id '1', which no image has"),
    (first("annotations", "image_id"), None, "its image_id is null"),
]
OF_INSTANCES = [
    (first("annotations", "id"), 2, "annotation number 2 is 2, which occurs before"),
    (first("annotations", "id"), None, "is null"),
    (first("annotations", "category_id"), 9, "annotation 1 has the category_id 9"),
    (first("annotations", "iscrowd"), 2, "annotation 1: iscrowd is a number, 2"),
    (first("annotations", "iscrowd"), "0", "annotation 1: iscrowd is text"),
    (first("annotations", "ignore"), 1, "'ignore'"),
    (first("annotations", "area"), -4, "its area"),
    (first("annotations", "area"), NAN, "its area is a number, NaN"),
    (first("annotations", "area"), 1e30, r"its area is a number, 1e\+30, .* which is 50 x 40"),
    (first("annotations", "area"), 10**400, "its area"),
    (first("annotations", "area"), True, "its area"),
    (first("annotations", "bbox"), [NAN] * 4, "its bbox"),
    (first("annotations", "bbox"), [10**400, 0.5, 1.5, 5], "its bbox"),
    (first("annotations", "bbox"), [0.5, 0, 10**400, 5], "its bbox"),
    (first("annotations", "bbox"), [0, 0, False, 5], "its bbox"),
    (first("annotations", "bbox"), [0, 0, 5, -1], "its bbox"),
    (first("annotations", "bbox"), [0, 60, 5, 30], "its bbox"),
    (first("annotations", "bbox"), [1, 2, 3], "its bbox"),
    (first("annotations", "bbox"), [0, 0, 1e9, 5], "its bbox"),
    (first("annotations", "bbox"), [], "its bbox"),
    (first("annotations", "segmentation"), DELETED, "annotation 1 has no mask"),
    (first("annotations", "segmentation"), [], "annotation 1 has no mask"),
    (first("annotations", "segmentation"), POLYGON, "annotation 1: its segmentation"),
    (first("annotations", "segmentation"), [[1, 1], [9, 1], [9, 9]], "its segmentation"),
    (first("annotations", "segmentation"), [POLYGON[:-1]], "its segmentation"),
    (first("annotations", "segmentation"), [[*POLYGON[:5], None]], "what is no number"),
    (first("annotations", "segmentation"), [[*POLYGON[:5], "1.5"]], "what is no number"),
    (first("annotations", "segmentation"), [[*POLYGON[:5], 10**400]], "what is no number"),
    (first("annotations", "segmentation"), [POLYGON, "text"], "its segmentation"),
    (first("annotations", "segmentation"), [[*POLYGON[:5], NAN]], "but its image is 50 x 40"),
    (first("annotations", "segmentation"), [[*POLYGON[:5], 1e9]], r"1e\+09"),
    (first("annotations", "segmentation"), {"counts": [1, 2]}, "the size of its run lengths"),
]
OF_PANOPTIC = [
    (("annotations",), [], "no annotations"),
    (first("categories", "isthing"), "yes", "isthing of category 1, 'cat', is text"),
    (first("annotations", "image_id"), 2, "which occurs before"),
    (first("annotations", "file_name"), "b.png", "'b.png', like image 1"),
    (first("annotations", "segments_info"), None, "'segments_info' is null"),
    (("annotations", 0, "segments_info", 0, "id"), "5", "image 1: the id of a segment is text"),
    (("annotations", 0, "segments_info", 0, "id"), 0, "the id of a segment is a number, 0"),
    (("annotations", 0, "segments_info", 0, "id"), 2**24, "the id of a segment"),
    (("annotations", 0, "segments_info", 0, "id"), 7, "image 1 lists the segment 7 twice"),
    (("annotations", 0, "segments_info", 0, "category_id"), 3, "segment 5 has the category_id 3"),
    (("annotations", 0, "segments_info", 0, "iscrowd"), [], "segment 5: iscrowd is a list"),
]


@pytest.mark.parametrize(("path", "value", "message"), COMMON + OF_INSTANCES)
def test_instances_that_are_refused(tmp_path, path, value, message):
    file = write_json(tmp_path / "x.json", change(instances(), path, value))
    with pytest.raises(UserError, match=message) as error:
        read_instances(file)
    assert file in str(error.value)


@pytest.mark.parametrize(("path", "value", "message"), COMMON + OF_PANOPTIC)
def test_panoptic_annotations_that_are_refused(tmp_path, path, value, message):
    file = write_json(tmp_path / "x.json", change(panoptic(), path, value))
    with pytest.raises(UserError, match=message) as error:
        read_panoptic(file)
    assert file in str(error.value)


@pytest.mark.parametrize("content", [[instances()], "text", 5, None])
def test_json_that_is_no_object(tmp_path, content):
    with pytest.raises(UserError, match=r"x\.json holds .*are an object"):
        read_instances(write_json(tmp_path / "x.json", content))


@pytest.mark.parametrize("text", ["", "{", '{"a": 1, "a": 2}', "[" * 100_000, b"\xff", b"\x1f\x8b"])
def test_no_valid_json(tmp_path, text):
    path = tmp_path / "x.json"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(UserError, match=r"x\.json is not valid JSON"):
        read_instances(path)


@pytest.mark.parametrize("encode", [lambda s: b"\xef\xbb\xbf" + s, gzip.compress])
def test_byte_order_mark_and_gzip(tmp_path, encode):
    path = tmp_path / "x.json"
    path.write_bytes(encode(json.dumps(instances()).encode()))
    assert len(read_instances(path).annotations) == 3


def test_a_file_is_parsed_once_until_it_changes(tmp_path, monkeypatch):
    parsed = []
    loads = json.loads
    monkeypatch.setattr(
        json_files.json, "loads", lambda *a, **k: parsed.append(1) or loads(*a, **k)
    )
    path = tmp_path / "x.json"
    write_json(path, instances())
    assert read_instances(path) is read_instances(path)
    assert json_files.read_json(path)["annotations"][0] is read_instances(path).annotations[0]
    assert len(parsed) == 1
    write_json(path, change(instances(), ("annotations", 0), DELETED))
    assert len(read_instances(path).annotations) == 2 and len(parsed) == 2
    json_files.forget_files()
    assert read_instances(path).annotations and len(parsed) == 3


@pytest.mark.parametrize("ids", [(0, 7), (-3, 2**60), ("x", "y/z"), (1.0, 2.0)])
def test_ids_need_only_agree(tmp_path, ids):
    content = instances()
    for image, id_ in zip(content["images"], ids, strict=True):
        image["id"] = id_
    for annotation in content["annotations"]:
        annotation["image_id"] = ids[annotation["image_id"] - 1]
    by_image = read_instances(write_json(tmp_path / "x.json", content)).by_image()
    assert [len(by_image[id_]) for id_ in ids] == [1, 2]


@pytest.mark.parametrize("value", [DELETED, None])
@pytest.mark.parametrize("key", ["area", "bbox", "iscrowd"])
def test_what_is_missing_is_computed_from_the_mask(tmp_path, key, value):
    content = change(instances(), ("annotations", 0, key), value)
    content = change(content, ("annotations", 2, key), value)
    file = read_instances(write_json(tmp_path / "x.json", content))
    for found, annotation in zip(file.annotations, instances()["annotations"], strict=True):
        assert found[key] == annotation[key]
    expected = {"iscrowd": 0}.get(key, 2)
    assert sum(n for what, n in file.remarks.items() if what.startswith("have no")) == expected


@pytest.mark.parametrize("value", [0, 1, True, False, None, 1.0])
def test_flags(tmp_path, value):
    content = change(panoptic(), ("categories", 1, "isthing"), value)
    file = read_panoptic(write_json(tmp_path / "x.json", content))
    assert file.categories[1]["isthing"] == int(bool(value))


def test_odd_masks_are_counted_and_hold_no_pixel(tmp_path):
    content = instances()
    outside = rectangle(9, 1, 55, 5, 10, 1)
    content["annotations"] += [
        {**outside, "segmentation": [[5.0, 5.0, 9.0, 9.0]]},
        {**outside, "id": 10},
        {
            **outside,
            "id": 11,
            "bbox": [5, 5, 40, 30],
            "segmentation": [[5, 5, 40, 5, 40, 30], [1, 1]],
        },
        {**outside, "id": 12, "segmentation": {"size": [HEIGHT, WIDTH], "counts": [2000]}},
        {
            **outside,
            "id": 13,
            "segmentation": [[0.1, 0.1, 0.9, 0.1, 0.9, 0.7]],
            "bbox": [0, 0, 1, 1],
        },
    ]
    file = read_instances(write_json(tmp_path / "x.json", content))
    counts = {EMPTY: 4, TOO_FEW_POINTS: 2, FRACTIONS: 1, OTHER_BOX: 1}
    assert {what: file.remarks[what] for what in counts} == counts
    areas = [mask_area(a["segmentation"], (HEIGHT, WIDTH)) for a in file.annotations]
    assert areas[3:5] == [0, 0] and 400 < areas[5] < 480 and areas[6:] == [0, 0]
    assert "x.json: " in file.summary()[0] and f"4 {EMPTY}" in file.summary()[0]


def test_fractions_of_the_size_are_refused_where_all_are(tmp_path):
    content = instances()
    del content["annotations"][2]
    for annotation in content["annotations"]:
        annotation["segmentation"] = (np.array(annotation["segmentation"]) / 60).tolist()
    with pytest.raises(UserError, match="annotation 1, like all .*fractions"):
        read_instances(write_json(tmp_path / "x.json", content))


def test_all_crowds_are_refused(tmp_path):
    content = instances()
    for annotation in content["annotations"]:
        annotation["iscrowd"] = 1
    with pytest.raises(UserError, match="all 3 annotations are crowds"):
        read_instances(write_json(tmp_path / "x.json", content))


def test_unusual_segments_are_counted(tmp_path):
    content = panoptic()
    content["annotations"][0]["segments_info"] += [
        {"id": 8, "category_id": 2},
        {"id": 9, "category_id": 1, "iscrowd": True},
    ]
    del content["annotations"][1]
    summary = read_panoptic(write_json(tmp_path / "x.json", content)).summary()[0]
    assert "1 segments are crowds" in summary and "1 stuff segments have a class" in summary
    assert "1 images have no annotation" in summary

"""Metadata are read when they are asked for, once, and never against what was set by hand."""

import copy

import pytest

from mask_former.data.datasets.lazy_metadata import LazyMetadata


class Reader:
    """Counts how often it is asked."""

    def __init__(self, **found):
        self.found, self.calls = found, 0

    def __call__(self):
        self.calls += 1
        return self.found


@pytest.fixture
def read():
    return Reader(stuff_classes=["wall", "sky"], stuff_colors=[[1, 2, 3], [4, 5, 6]])


@pytest.fixture
def metadata(read):
    return LazyMetadata("mine", read, evaluator_type="sem_seg")


def test_what_is_known_needs_no_file(metadata, read):
    assert (metadata.name, metadata.evaluator_type) == ("mine", "sem_seg")
    metadata.set(image_root="images")
    assert metadata.get("image_root") == "images"
    assert not hasattr(metadata, "__array__")  # as protocols ask
    assert read.calls == 0


def test_files_are_read_once(metadata, read):
    assert metadata.stuff_classes == ["wall", "sky"]
    assert metadata.get("stuff_colors")[1] == [4, 5, 6]
    assert metadata.get("json_file") is None and metadata.get("json_file", 3) == 3
    with pytest.raises(AttributeError, match="'json_file' does not exist.*'mine'"):
        _ = metadata.json_file
    assert read.calls == 1


def test_what_is_set_by_hand_stays(metadata, read):
    metadata.stuff_classes = ["floor"]
    assert metadata.stuff_classes == ["floor"] and read.calls == 0
    assert metadata.stuff_colors[0] == [1, 2, 3]
    assert metadata.stuff_classes == ["floor"]
    with pytest.raises(AssertionError, match="cannot be set to a different value"):
        metadata.stuff_classes = ["wall"]


def test_all_of_it(metadata, read):
    assert metadata.as_dict() == {"name": "mine", "evaluator_type": "sem_seg", **read.found}


def test_copies(metadata):
    for twin in (copy.copy(metadata), copy.deepcopy(metadata)):
        assert twin.stuff_classes == ["wall", "sky"]


def test_after_a_failure_it_is_tried_again(read):
    results = iter([FileNotFoundError("gone"), read.found])

    def fail_once():
        result = next(results)
        if isinstance(result, Exception):
            raise result
        return result

    metadata = LazyMetadata("mine", fail_once)
    with pytest.raises(FileNotFoundError):
        _ = metadata.stuff_classes
    assert metadata.stuff_classes == ["wall", "sky"]

"""Arrays of texts and objects are read where they are asked for; nothing is run for them either."""

import os
import pickle

import numpy as np
import pytest

from mask_former.checkpoint.safe_pickle import (
    ADMITTED,
    NUMBERS_AND_TEXTS,
    RefusedError,
    read_pickle,
)

ARRAYS = [
    np.array([["a", "bc"], ["é", ""]]),
    np.array([b"a", b"bc"]),
    np.array(["wall", 3, None, 2.5], dtype=object).reshape(2, 2),
    np.asfortranarray(np.array([["a", 1], ["b", 2]], dtype=object)),
    np.array([], dtype=object),
    np.arange(3.0),
]


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_texts_and_objects(tmp_path, protocol):
    path = tmp_path / "index.pkl"
    path.write_bytes(pickle.dumps({"arrays": ARRAYS}, protocol=protocol))
    for array, expected in zip(
        read_pickle(str(path), arrays=NUMBERS_AND_TEXTS)["arrays"], ARRAYS, strict=True
    ):
        assert array.dtype == expected.dtype and array.tolist() == expected.tolist()
    with pytest.raises(RefusedError, match="numpy.dtype"):
        read_pickle(str(path))


class Call:
    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


def object_array(data):
    """A pickle of an array of two objects that are `data`, whatever that is."""

    class Pretender:
        def __reduce__(self):
            rebuild, arguments, _ = np.empty(2, dtype=object).__reduce__()
            return rebuild, arguments, (1, (2,), np.dtype(object), False, data)

    return pickle.dumps(Pretender())


@pytest.mark.parametrize("data", [b"A" * 16, ["one"], ("one", "two")], ids=["raw", "few", "tuple"])
def test_objects_that_are_no_list_of_their_number(tmp_path, data):
    """NumPy would take the addresses, or read past the end of the list."""
    path = tmp_path / "index.pkl"
    path.write_bytes(object_array(data))
    with pytest.raises(RefusedError, match="an array of"):
        read_pickle(str(path), arrays=NUMBERS_AND_TEXTS)
    path.write_bytes(object_array(["one", "two"]))
    assert read_pickle(str(path), arrays=NUMBERS_AND_TEXTS).tolist() == ["one", "two"]


def test_a_call_in_an_array_of_objects(tmp_path):
    path, trace = tmp_path / "index.pkl", tmp_path / "trace"
    path.write_bytes(pickle.dumps(np.array([Call(trace)], dtype=object)))
    with pytest.raises(RefusedError, match="mkdir"):
        read_pickle(str(path), arrays=NUMBERS_AND_TEXTS)
    assert not trace.exists()


@pytest.mark.parametrize(
    "name", ["_codecs.encode", "numpy.core.multiarray.scalar", "numpy.dtype", "builtins.set"]
)
def test_a_pickle_cannot_change_what_it_calls(tmp_path, name):
    """Neither the attributes that a state sets, nor those of a state in two parts."""
    module, _, function = name.rpartition(".")
    path = tmp_path / "index.pkl"
    for state in ({"__doc__": "changed"}, (None, {"__doc__": "changed"})):
        # The function, its state, and the instruction to give it that.
        pushed = pickle.dumps(state, protocol=0)[:-1]
        path.write_bytes(f"c{module}\n{function}\n".encode() + pushed + b"b.")
        with pytest.raises((RefusedError, TypeError, AttributeError)):
            read_pickle(str(path))
    assert all(value.__doc__ != "changed" for value in ADMITTED.values() if value is not None)

"""Weights of every format are read; whatever wants to run is not."""

import io
import os
import pickle
from collections import OrderedDict

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from mask_former.checkpoint.read import read_weights_file

ARRAYS = {
    "a.weight": np.arange(6, dtype=np.float32).reshape(2, 3),
    "a.fortran": np.asfortranarray(np.arange(6, dtype=np.float64).reshape(2, 3)),
    "a.big_endian": np.array([1.5, -2.0], dtype=">f4"),
    "a.half": np.array([0.25], dtype=np.float16),
    "a.mask": np.array([True, False]),
    "a.count": np.array(7),  # no dimension
    "a.scalar": np.int64(8),
    "a.empty": np.zeros((0, 2), dtype=np.float32),
}


def assert_equals_arrays(weights):
    assert list(weights) == list(ARRAYS)
    for name, tensor in weights.items():
        expected = np.asarray(ARRAYS[name])
        assert tensor.numpy().dtype == expected.dtype.newbyteorder("=")
        np.testing.assert_array_equal(tensor.numpy(), expected, strict=False)
        assert tensor.shape == expected.shape


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_pickles_of_every_protocol(tmp_path, protocol):
    path = tmp_path / "model.pkl"
    content = {"model": OrderedDict(ARRAYS), "__author__": "ours", "labels": {1, 2}}
    path.write_bytes(pickle.dumps(content, protocol=protocol))
    read = read_weights_file(str(path))
    assert_equals_arrays(read["model"])
    assert read["__author__"] == "ours" and read["labels"] == {1, 2}


class NumPy1(pickle._Pickler):
    """Writes the module names that NumPy 1 had."""

    def save_global(self, obj, name=None):
        module = getattr(obj, "__module__", "")
        if not module.startswith("numpy._core"):
            return super().save_global(obj, name)
        line = f"c{module.replace('_core', 'core')}\n{name or obj.__name__}\n"
        self.write(line.encode())
        self.memoize(obj)

    dispatch = {**pickle._Pickler.dispatch, type(np.array): save_global}


def test_pickles_of_numpy_1(tmp_path):
    buffer = io.BytesIO()
    NumPy1(buffer, protocol=2).dump({"model": ARRAYS, "__author__": "ours"})
    assert b"numpy.core" in buffer.getvalue() and b"numpy._core" not in buffer.getvalue()
    path = tmp_path / "model.pkl"
    path.write_bytes(buffer.getvalue())
    assert_equals_arrays(read_weights_file(str(path))["model"])


def test_pickles_of_python_2(tmp_path):
    # {"model": {"a.b": array([1.0, 2.0], "<f4")}}, with the bytes of the array as a Python 2 str.
    data = np.array([1.0, 200.0], dtype="<f4").tobytes()
    array = (
        b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntU\x01btR"
        b"(I1\n(I2\ntcnumpy\ndtype\n(U\x02f4I0\nI1\ntR(I3\nU\x01<NNNI-1\nI-1\nI0\ntbI00\n"
        b"U" + bytes([len(data)]) + data + b"tb"
    )
    path = tmp_path / "model.pkl"
    path.write_bytes(b"\x80\x02}U\x05model}U\x03a.b" + array + b"ss.")
    assert read_weights_file(str(path))["model"]["a.b"].tolist() == [1.0, 200.0]


@pytest.mark.parametrize("wrap", [lambda w: w, lambda w: {"model": w, "iteration": 3}])
@pytest.mark.parametrize("suffix", [".pth", ".pt"])
def test_what_torch_saved(tmp_path, wrap, suffix):
    path = str(tmp_path / f"model{suffix}")
    torch.save(wrap({"a.weight": torch.ones(2)}), path)
    read = read_weights_file(path)
    assert torch.equal(read["model"]["a.weight"], torch.ones(2))
    assert read.get("iteration", 3) == 3


def test_safetensors(tmp_path):
    path = str(tmp_path / "model.safetensors")
    save_file({"a.weight": torch.ones(2)}, path)
    assert torch.equal(read_weights_file(path)["model"]["a.weight"], torch.ones(2))


@pytest.mark.parametrize("wrap", [lambda w: w, lambda w: {"blobs": w}])
def test_weights_of_caffe2(tmp_path, wrap):
    path = tmp_path / "R-50.pkl"
    weights = {"conv1_w": np.ones(2), "conv1_w_momentum": np.ones(2)}
    path.write_bytes(pickle.dumps(wrap(weights)))
    read = read_weights_file(str(path))
    assert list(read["model"]) == ["conv1_w"] and read["__author__"] == "Caffe2"


class Call:
    """Pickled, it calls `function(*args)` where it is unpickled."""

    def __init__(self, function, *args):
        self.function, self.args = function, args

    def __reduce__(self):
        return self.function, self.args


def evil_pickles(trace):
    mkdir = Call(os.mkdir, str(trace))
    yield "call", pickle.dumps({"model": {"a.b": mkdir}})
    for protocol in (0, 2, 4):
        yield f"call{protocol}", pickle.dumps(mkdir, protocol=protocol)
    yield "eval", pickle.dumps(Call(eval, f"__import__('os').mkdir({str(trace)!r})"))
    # A name inside an admitted one; Python 2's old opcode for an instance; objects in an array.
    yield "dotted", b"\x80\x04\x8c\x0bcollections\x8c\x14OrderedDict.__init__\x93."
    yield "instance", f"(S'{trace}'\nios\nmkdir\n.".encode()
    yield "array of objects", pickle.dumps({"a.b": np.array([mkdir], dtype=object)})
    # Raw addresses, as an array of objects.
    array = b"cnumpy\nndarray\n((I1\ntcnumpy\ndtype\n(S'O8'\ntRS'AAAAAAAA'\ntR."
    yield "addresses", array


@pytest.mark.filterwarnings("ignore:Detected pickle protocol 4")
@pytest.mark.parametrize("case", [name for name, _ in evil_pickles("")])
@pytest.mark.parametrize("suffix", [".pkl", ".pth"])
def test_a_file_that_wants_to_run_code_is_refused(tmp_path, case, suffix):
    trace = tmp_path / "trace"
    path = tmp_path / f"evil{suffix}"
    path.write_bytes(dict(evil_pickles(trace))[case])
    with pytest.raises(ValueError, match=f"{path} ") as caught:
        read_weights_file(str(path))
    assert not trace.exists()
    if suffix == ".pkl":
        assert "nothing in a weights file is run" in str(caught.value)


def test_what_torch_saved_is_refused_by_the_name_of_what_it_runs(tmp_path):
    trace = tmp_path / "trace"
    path = str(tmp_path / "evil.pth")
    torch.save({"model": {"a.b": Call(os.mkdir, str(trace))}}, path)
    with pytest.raises(ValueError, match=rf"{path} is not loaded: it refers to \w+\.mkdir"):
        read_weights_file(path)
    assert not trace.exists()


def test_the_evil_files_would_run(tmp_path):
    # Otherwise the tests above prove nothing.
    for name, data in evil_pickles(tmp_path / "trace"):
        if name.startswith(("call", "eval", "instance", "array of objects")):
            pickle.loads(data)
            (tmp_path / "trace").rmdir()


@pytest.mark.parametrize("suffix", [".pkl", ".pth", ".safetensors"])
@pytest.mark.parametrize("keep", [0.0, 0.5, 0.99])
def test_a_truncated_file_is_named(tmp_path, suffix, keep):
    path = tmp_path / f"model{suffix}"
    weights = {"a.weight": torch.ones(1000)}
    if suffix == ".pkl":
        path.write_bytes(pickle.dumps({k: v.numpy() for k, v in weights.items()}))
    elif suffix == ".pth":
        torch.save(weights, path)
    else:
        save_file(weights, path)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * keep)])
    with pytest.raises(ValueError, match=f"{path} cannot be read; is it complete"):
        read_weights_file(str(path))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([1, 2], "holds a list, not a dictionary"),
        ({"model": 3}, "'model' is a int"),
        ({"model": {"a.b": "text"}}, "'a.b' is a str, not a tensor"),
        ({"model": {3: np.ones(2)}}, "names a weight 3, which is not a string"),
        ({"blobs": None}, "'model' is a NoneType"),
        ({"a.b": np.ones(2, np.longdouble)}, "'a.b' is an array of float128, not a tensor"),
    ],
)
def test_a_file_without_weights(tmp_path, content, message):
    path = tmp_path / "model.pkl"
    path.write_bytes(pickle.dumps(content))
    with pytest.raises(ValueError, match=f"{path}:? {message}"):
        read_weights_file(str(path))


def test_an_unknown_suffix_is_answered_with_the_known():
    with pytest.raises(ValueError, match="model.onnx: .*.pkl, .pth, .pt, .safetensors"):
        read_weights_file("model.onnx")

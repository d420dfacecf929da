"""Small pickles that would keep a reader busy for ages, and large honest ones."""

import io
import pickle
import zipfile

import numpy as np
import pytest
import torch

from mask_former.checkpoint.pickle_limits import ExcessiveError, check_pickle
from mask_former.checkpoint.read import read_weights_file
from mask_former.errors import UserError

PRIME = 2**61 - 1  # the hash of an integer is its remainder


def dictionary(*steps):
    """A pickle of a dictionary, whose keys and values `steps` put on the stack."""
    return b"\x80\x04(" + b"".join(steps) + b"d."


def doubled(levels):
    """A tuple that holds twice a tuple that holds twice ..."""
    step = b"0h%ch%c\x86\x94"
    return b")\x94" + b"".join(step % (i, i) for i in range(levels))


ATTACKS = {
    "a key of shared tuples": dictionary(doubled(40), b"N"),
    "the same without a memo": dictionary(b")" + b"2\x86" * 40, b"N"),
    "a set of shared tuples": b"\x80\x04\x8f(" + doubled(40) + b"\x90.",
    "a long tuple, often": dictionary(b"(" + b"K\x00" * 9999 + b"t\x94N" + b"h\x00N" * 9999),
    "numbers of one hash": dictionary(
        *(b"\x8a\x0a" + (i * PRIME).to_bytes(10, "little") + b"N" for i in range(1, 60_000))
    ),
    "a tuple too deep to hash": dictionary(b")" + b"\x85" * 100_000, b"N"),
}
HONEST = {
    "weights": {f"backbone.{i}.weight": np.zeros((2, 3), np.float32) for i in range(5000)},
    "shapes": [(1, 2, 3), ((4, 5), (6, 7))] * 20_000,
    "a generator's state": {"python": (3, tuple(range(2**32 - 625, 2**32)), None)},
    "large numbers": [2**100 + i for i in range(1000)],
    "nothing": {},
}


def archive(data):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as content:
        content.writestr("model/data.pkl", data)
        content.writestr("model/version", "3\n")
    return file.getvalue()


def legacy(data):
    """The fourth pickle holds the weights."""
    start = (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True})
    return b"".join(pickle.dumps(part, protocol=2) for part in start) + data


@pytest.mark.parametrize("attack", ATTACKS.values(), ids=ATTACKS.keys())
@pytest.mark.parametrize(
    ("suffix", "wrapped"), [(".pkl", bytes), (".pth", archive), (".pth", legacy)]
)
def test_a_pickle_that_asks_for_ages(tmp_path, attack, suffix, wrapped):
    path = tmp_path / f"weights{suffix}"
    path.write_bytes(wrapped(attack))
    with pytest.raises(UserError, match=rf"weights\{suffix} is not loaded: .*ages"):
        read_weights_file(str(path))


@pytest.mark.parametrize("honest", HONEST.values(), ids=HONEST.keys())
@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_honest_pickles(honest, protocol):
    check_pickle(io.BytesIO(pickle.dumps(honest, protocol=protocol)))


def test_a_training_checkpoint(tmp_path):
    model = torch.nn.Sequential(*(torch.nn.Linear(2, 2) for _ in range(500)))
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.zeros(1, 2)).sum().backward()
    optimizer.step()
    content = {"model": model.state_dict(), "trainer": {"optimizer": optimizer.state_dict()}}
    for new in (True, False):
        path = tmp_path / "model.pth"
        torch.save(content, path, _use_new_zipfile_serialization=new)
        assert len(read_weights_file(str(path))["model"]) == 1000


def test_what_is_not_a_pickle_is_no_attack():
    for broken in (b"", b"no pickle", b"0.", b"t.", b"\x80\x04h"):
        with pytest.raises((ValueError, IndexError)) as error:
            check_pickle(io.BytesIO(broken))
        assert not isinstance(error.value, ExcessiveError)

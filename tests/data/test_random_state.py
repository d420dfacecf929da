import random

import numpy as np
import pytest
import torch

from mask_former.data.random_state import (
    get_random_state,
    preserved_random_state,
    random_state_of,
    set_random_state,
)


def draw():
    return random.random(), np.random.rand(), np.random.randn(), torch.rand(1).item()


def test_random_state_is_restored():
    state = get_random_state()
    first = draw()
    assert draw() != first
    set_random_state(state)
    assert draw() == first


def test_random_state_can_be_read_without_unpickling_objects(tmp_path):
    state = get_random_state()
    first = draw()
    torch.save(state, tmp_path / "state.pth")
    set_random_state(torch.load(tmp_path / "state.pth", weights_only=True))
    assert draw() == first


@pytest.mark.parametrize("block", [preserved_random_state, lambda: random_state_of(1, 2)])
def test_random_state_is_put_back_even_after_an_error(block):
    state = get_random_state()
    first = draw()
    set_random_state(state)
    with pytest.raises(KeyError), block():
        draw()
        raise KeyError
    assert draw() == first


def test_random_numbers_depend_on_seed_and_position():
    def drawn(seed, position):
        with random_state_of(seed, position):
            return draw()

    assert drawn(1, 2) == drawn(1, 2)
    different = [drawn(1, 2), drawn(1, 3), drawn(2, 2), drawn(2, 1), drawn(0, 0)]
    for numbers in zip(*different, strict=True):
        assert len(set(numbers)) == len(different)

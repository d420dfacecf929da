"""Estimates of a training's memory, from shapes alone."""

import pytest
import torch
from torch.autograd.graph import saved_tensors_hooks

from mask_former.engine import load_config
from mask_former.engine.memory import device_memory, training_memory
from mask_former.engine.model import build_model

RECIPES = ("maskformer_panoptic_quickstart", "mask2former_panoptic")


def config(recipe):
    return load_config(f"configs/shapes/{recipe}.yaml", ["MODEL.SEM_SEG_HEAD.NUM_CLASSES", "3"])


@pytest.mark.parametrize("recipe", RECIPES)
def test_it_is_what_a_real_forward_pass_keeps(recipe):
    cfg = config(recipe)
    model = build_model(cfg).train()
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept = {}

    def keep(tensor):
        kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with saved_tensors_hooks(keep, lambda tensor: tensor):
        model.predict(torch.rand(1, 3, 64, 96))
    real = sum(t.untyped_storage().nbytes() for key, t in kept.items() if key not in weights)
    memory = training_memory(cfg, (64, 96), mixed=False)
    assert memory.image / 2 == pytest.approx(real, rel=0.1)
    parameters = sum(p.numel() for p in model.parameters())
    assert memory.fixed == 16 * parameters + 1500 * 2**20


def test_it_grows_with_the_image_and_shrinks_in_16_bits():
    cfg = config(RECIPES[0])
    small, large = (training_memory(cfg, size, mixed=True) for size in ((64, 64), (128, 128)))
    assert small.fixed == large.fixed
    # What belongs to the queries does not grow.
    assert 3 < large.image / small.image < 4.5
    full = training_memory(cfg, (64, 64), mixed=False)
    assert small.image / full.image == pytest.approx(0.65, rel=1e-4)


def test_a_model_without_queries_takes_less():
    sizes = [
        training_memory(config(recipe), (64, 64), mixed=True).image
        for recipe in ("per_pixel_baseline", "maskformer_semantic")
    ]
    assert 0 < sizes[0] < sizes[1]


def test_images_are_padded_as_in_training():
    cfg = config(RECIPES[0])
    assert training_memory(cfg, (65, 64), mixed=False) == training_memory(
        cfg, (96, 64), mixed=False
    )


def test_this_machine_has_memory():
    assert 2**26 < device_memory(torch.device("cpu")) < 2**45

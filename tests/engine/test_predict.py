import numpy as np
import pytest
import torch
from torch import nn

from mask_former.engine.config import get_cfg
from mask_former.engine.predict import DefaultPredictor, select_task


class Recorder(nn.Module):
    """Notes what it is given and under which circumstances."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(2, 2)

    def forward(self, inputs):
        self.inputs = inputs
        self.grad = torch.is_grad_enabled()
        self.dtype = self.layer(torch.ones(1, 2)).dtype
        return [{"number": i} for i in range(len(inputs))]


def bgr(height, width):
    return np.full((height, width, 3), (1, 2, 3), np.uint8)


@pytest.mark.parametrize(("input_format", "first"), [("RGB", 3), ("BGR", 1)])
def test_channels_come_in_the_models_order(input_format, first):
    model = Recorder()
    DefaultPredictor(model=model, input_format=input_format)(bgr(4, 6))
    image = model.inputs[0]["image"]
    assert image.dtype == torch.uint8 and image.shape == (3, 4, 6)
    assert image[:, 0, 0].tolist() == [first, 2, 4 - first]


def test_images_are_resized_and_results_asked_for_at_their_own_size():
    model = Recorder()
    predictor = DefaultPredictor(model=model, min_size=8, max_size=20)
    assert predictor.batch([bgr(16, 24), bgr(10, 50)]) == [{"number": 0}, {"number": 1}]
    small, wide = model.inputs
    assert small["image"].shape == (3, 8, 12) and (small["height"], small["width"]) == (16, 24)
    assert wide["image"].shape == (3, 4, 20) and (wide["height"], wide["width"]) == (10, 50)


def test_the_model_is_in_eval_mode_without_gradients():
    model = Recorder().train()
    DefaultPredictor(model=model)(bgr(4, 4))
    assert not model.training and not model.grad


@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
def test_precision(dtype):
    model = Recorder()
    DefaultPredictor(model=model, autocast=dtype)(bgr(4, 4))
    assert model.dtype == (dtype or torch.float32)


def test_an_image_that_cv2_has_not_read():
    with pytest.raises(ValueError, match="this one is NoneType; cv2.imread gives None"):
        DefaultPredictor(model=Recorder())(None)


@pytest.mark.parametrize("image", [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3), np.float32)])
def test_what_is_no_image(image):
    with pytest.raises(ValueError, match=r"uint8 \(H, W, 3\)"):
        DefaultPredictor(model=Recorder())(image)


def test_a_config_that_cannot_predict():
    cfg = get_cfg()
    cfg.MODEL.DEVICE, cfg.MODEL.WEIGHTS = "cpu", ""
    with pytest.raises(ValueError, match="MODEL.WEIGHTS"):
        DefaultPredictor(cfg)
    with pytest.raises(ValueError, match="INPUT.FORMAT is 'YUV'"):
        DefaultPredictor(model=Recorder(), input_format="YUV")


def switches(cfg):
    test = cfg.MODEL.MASK_FORMER.TEST
    return test.PANOPTIC_ON, test.SEMANTIC_ON, test.INSTANCE_ON


def test_the_first_task_that_is_on_is_taken_and_the_others_switched_off():
    cfg = get_cfg()
    assert select_task(cfg) == "semantic"
    cfg.MODEL.MASK_FORMER.TEST.INSTANCE_ON = cfg.MODEL.MASK_FORMER.TEST.PANOPTIC_ON = True
    assert select_task(cfg) == "panoptic"
    assert switches(cfg) == (True, False, False)
    assert select_task(cfg, "instance") == "instance"
    assert switches(cfg) == (False, False, True)
    cfg.MODEL.MASK_FORMER.TEST.INSTANCE_ON = False
    with pytest.raises(ValueError, match="switches on none"):
        select_task(cfg)


def test_a_threshold_replaces_that_of_panoptic_and_means_nothing_to_semantic():
    cfg = get_cfg()
    select_task(cfg, "panoptic", 0.7)
    assert cfg.MODEL.MASK_FORMER.TEST.OBJECT_MASK_THRESHOLD == 0.7
    select_task(cfg, "panoptic")
    assert cfg.MODEL.MASK_FORMER.TEST.OBJECT_MASK_THRESHOLD == 0.7
    with pytest.raises(ValueError, match="no confidence threshold"):
        select_task(cfg, "semantic", 0.7)

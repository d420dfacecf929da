"""How often a training step makes the host wait for the GPU: for the assignment and the losses."""

import warnings
from pathlib import Path

import pytest
import torch
from detectron2.modeling import build_model
from detectron2.structures import BitMasks, Instances
from torch.profiler import ProfilerActivity, profile

from mask_former.engine import load_config
from mask_former.engine.optimizer import build_optimizer
from mask_former.engine.step import TrainStep

CONFIGS = Path(__file__).parents[1] / "configs"
RECIPES = {
    "MaskFormer": "ade20k-150/maskformer_R50_bs16_160k.yaml",
    "Mask2Former": "mask2former/ade20k/semantic-segmentation/maskformer2_R50_bs16_160k.yaml",
}
# Calls of the CUDA runtime with which the host waits.
WAITS = ("cudaStreamSynchronize", "cudaDeviceSynchronize", "cudaEventSynchronize", "cudaMemcpy")

pytestmark = pytest.mark.gpu


@pytest.fixture(params=RECIPES)
def step(request):
    recipe = CONFIGS / RECIPES[request.param]
    cfg = load_config(str(recipe), ["MODEL.DEVICE", "cuda", "MODEL.WEIGHTS", ""])
    model = build_model(cfg).train()
    return TrainStep(
        model, build_optimizer(cfg, model), device_type="cuda", amp_dtype=torch.bfloat16
    )


def make_batch():
    def record(segments):
        instances = Instances((128, 160))
        instances.gt_classes = torch.arange(segments)
        instances.gt_masks = BitMasks(torch.rand(segments, 128, 160) < 0.3)
        return {"image": (255 * torch.rand(3, 128, 160)).byte(), "instances": instances}

    return [record(5), record(0), record(3)]


def train(step):
    step.forward_backward(make_batch())
    step.update()


def test_the_host_waits_at_most_twice_a_step(step):
    for _ in range(3):  # memory is pinned and algorithms are chosen
        train(step)
    torch.cuda.synchronize()

    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            train(step)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    waits = [f"{w.filename}:{w.lineno}" for w in caught if "synchroniz" in str(w.message)]
    assert 1 <= len(waits) <= 2, waits

    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as profiler:
        train(step)
    calls = {e.key: e.count for e in profiler.key_averages() if e.key in WAITS}
    # The profiler itself waits for the device when it stops.
    calls["cudaDeviceSynchronize"] = max(calls.get("cudaDeviceSynchronize", 0) - 1, 0)
    assert sum(calls.values()) <= 2, calls

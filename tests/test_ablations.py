"""The paper's ablations are config keys: one training step with each, and what it changes."""

from pathlib import Path

import pytest
import torch
from detectron2.modeling import build_model
from detectron2.structures import BitMasks, Instances

from mask_former.engine import load_config
from tests.engine import tiny

SHAPES = Path(__file__).parents[1] / "configs/shapes"
K = tiny.NUM_CLASSES
MASK_FORMER, HEAD = "MODEL.MASK_FORMER", "MODEL.SEM_SEG_HEAD"
ENCODER = {f"{HEAD}.PIXEL_DECODER_NAME": "TransformerEncoderPixelDecoder"}
BASELINE = {"MODEL.META_ARCHITECTURE": "SemanticSegmentor", f"{HEAD}.NAME": "PerPixelBaselineHead"}


def make_model(tmp_path, options):
    options = {key.replace(".", "__"): value for key, value in options.items()}
    cfg = tiny.tiny_cfg(tmp_path, MODEL__MASK_FORMER__TEST__PANOPTIC_ON=False, **options)
    torch.manual_seed(0)
    return build_model(cfg)


def make_batch():
    """Two images, one segment a class; one pixel row without a class."""
    generator = torch.Generator().manual_seed(0)
    batch = []
    for i, (height, width) in enumerate([(64, 96), (32, 64)]):
        sem_seg = torch.randint(3 + i, (height // 16, width // 16), generator=generator)
        sem_seg = sem_seg.repeat_interleave(16, 0).repeat_interleave(16, 1)
        sem_seg[0] = 255
        labels = sem_seg.unique()[:-1]
        masks = BitMasks(sem_seg == labels[:, None, None])
        instances = Instances((height, width), gt_classes=labels, gt_masks=masks)
        image = torch.randint(256, (3, height, width), generator=generator, dtype=torch.uint8)
        batch.append(
            {"image": image, "sem_seg": sem_seg, "instances": instances, "valid": sem_seg < 255}
        )
    return batch


def train_step(model):
    """Losses of one step; every parameter gets a gradient, and the step lowers the loss."""
    batch = make_batch()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4)
    torch.manual_seed(1)  # of dropout
    losses = model.train()(batch)
    before = sum(losses.values())
    before.backward()
    unused = [name for name, p in model.named_parameters() if p.grad is None]
    assert not unused
    optimizer.step()
    torch.manual_seed(1)
    assert sum(model(batch).values()) < before
    model.eval()
    with torch.no_grad():
        assert [x["sem_seg"].shape for x in model(batch)] == [(K, 64, 96), (K, 32, 64)]
    return losses


@pytest.mark.parametrize(
    "options",
    [
        {},
        {f"{MASK_FORMER}.DEC_LAYERS": 1},
        {f"{MASK_FORMER}.DEC_LAYERS": 3},
        {f"{MASK_FORMER}.NUM_OBJECT_QUERIES": 100},
        {f"{MASK_FORMER}.NUM_OBJECT_QUERIES": 1},
        {f"{MASK_FORMER}.PRE_NORM": True},
        {f"{MASK_FORMER}.ENC_LAYERS": 2},
        {f"{MASK_FORMER}.ENC_LAYERS": 2, f"{MASK_FORMER}.PRE_NORM": True},
        {f"{MASK_FORMER}.ENFORCE_INPUT_PROJ": True},
        {f"{MASK_FORMER}.MATCHER": "fixed", f"{MASK_FORMER}.NUM_OBJECT_QUERIES": K},
        {f"{MASK_FORMER}.IGNORE_VOID": True},
        {f"{MASK_FORMER}.MASK_WEIGHT": 5.0},
        {f"{MASK_FORMER}.DICE_WEIGHT": 5.0},
        {f"{MASK_FORMER}.NO_OBJECT_WEIGHT": 1.0},
        {f"{MASK_FORMER}.HIDDEN_DIM": 64, f"{HEAD}.MASK_DIM": 16},
        {f"{MASK_FORMER}.TRANSFORMER_IN_FEATURE": "res3"},
        {f"{MASK_FORMER}.TRANSFORMER_IN_FEATURE": "pixel_embedding"},
        {f"{HEAD}.NORM": ""},
        {f"{HEAD}.IN_FEATURES": ["res3", "res4"]},
        {**ENCODER, f"{HEAD}.TRANSFORMER_ENC_LAYERS": 2},
        {
            **ENCODER,
            f"{HEAD}.TRANSFORMER_ENC_LAYERS": 1,
            f"{MASK_FORMER}.TRANSFORMER_IN_FEATURE": "transformer_encoder",
        },
    ],
    ids=lambda options: ",".join(f"{k.split('.')[-1]}={v}" for k, v in options.items()) or "paper",
)
def test_mask_former(tmp_path, options):
    losses = train_step(make_model(tmp_path, options))
    layers = options.get(f"{MASK_FORMER}.DEC_LAYERS", 2)
    assert losses.keys() == {
        f"loss_{kind}{suffix}"
        for kind in ("ce", "mask", "dice")
        for suffix in ["", *(f"_{i}" for i in range(layers - 1))]
    }


def test_without_deep_supervision_the_last_layer_alone_has_losses(tmp_path):
    full = train_step(make_model(tmp_path, {}))
    last = train_step(make_model(tmp_path, {f"{MASK_FORMER}.DEEP_SUPERVISION": False}))
    assert last.keys() == {"loss_ce", "loss_mask", "loss_dice"}
    torch.testing.assert_close(last, {name: full[name] for name in last})


@pytest.mark.parametrize("kind", ["mask", "dice"])
def test_a_mask_loss_can_be_switched_off(tmp_path, kind):
    losses = train_step(make_model(tmp_path, {f"{MASK_FORMER}.{kind.upper()}_WEIGHT": 0.0}))
    off = {name for name, loss in losses.items() if loss == 0}
    assert off == {f"loss_{kind}", f"loss_{kind}_0"}


@pytest.mark.parametrize("name", ["BasePixelDecoder", "TransformerEncoderPixelDecoder"])
def test_per_pixel_baseline(tmp_path, name):
    options = {**BASELINE, f"{HEAD}.PIXEL_DECODER_NAME": name, f"{HEAD}.TRANSFORMER_ENC_LAYERS": 1}
    assert train_step(make_model(tmp_path, options)).keys() == {"loss_sem_seg"}


@pytest.mark.parametrize("deep_supervision", [True, False])
def test_per_pixel_baseline_plus(tmp_path, deep_supervision):
    options = {**BASELINE, f"{HEAD}.NAME": "PerPixelBaselinePlusHead"}
    options[f"{MASK_FORMER}.NUM_OBJECT_QUERIES"] = K
    options[f"{MASK_FORMER}.DEEP_SUPERVISION"] = deep_supervision
    losses = train_step(make_model(tmp_path, options))
    assert losses.keys() == {"loss_sem_seg", "loss_sem_seg_0"} or not deep_supervision
    assert losses.keys() == {"loss_sem_seg"} or deep_supervision


RECIPES = [
    "per_pixel_baseline",
    "per_pixel_baseline_plus",
    "maskformer_semantic_fixed",
    "maskformer_semantic",
]


@pytest.mark.parametrize("name", RECIPES)
def test_recipe_of_the_comparison(name):
    torch.manual_seed(0)
    train_step(build_model(load_config(str(SHAPES / f"{name}.yaml"))))


def test_the_recipes_differ_in_what_they_compare():
    cfgs = [load_config(str(SHAPES / f"{name}.yaml")) for name in RECIPES]
    for cfg in cfgs:
        cfg.OUTPUT_DIR = cfg.MODEL.META_ARCHITECTURE = cfg.MODEL.SEM_SEG_HEAD.NAME = ""
        cfg.MODEL.MASK_FORMER.MATCHER = ""
        cfg.MODEL.MASK_FORMER.NUM_OBJECT_QUERIES = 0
    assert all(cfg == cfgs[0] for cfg in cfgs)

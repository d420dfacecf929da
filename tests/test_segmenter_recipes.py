"""Segmenter's published recipes: every key, the names of the weights, and that they run."""

import json
import math
from pathlib import Path

import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog

from mask_former import model_zoo
from mask_former.checkpoint.segmenter import from_segmenter
from mask_former.engine import build_model, load_config
from mask_former.engine.config import get_cfg
from tests.checkpoint.segmenter_files import published_shapes
from tests.test_recipes import ROOT, fill, flat

REFERENCE = Path(__file__).parent / "reference"
ROWS = {
    "segmenter/" + row["url"].split("/checkpoints/")[1].rsplit("/", 1)[0]: row
    for row in json.loads((REFERENCE / "segmenter_zoo.json").read_text())
}
# What the published names of backbones stand for. ViT-B/8 has no published start at 384 pixels.
BACKBONES = {
    "vit_tiny_patch16_384": "tiny",
    "vit_small_patch16_384": "small",
    "vit_base_patch16_384": "base",
    "vit_base_patch8_384": "base",
    "vit_large_patch16_384": "large",
    "deit_base_distilled_patch16_384": "base",
}
# Training images; longest test side; name of the training set.
DATA = {
    "ade20k": (20210, 2048, "ade20k_sem_seg"),
    "pascal_context": (4996, 4160, "pascal_context_sem_seg"),
    "cityscapes": (2975, 2048, "cityscapes_fine_sem_seg"),
}
RATIOS = (0.5, 0.75, 1, 1.25, 1.5, 1.75)
# Counted from the names of the weights, in millions; all of them are in the published files.
PARAMETERS = {
    "ade20k/seg_tiny_mask": 6.91,
    "ade20k/seg_small_mask": 26.42,
    "ade20k/seg_base_mask": 103.27,
    "ade20k/seg_base_patch8": 89.24,
    "ade20k/seg_large_mask_640": 334.26,
    "ade20k/seg_base_deit_linear": 88.09,
    "ade20k/seg_base_deit_mask": 104.04,
    "pascal_context/seg_large_mask": 333.45,
    "cityscapes/seg_large_mask": 322.25,
}


def crop_of(name):
    return 640 if name.endswith("_640") else ROWS[name]["recipe_defaults"]["crop"]


def expected_keys(name):
    """The facts, as the keys in which a recipe differs from the defaults."""
    row, facts, crop = ROWS[name], ROWS[name]["recipe_defaults"], crop_of(name)
    images, longest, data = DATA[row["dataset"]]
    short, batch = facts["im_size"], facts["batch_size"]
    is_deit = row["backbone"].startswith("deit")
    mean, std = ([0.5] * 3, [0.5] * 3)
    if is_deit:
        mean, std = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
    patch = 8 if "patch8" in row["backbone"] else 16
    keys = {
        "MODEL.META_ARCHITECTURE": "SemanticSegmentor",
        "MODEL.PIXEL_MEAN": [round(255 * x, 2) for x in mean],
        "MODEL.PIXEL_STD": [round(255 * x, 2) for x in std],
        "MODEL.BACKBONE.NAME": "ViTEncoder",
        "MODEL.BACKBONE.FREEZE_AT": 0,
        "MODEL.VIT.NAME": "vit_base_patch8_224" if patch == 8 else row["backbone"],
        "MODEL.VIT.PRETRAINED": True,
        "MODEL.VIT.IMG_SIZE": crop,
        "MODEL.VIT.PATCH_SIZE": patch,
        "MODEL.VIT.DROP_PATH_RATE": facts["drop_path_encoder"],
        "MODEL.VIT.NORM_EPS": 1e-5,
        "MODEL.VIT.INTERPOLATION": "bilinear",
        "MODEL.SEM_SEG_HEAD.NAME": "SegmenterHead",
        "MODEL.SEM_SEG_HEAD.NUM_CLASSES": facts["classes"],
        "MODEL.SEGMENTER.DECODER_NAME": {
            "linear": "LinearDecoder",
            "mask_transformer": "MaskTransformer",
        }[row["decoder"]],
        "MODEL.SEGMENTER.DEC_LAYERS": 1 if row["figures"]["params_M"] == 322 else 2,
        "MODEL.SEGMENTER.DROPOUT": facts["dropout_decoder"],
        "DATASETS.TRAIN": [f"{data}_train"],
        "DATASETS.TEST": [f"{data}_val"],
        "INPUT.DATASET_MAPPER_NAME": "mask_former_semantic",
        "INPUT.FORMAT": "RGB",
        "INPUT.MIN_SIZE_TRAIN": [short // 2, short * 2],
        "INPUT.MIN_SIZE_TRAIN_SAMPLING": "range",
        "INPUT.MAX_SIZE_TRAIN": longest * 2,
        "INPUT.MIN_SIZE_TEST": short,
        "INPUT.MAX_SIZE_TEST": longest,
        "INPUT.CROP.ENABLED": True,
        "INPUT.CROP.TYPE": "absolute",
        "INPUT.CROP.SIZE": [crop, crop],
        "INPUT.CROP.SINGLE_CATEGORY_MAX_AREA": 0.75,
        "INPUT.COLOR_AUG_SSD": True,
        "INPUT.SIZE_DIVISIBILITY": crop,
        "SOLVER.OPTIMIZER": "SGD",
        "SOLVER.MOMENTUM": 0.9,
        "SOLVER.NESTEROV": True,
        "SOLVER.BACKBONE_MULTIPLIER": 1.0,
        "SOLVER.WEIGHT_DECAY": facts["weight_decay"],
        "SOLVER.WEIGHT_DECAY_NORM": 0.0,
        "SOLVER.WEIGHT_DECAY_EMBED": 0.0,
        "SOLVER.IMS_PER_BATCH": batch,
        "SOLVER.BASE_LR": facts["lr"],
        "SOLVER.BASE_LR_END": 1e-5,
        "SOLVER.LR_SCHEDULER_NAME": "WarmupPolyLR",
        "SOLVER.POLY_LR_POWER": 0.9,
        "SOLVER.MAX_ITER": facts["epochs"] * images // batch,
        "SOLVER.WARMUP_FACTOR": 1.0,
        "SOLVER.WARMUP_ITERS": 0,
        "TEST.EVAL_PERIOD": facts["eval_freq"] * images // batch,
        "TEST.WINDOW.SIZE": crop,
        "TEST.WINDOW.STRIDE": crop if row["dataset"] == "ade20k" else facts["stride"],
        "TEST.AUG.MIN_SIZES": [int(short * ratio) for ratio in RATIOS],
        "TEST.AUG.MAX_SIZE": int(longest * max(RATIOS)),
        "TEST.AUG.PROBABILITIES": True,
    }
    return keys


def test_all_recipes_are_there():
    folder = ROOT / "configs" / "segmenter"
    files = {
        file.relative_to(ROOT / "configs").with_suffix("").as_posix()
        for file in folder.rglob("*.yaml")
        if not file.name.startswith("Base")
    }
    assert files == ROWS.keys() == {f"segmenter/{name}" for name in PARAMETERS}


@pytest.mark.parametrize("name", ROWS)
def test_every_key(name):
    keys = expected_keys(name)
    expected = flat(get_cfg())
    assert keys.keys() <= expected.keys()
    assert flat(model_zoo.get_config(name)) == expected | keys


@pytest.mark.parametrize("name", ROWS)
def test_data_sets_are_registered_and_evaluated(name):
    cfg = model_zoo.get_config(name)
    assert {*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST} <= set(DatasetCatalog)
    evaluator = vars(MetadataCatalog.get(*cfg.DATASETS.TEST))["evaluator_type"]
    assert evaluator in ("sem_seg", "cityscapes_sem_seg")


def build(name, *opts):
    """The model of a recipe, without memory for its weights."""
    opts = ("MODEL.DEVICE", "meta", "MODEL.VIT.PRETRAINED", False, *opts)
    cfg = load_config(model_zoo.get_config_file(name), opts)
    with torch.device("meta"):
        return build_model(cfg)


def shapes_of_file(name):
    """The names and shapes of a recipe's published weights, by hand from its facts."""
    row = ROWS[name]
    patch8, is_linear = "patch8" in row["backbone"], row["decoder"] == "linear"
    layers = 0 if is_linear else 1 if row["dataset"] == "cityscapes" else 2
    return published_shapes(
        BACKBONES[row["backbone"]],
        row["recipe_defaults"]["classes"],
        crop=crop_of(name),
        patch=8 if patch8 else 16,
        decoder_layers=layers,
        distilled=row["backbone"].startswith("deit"),
    )


@pytest.mark.parametrize("name", ROWS)
def test_weight_names_and_shapes(name):
    shapes = shapes_of_file(name)
    counted = sum(math.prod(shape) for shape in shapes.values()) / 1e6
    assert round(counted, 2) == PARAMETERS[name.removeprefix("segmenter/")]
    theirs = {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}
    ours, left_out = from_segmenter(theirs)
    state = build(name).state_dict()
    assert {k: v.shape for k, v in ours.items()} == {k: v.shape for k, v in state.items()}
    assert all(word.startswith("encoder.head") for word in left_out)


@pytest.mark.parametrize(
    "name", ["ade20k/seg_tiny_mask", "ade20k/seg_base_patch8", "ade20k/seg_base_deit_linear"]
)
def test_forward(name):
    """On images of a few patches, so that also patches of 8 are fast."""
    name = f"segmenter/{name}"
    model = build(name, "MODEL.VIT.IMG_SIZE", 64).eval()
    fill(model)
    image = torch.randint(0, 256, (3, 50, 70), dtype=torch.uint8)
    with torch.no_grad():
        (result,) = model([{"image": image, "height": 60, "width": 84}])
    scores = result["sem_seg"]
    assert scores.shape == (150, 60, 84)
    assert scores.isfinite().all() and scores.std(dim=(1, 2)).max() > 0

"""EoMT's recipes: every key, by the published facts; and what the optimizer makes of them."""

import json
from pathlib import Path

import pytest
from detectron2.config import get_cfg

from mask_former import model_zoo
from mask_former.config import add_mask_former_config
from mask_former.engine import build_model
from mask_former.engine.optimizer import build_lr_scheduler, build_optimizer
from tests.test_recipes import ROOT, flat
from tools.analyze_model import build_without_weights

ZOO = json.loads((Path(__file__).parent / "reference" / "eomt_zoo.json").read_text())
DINOV2 = "configs/dinov2/"
FACTS = {
    f"eomt/{row['config_path'].removeprefix(DINOV2).removesuffix('.yaml')}": row
    for row in ZOO
    if (row["config_path"] or "").startswith(DINOV2)
}
# Images of an epoch by the batch: on COCO those with segments alone.
STEPS = {"COCO": 7391, "ADE20K": 20210 // 16, "Cityscapes": 2975 // 16}
CLASSES = {("COCO", "panoptic"): 133, ("COCO", "instance"): 80, ("Cityscapes", "semantic"): 19}
DATA = {
    ("COCO", "panoptic"): ("coco_2017_train_panoptic", "coco_2017_val_panoptic_with_sem_seg"),
    ("COCO", "instance"): ("coco_2017_train", "coco_2017_val"),
    ("ADE20K", "panoptic"): ("ade20k_panoptic_train", "ade20k_panoptic_val"),
    ("ADE20K", "semantic"): ("ade20k_sem_seg_train", "ade20k_sem_seg_val"),
    ("Cityscapes", "semantic"): ("cityscapes_fine_sem_seg_train", "cityscapes_fine_sem_seg_val"),
}
MAPPERS = {"panoptic": "coco_panoptic_lsj", "instance": "coco_instance_lsj"}
# Of all recipes alike; the losses, thresholds and rules of inference are in the code there.
SHARED = {
    "MODEL.META_ARCHITECTURE": "EoMT",
    "MODEL.BACKBONE.NAME": "ViTEncoder",
    "MODEL.SEM_SEG_HEAD.NAME": "EoMTHead",
    "MODEL.VIT.PRETRAINED": True,
    "MODEL.VIT.PATCH_SIZE": 16,
    "MODEL.WEIGHTS": "",
    "MODEL.PIXEL_MEAN": [123.675, 116.28, 103.53],
    "MODEL.PIXEL_STD": [58.395, 57.12, 57.375],
    "MODEL.MASK_FORMER.NO_OBJECT_WEIGHT": 0.1,
    "MODEL.MASK_FORMER.CLASS_WEIGHT": 2.0,
    "MODEL.MASK_FORMER.MASK_LOSS": "bce",
    "MODEL.MASK_FORMER.MASK_WEIGHT": 5.0,
    "MODEL.MASK_FORMER.DICE_WEIGHT": 5.0,
    "MODEL.MASK_FORMER.TRAIN_NUM_POINTS": 12544,
    "MODEL.MASK_FORMER.OVERSAMPLE_RATIO": 3.0,
    "MODEL.MASK_FORMER.IMPORTANCE_SAMPLE_RATIO": 0.75,
    "MODEL.MASK_FORMER.TEST.OBJECT_MASK_THRESHOLD": 0.8,
    "MODEL.MASK_FORMER.TEST.OVERLAP_THRESHOLD": 0.8,
    "MODEL.MASK_FORMER.TEST.VOID_BELOW_HALF": True,
    "MODEL.MASK_FORMER.TEST.TOP_OF_ALL_CLASSES": True,
    "TEST.DETECTIONS_PER_IMAGE": 100,
    "MODEL.EOMT.ANNEALING_POWER": 0.9,
    "INPUT.FORMAT": "RGB",
    "INPUT.PADDING_VALUE": 0,
    "SOLVER.OPTIMIZER": "ADAMW",
    "SOLVER.BACKBONE_MULTIPLIER": 1.0,
    "SOLVER.LR_SCHEDULER_NAME": "TwoStageWarmupPolyLR",
    "SOLVER.POLY_LR_POWER": 0.9,
    "SOLVER.WARMUP_FACTOR": 0.0,
    "SOLVER.CLIP_GRADIENTS.ENABLED": True,
    "SOLVER.CLIP_GRADIENTS.CLIP_TYPE": "full_model",
    "SOLVER.AMP.ENABLED": True,
    "TEST.EVAL_PERIOD": 5000,
    "VERSION": 2,
}


def expected(row):
    recipe, size, task = row["recipe"], row["input_size"], row["task"]
    kind = (row["dataset"], task)
    train, test = DATA[kind]
    keys = {
        "MODEL.VIT.NAME": row["backbone"],
        "MODEL.VIT.IMG_SIZE": size,
        "MODEL.SEM_SEG_HEAD.NUM_CLASSES": CLASSES.get(kind, 150),
        "MODEL.MASK_FORMER.NUM_OBJECT_QUERIES": recipe["queries"],
        "MODEL.MASK_FORMER.SIZE_DIVISIBILITY": size,
        "MODEL.MASK_FORMER.TEST.SEMANTIC_ON": task == "semantic",
        "MODEL.MASK_FORMER.TEST.PANOPTIC_ON": task == "panoptic",
        "MODEL.MASK_FORMER.TEST.INSTANCE_ON": task == "instance",
        "MODEL.EOMT.NUM_BLOCKS": recipe["num_blocks_L2"],
        "MODEL.EOMT.ANNEALING_START": recipe["mask_anneal_start"],
        "MODEL.EOMT.ANNEALING_END": recipe["mask_anneal_end"],
        "DATASETS.TRAIN": [train],
        "DATASETS.TEST": [test],
        "INPUT.DATASET_MAPPER_NAME": MAPPERS.get(task, "semantic_lsj"),
        "INPUT.IMAGE_SIZE": size,
        "INPUT.MIN_SCALE": recipe["scale_range"][0],
        "INPUT.MAX_SCALE": recipe["scale_range"][1],
        "INPUT.COLOR_AUG_SSD": recipe["color_jitter"],
        "INPUT.MIN_SIZE_TEST": size,
        "INPUT.MAX_SIZE_TEST": 100000 if task == "semantic" else size,
        "SOLVER.IMS_PER_BATCH": recipe["batch_size"],
        "SOLVER.MAX_ITER": recipe["epochs"] * STEPS[row["dataset"]],
        "SOLVER.BASE_LR": recipe["lr"],
        "SOLVER.LAYER_DECAY": recipe["llrd"],
        "SOLVER.WEIGHT_DECAY": recipe["weight_decay"],
        "SOLVER.WEIGHT_DECAY_NORM": recipe["weight_decay"],
        "SOLVER.WEIGHT_DECAY_EMBED": recipe["weight_decay"],
        "SOLVER.WARMUP_ITERS": recipe["warmup_steps"][0],
        "SOLVER.BACKBONE_WARMUP_ITERS": recipe["warmup_steps"][1],
        "SOLVER.CLIP_GRADIENTS.CLIP_VALUE": recipe["clip"],
    }
    if task == "semantic":
        keys |= {"TEST.WINDOW.SIZE": size, "TEST.WINDOW.STRIDE": 0}
    if kind == ("ADE20K", "panoptic"):  # from COCO's model of that backbone and size
        (coco,) = (
            other["url"]
            for other in FACTS.values()
            if (other["dataset"], other["task"]) == ("COCO", "panoptic")
            and (other["backbone"], other["input_size"]) == (row["backbone"], size)
        )
        keys |= {"MODEL.WEIGHTS": coco, "MODEL.WEIGHTS_WITHOUT_CLASS_HEAD": True}
    return SHARED | keys


def test_all_recipes_are_there():
    assert len(FACTS) == 16
    assert {name for name in model_zoo.names() if name.startswith("eomt/")} == FACTS.keys()


@pytest.mark.parametrize("name", FACTS)
def test_every_key(name):
    cfg = get_cfg()
    add_mask_former_config(cfg)
    keys = flat(cfg) | expected(FACTS[name])
    cfg.merge_from_file(ROOT / "configs" / f"{name}.yaml")
    assert flat(cfg) == keys
    assert model_zoo.get_config(name) == cfg


@pytest.mark.parametrize(
    ("name", "millions"),
    [
        ("coco/panoptic/eomt_small_640", 23.98),
        ("coco/panoptic/eomt_base_640", 93.66),
        ("coco/panoptic/eomt_large_640", 316.7),
        ("coco/panoptic/eomt_large_1280", 321.6),
        ("coco/panoptic/eomt_giant_640", 1163.6),
    ],
)
def test_number_of_parameters(name, millions):
    model = build_without_weights(model_zoo.get_config(f"eomt/{name}"))
    found = sum(parameter.numel() for parameter in model.parameters())
    assert found / 1e6 == pytest.approx(millions, abs=0.05)


def test_rates_and_decays():
    """Of the blocks 0.8 times that of the next; of norms and the head the whole. All decay."""
    cfg = model_zoo.get_config("eomt/coco/panoptic/eomt_small_640")
    cfg.MODEL.DEVICE, cfg.MODEL.VIT.PRETRAINED = "cpu", False
    model = build_model(cfg)
    optimizer = build_optimizer(cfg, model)
    assert {group["weight_decay"] for group in optimizer.param_groups} == {0.05}
    groups = {p: group for group in optimizer.param_groups for p in group["params"]}
    rates = {name: groups[p]["lr"] for name, p in model.named_parameters()}
    encoder = "backbone.model."
    for name, power in (
        ("pos_embed", 11),
        ("cls_token", 11),
        ("patch_embed.proj.weight", 11),
        ("blocks.0.norm1.weight", 11),
        ("blocks.9.attn.qkv.bias", 2),
        ("blocks.11.ls2.gamma", 0),
        ("norm.weight", 0),
    ):
        assert rates[encoder + name] == pytest.approx(1e-4 * 0.8**power), name
    head = {rate for name, rate in rates.items() if not name.startswith(encoder)}
    assert head == {1e-4}

    # After 1000 of its 1000 + 500 iterations of warm-up the backbone is at half of its rate.
    scheduler = build_lr_scheduler(cfg, optimizer)
    optimizer.step()
    scheduler.last_epoch = 999
    scheduler.step()
    norm, query = model.backbone.model.norm.weight, model.sem_seg_head.predictor.query_feat.weight
    assert groups[norm]["lr"] == pytest.approx(5e-5)
    assert groups[query]["lr"] == pytest.approx(1e-4 * (1 - 500 / (88692 - 500)) ** 0.9)

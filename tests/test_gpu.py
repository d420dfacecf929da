"""Training, evaluation and prediction on a GPU give what they give on a CPU."""

import numpy as np
import pytest
import torch
import torch.distributed as dist
from detectron2.modeling import build_model
from detectron2.structures import BitMasks, Instances
from torch.nn.parallel import DistributedDataParallel

from mask_former.engine import DefaultPredictor
from tests.backbone.training import MASK2FORMER
from tests.engine import test_eomt, test_pem, tiny

pytestmark = pytest.mark.gpu
# One size, no dropout, and SGD, as Adam makes full steps of the rounding errors of a zero gradient.
SAME = {
    "DATASETS__TEST": (),
    "INPUT__MIN_SIZE_TRAIN": (64,),
    "MODEL__MASK_FORMER__DROPOUT": 0.0,
    "SOLVER__OPTIMIZER": "SGD",
    "SOLVER__BASE_LR": 0.05,
    "SOLVER__BACKBONE_MULTIPLIER": 1.0,
}
GPU = {"MODEL__DEVICE": "cuda"}
# The rest of the family. Random points would be others on a GPU.
FAMILY = {
    "Mask2Former": {**MASK2FORMER, "MODEL__MASK_FORMER__TRAIN_NUM_POINTS": 0},
    "PEM": {**test_pem.PEM, "MODEL__MASK_FORMER__TRAIN_NUM_POINTS": 0},
    "EoMT": {
        **test_eomt.OPTIONS,
        "MODEL__MASK_FORMER__TRAIN_NUM_POINTS": 0,
        "MODEL__EOMT__ANNEALING_START": [1000, 1000],  # by chance, on every device another
        "MODEL__EOMT__ANNEALING_END": [2000, 2000],
    },
    "Segmenter": {
        "DATASETS__TRAIN": ("shapes_train_semantic",),
        "INPUT__DATASET_MAPPER_NAME": "mask_former_semantic",
        "MODEL__META_ARCHITECTURE": "SemanticSegmentor",
        "MODEL__BACKBONE__NAME": "ViTEncoder",
        "MODEL__VIT__NAME": "test_vit",
        "MODEL__VIT__IMG_SIZE": 64,
        "MODEL__SEM_SEG_HEAD__NAME": "SegmenterHead",
        "MODEL__SEGMENTER__DROPOUT": 0.0,
    },
}


def mixed(dtype):
    return {"SOLVER__AMP__ENABLED": True, "SOLVER__AMP__DTYPE": dtype}


def losses(cfg):
    return list(tiny.run_here(cfg)["losses"].values())


@pytest.fixture(scope="module")
def on_the_cpu(shapes_root, tmp_path_factory):
    """The losses of a training in float32, and the file of its weights."""
    cfg = tiny.tiny_cfg(tmp_path_factory.mktemp("cpu") / "run", **SAME)
    return losses(cfg), f"{cfg.OUTPUT_DIR}/model_final.pth"


@pytest.mark.parametrize(
    ("options", "tolerance"),
    [({}, 1e-4), ({"MODEL__COMPILE": True}, 1e-4), (mixed("bfloat16"), 5e-2)],
    ids=["float32", "compiled", "bfloat16"],
)
def test_losses_of_a_training(on_the_cpu, tmp_path, options, tolerance):
    cfg = tiny.tiny_cfg(tmp_path / "run", **SAME, **GPU, **options)
    assert losses(cfg) == pytest.approx(on_the_cpu[0], rel=tolerance)


@pytest.mark.parametrize("model", FAMILY)
def test_losses_of_the_family(shapes_root, tmp_path, model):
    """In float32 as on the CPU; in bfloat16 it learns, too."""
    cfgs = [
        tiny.tiny_cfg(tmp_path / name, **{**SAME, **FAMILY[model], **options})
        for name, options in {"cpu": {}, "cuda": GPU, "mixed": {**GPU, **mixed("bfloat16")}}.items()
    ]
    on_the_cpu, in_float32, in_bfloat16 = map(losses, cfgs)
    # Masked attention has a threshold, where rounding may decide.
    assert in_float32 == pytest.approx(on_the_cpu, rel=1e-3)
    assert in_bfloat16 == pytest.approx(on_the_cpu, rel=1e-1)


def test_float16_learns(shapes_root, tmp_path):
    """Its first updates are left out, until the scale of the gradients fits."""
    options = {**SAME, **GPU, **mixed("float16"), "SOLVER__MAX_ITER": 40}
    found = losses(tiny.tiny_cfg(tmp_path / "run", **options))
    assert np.isfinite(found).all() and np.mean(found[-5:]) < 0.9 * np.mean(found[:5])


def test_torchrun_with_one_process(on_the_cpu, tmp_path):
    cfg = tiny.tiny_cfg(tmp_path / "run", **SAME, **GPU)
    process = tiny.start(cfg, torchrun=["--nproc_per_node", "1"])
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 0, output.decode()
    found = list(tiny.read_record(cfg)["losses"].values())
    assert found == pytest.approx(on_the_cpu[0], rel=1e-4)


def test_gradients_through_nccl(tmp_path):
    """DistributedDataParallel of one process: every weight that is trained gets its gradient."""
    cfg = tiny.tiny_cfg(tmp_path, **SAME, **GPU)
    model = build_model(cfg).train()
    masks = torch.zeros(2, 64, 96, dtype=torch.bool)
    masks[0, 8:40], masks[1, 40:] = True, True
    instances = Instances((64, 96), gt_classes=torch.tensor([1, 8]), gt_masks=BitMasks(masks))
    batch = [{"image": torch.randint(256, (3, 64, 96)), "instances": instances}]
    dist.init_process_group("nccl", init_method=f"file://{tmp_path}/meet", rank=0, world_size=1)
    try:
        gradients = []
        for network in (model, DistributedDataParallel(model, device_ids=[0])):
            model.zero_grad()
            sum(network(batch).values()).backward()
            gradients.append([p.grad.clone() for p in model.parameters()])
    finally:
        dist.destroy_process_group()
    for ours, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-5)


def test_metrics_of_an_evaluation(shapes_root, tmp_path):
    """The model knows the ground truth, so that they are exactly the same."""
    weights = tmp_path / "weights.pth"
    torch.save({"model": {"shift": torch.tensor(6.0)}}, weights)
    options = {
        "MODEL__META_ARCHITECTURE": "ShiftedTruth",
        "MODEL__MASK_FORMER__TEST__INSTANCE_ON": True,
        "MODEL__WEIGHTS": str(weights),
    }
    found = [
        tiny.run_here(
            tiny.tiny_cfg(tmp_path / device, **options, MODEL__DEVICE=device), "--eval-only"
        )["metrics"]
        for device in ("cpu", "cuda")
    ]
    for task, metric in (("panoptic_seg", "PQ"), ("sem_seg", "mIoU"), ("segm", "AP")):
        assert 0 < found[0][task][metric] < 100
        assert found[0][task][metric] == found[1][task][metric]


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("task", ["SEMANTIC_ON", "PANOPTIC_ON"])
def test_prediction(on_the_cpu, tmp_path, task, precision):
    """Nearly the same class in every pixel; rounding decides where two are close."""
    options = {
        "MODEL__WEIGHTS": on_the_cpu[1],
        "MODEL__MASK_FORMER__TEST__PANOPTIC_ON": False,
        "MODEL__MASK_FORMER__TEST__OBJECT_MASK_THRESHOLD": 0.0,
        f"MODEL__MASK_FORMER__TEST__{task}": True,
    }
    image = np.random.default_rng(0).integers(256, size=(64, 96, 3), dtype=np.uint8)
    maps = []
    for device in ("cpu", "cuda"):
        options |= {"MODEL__DEVICE": device}
        options |= {"TEST__PRECISION": precision if device == "cuda" else "float32"}
        result = DefaultPredictor(tiny.tiny_cfg(tmp_path, **options))(image)
        if task == "SEMANTIC_ON":
            maps.append(result["sem_seg"].argmax(0).cpu())
        else:
            maps.append(result["panoptic_seg"][0].cpu())
    differ = (maps[0] != maps[1]).float().mean()
    assert differ <= (0.01 if precision == "float32" else 0.2)

"""The published recipes: every key, the weights of the models, and that they run."""

import json
from pathlib import Path

import pytest
import torch
from detectron2.config import get_cfg
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.modeling import build_model
from detectron2.projects.deeplab import add_deeplab_config

from mask_former import model_zoo
from mask_former.config import add_mask_former_config
from mask_former.engine.config import load_config
from mask_former.evaluation.build import EVALUATORS

ROOT = Path(__file__).parents[1]
REFERENCE = Path(__file__).parent / "reference"
# MaskFormer's recipes, and Mask2Former's and PEM's, which are in folders of their own. Segmenter's
# and EoMT's are tested by files of their own.
FACTS = json.loads((REFERENCE / "recipes.json").read_text())
FACTS_MASK2FORMER = json.loads((REFERENCE / "mask2former_recipes.json").read_text())
FACTS_PEM = json.loads((REFERENCE / "pem_recipes.json").read_text())
RECIPES = FACTS["recipes"]
MASK2FORMER = {f"mask2former/{name}": keys for name, keys in FACTS_MASK2FORMER["recipes"].items()}
# What that repository has in code, not in its configuration.
MASK2FORMER_CODE = {
    "MODEL.MASK_FORMER.MASK_LOSS": "bce",
    "MODEL.MASK_FORMER.TEST.VOID_BELOW_HALF": True,
    "MODEL.MASK_FORMER.TEST.TOP_OF_ALL_CLASSES": True,
}
PEM_CODE = {
    **MASK2FORMER_CODE,
    # Published under the name of Mask2Former's.
    "MODEL.MASK_FORMER.TRANSFORMER_DECODER_NAME": "PrototypeTransformerDecoder",
    # SyncBN, which nothing reads.
    "MODEL.STDC.NORM": "BN",
}


def pem_recipes():
    """PEM's eight, and four whose base is not published: it is read as that of the R50 recipe."""
    recipes = dict(FACTS_PEM["recipes"])
    for task in ("panoptic", "semantic"):
        base = recipes[f"ade20k/{task}-segmentation/pem_R50_bs32_160k"]
        for i in (1, 2):
            stdc = recipes[f"cityscapes/{task}-segmentation/pem_STDC{i}_bs32_90k"]
            changes = {
                key: stdc[key]
                for key in ("MODEL.WEIGHTS", "MODEL.BACKBONE.NAME", "MODEL.STDC.LAYERS")
                if key in stdc
            }
            recipes[f"ade20k/{task}-segmentation/pem_STDC{i}_bs32_90k"] = base | changes
    return {f"pem/{name}": keys for name, keys in recipes.items()}


PEM = pem_recipes()
# Recipe -> what its repository has by default, in the recipe, and in code.
PUBLISHED = {name: (FACTS, keys, {}) for name, keys in RECIPES.items()}
PUBLISHED |= {n: (FACTS_MASK2FORMER, keys, MASK2FORMER_CODE) for n, keys in MASK2FORMER.items()}
PUBLISHED |= {name: (FACTS_PEM, keys, PEM_CODE) for name, keys in PEM.items()}
FILES = {
    file.relative_to(ROOT / "configs").with_suffix("").as_posix(): file
    for file in (ROOT / "configs").rglob("*.yaml")
    if not file.name.startswith("Base")
    and file.relative_to(ROOT / "configs").parts[0]
    not in ("shapes", "own-data", "segmenter", "eomt")
}


def flat(cfg, prefix=""):
    """{"A": {"B": (1,)}} -> {"A.B": [1]}."""
    found = {}
    for key, value in cfg.items():
        if isinstance(value, dict):
            found |= flat(value, f"{prefix}{key}.")
        else:
            found[prefix + key] = list(value) if isinstance(value, tuple) else value
    return found


def published_defaults(facts=FACTS):
    cfg = get_cfg()
    add_deeplab_config(cfg)
    return flat(cfg) | facts["defaults_added_to_detectron2"]


def test_defaults():
    cfg = get_cfg()
    add_mask_former_config(cfg)
    defaults = flat(cfg)
    expected = published_defaults()
    assert {key: defaults[key] for key in expected} == expected


def test_mask2formers_defaults():
    """Where they differ from the ones here, a config of that repository brings them along."""
    expected = published_defaults(FACTS_MASK2FORMER)
    name = "MODEL.MASK_FORMER.TRANSFORMER_DECODER_NAME"
    defaults = flat(load_config(opts=[name, expected[name]]))
    assert {key: defaults[key] for key in expected} == expected
    assert {key: defaults[key] for key in MASK2FORMER_CODE} == MASK2FORMER_CODE


def test_all_recipes_are_there():
    assert FILES.keys() == PUBLISHED.keys()


@pytest.mark.parametrize("name", PUBLISHED)
def test_every_key(name):
    cfg = get_cfg()
    add_mask_former_config(cfg)
    facts, keys, code = PUBLISHED[name]
    expected = flat(cfg) | published_defaults(facts) | keys | code
    cfg.merge_from_file(FILES[name])
    assert flat(cfg) == expected
    assert model_zoo.get_config(name) == cfg  # Detectron2's way of loading, and ours


# PEM's panoptic models on STDC networks.
WITHOUT_METRICS = {name for name in PEM if "panoptic" in name and "STDC" in name}
METRICS = {"SEMANTIC_ON": "mIoU", "PANOPTIC_ON": "PQ", "INSTANCE_ON": "AP"}


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_published_metrics_are_evaluated(name):
    cfg = model_zoo.get_config(name)
    assert {*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST} <= set(DatasetCatalog)
    metadata = vars(MetadataCatalog.get(*cfg.DATASETS.TEST))  # reads no file
    evaluated = {
        METRICS[task.switch]
        for task in EVALUATORS[metadata["evaluator_type"]]
        if cfg.MODEL.MASK_FORMER.TEST[task.switch] and task.annotation in metadata
    }
    published = model_zoo.table()["recipes"][name]["published"].keys() & METRICS.values()
    assert evaluated and published <= evaluated
    assert published or name in WITHOUT_METRICS


def recipe_of(file):
    path = file.relative_to(REFERENCE / "state_dict").with_suffix("")
    return path.as_posix().replace("__", "/")


def build(name):
    """The model of a recipe, without memory for its weights."""
    cfg = model_zoo.get_config(name)
    cfg.MODEL.DEVICE = "meta"
    with torch.device("meta"):
        return build_model(cfg)


def networks():
    """The recipes whose weights are known."""
    for file in sorted((REFERENCE / "state_dict").rglob("*.json")):
        yield pytest.param(file, id=recipe_of(file))


@pytest.mark.parametrize("file", list(networks()))
def test_weight_names_and_shapes(file):
    state = build(recipe_of(file)).state_dict()
    assert {name: list(w.shape) for name, w in state.items()} == json.loads(file.read_text())


@torch.no_grad()
def fill(model):
    """Give a model of the meta device memory on the CPU, and weights that keep numbers finite."""
    torch.manual_seed(0)
    # The same for all, since drawing hundreds of millions takes seconds.
    noise = 2 * torch.rand(65537) - 1
    model.to_empty(device="cpu")
    for name, weight in model.named_parameters():
        if weight.dim() > 1:
            repeated = noise.repeat(weight.numel() // len(noise) + 1)[: weight.numel()]
            weight.copy_(repeated.view_as(weight)).mul_((3 / weight[0].numel()) ** 0.5)
        else:
            weight.fill_(0 if name.endswith("bias") else 1)
    for buffer in model.buffers():
        buffer.fill_(1 if buffer.is_floating_point() else 0)


@pytest.mark.parametrize("name", RECIPES)
def test_forward(name):
    model = build(name).eval()
    fill(model)
    image = torch.randint(0, 256, (3, 64, 96), dtype=torch.uint8)
    with torch.no_grad():
        (result,) = model([{"image": image, "height": 50, "width": 70}])
    scores = result["sem_seg"]
    assert scores.shape == (RECIPES[name]["MODEL.SEM_SEG_HEAD.NUM_CLASSES"], 50, 70)
    assert scores.isfinite().all()
    # Something is seen of the image: the scores are not those of a constant.
    assert scores.std(dim=(1, 2)).max() > 0
    is_panoptic = RECIPES[name].get("MODEL.MASK_FORMER.TEST.PANOPTIC_ON", False)
    assert ("panoptic_seg" in result) == is_panoptic
    if is_panoptic:
        segmentation, _ = result["panoptic_seg"]
        assert segmentation.shape == (50, 70)

"""EoMT's published files by their names, and the EoMT of `transformers` there and back."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import EomtConfig, EomtForUniversalSegmentation, EomtImageProcessor
from transformers.models.eomt_dinov3 import EomtDinov3Config, EomtDinov3ForUniversalSegmentation

from mask_former import model_zoo
from mask_former.checkpoint import to_ours
from mask_former.checkpoint.checkpointer import MaskFormerCheckpointer
from mask_former.checkpoint.hugging_face import from_hugging_face, to_hugging_face
from mask_former.engine import build_model, load_config
from mask_former.engine.predict import DefaultPredictor
from mask_former.errors import UserError
from tests.checkpoint.transformers_models import (
    assert_same_files,
    assert_same_outputs,
    build_ours,
    convert,
)
from tools import convert_weights
from tools.analyze_model import build_without_weights

FOLDER = Path(__file__).parents[1] / "reference" / "eomt_state_dict"
SMALL = "eomt/coco/panoptic/eomt_small_640"
CLOSE = {"atol": 1e-4, "rtol": 1e-4}


def made_up_file(recipe):
    """Weights under the published names, every tensor of a value of its own."""
    file = FOLDER / f"{recipe.removeprefix('eomt/').replace('/', '__')}.json"
    shapes = json.loads(file.read_text())
    values = enumerate(shapes.items())
    return {name: torch.tensor(float(i)).expand(shape) for i, (name, shape) in values}


@pytest.mark.parametrize("name", ["small_640", "large_1280", "giant_640"])
def test_published_names_and_shapes(name):
    recipe = f"eomt/coco/panoptic/eomt_{name}"
    ours = to_ours(made_up_file(recipe), "eomt").weights
    model = build_without_weights(model_zoo.get_config(recipe)).state_dict()
    assert {k: w.shape for k, w in ours.items()} == {k: w.shape for k, w in model.items()}


@pytest.fixture(scope="module")
def small():
    cfg = model_zoo.get_config(SMALL)
    cfg.MODEL.DEVICE, cfg.MODEL.VIT.PRETRAINED = "cpu", False
    return build_model(cfg)


@pytest.mark.parametrize("wrapped", [False, True])
def test_a_published_file_loads_strictly(small, tmp_path, wrapped):
    weights = made_up_file(SMALL)
    file = str(tmp_path / "pytorch_model.bin")
    torch.save({"state_dict": weights, "epoch": 3} if wrapped else weights, file)
    MaskFormerCheckpointer(small, accept_backbone=False).load(file)
    loaded = small.state_dict()
    value = {name: tensor.flatten()[0].item() for name, tensor in weights.items()}
    for theirs, ours in (
        ("network.q.weight", "sem_seg_head.predictor.query_feat.weight"),
        ("network.mask_head.4.bias", "sem_seg_head.predictor.mask_embed.layers.2.bias"),
        ("network.upscale.1.norm.weight", "sem_seg_head.pixel_decoder.1.norm.weight"),
        ("network.encoder.backbone.blocks.7.ls2.gamma", "backbone.model.blocks.7.ls2.gamma"),
    ):
        assert (loaded[ours] == value[theirs]).all(), ours

    for change, message in (
        ({"network.class_head.bias": torch.ones(3)}, r"class_embed.bias: \(3,\) in the file"),
        ({"network.q.bias": torch.ones(1)}, "query_feat.bias: not in the model"),
        ({"network.r.weight": torch.ones(1)}, "no counterpart of network.r.weight"),
    ):
        torch.save(weights | change, file)
        with pytest.raises(UserError, match=message):
            MaskFormerCheckpointer(small).load(file)
    del weights["network.encoder.backbone.cls_token"]
    torch.save(weights, file)
    with pytest.raises(UserError, match="cls_token: missing in the file"):
        MaskFormerCheckpointer(small).load(file)


def test_all_but_the_classes_for_other_classes(tmp_path):
    """As the recipes on ADE20K start from COCO's weights."""
    cfg = model_zoo.get_config(SMALL)
    cfg.MODEL.DEVICE, cfg.MODEL.VIT.PRETRAINED = "cpu", False
    cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES = 7
    model = build_model(cfg)
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    torch.save(made_up_file(SMALL), tmp_path / "pytorch_model.bin")
    file = str(tmp_path / "pytorch_model.bin")
    MaskFormerCheckpointer(model).load(file, without_class_head=True)
    kept = [n for n, weight in model.state_dict().items() if torch.equal(weight, before[n])]
    assert kept == [f"sem_seg_head.predictor.class_embed.{x}" for x in ("weight", "bias")]


def test_positions_for_images_of_another_size(small, tmp_path):
    name = "network.encoder.backbone.pos_embed"
    file = str(tmp_path / "pytorch_model.bin")
    torch.save(made_up_file(SMALL) | {name: torch.zeros(1, 80 * 80, 384)}, file)
    with pytest.raises(
        UserError, match="for 6400 patches and tokens, here for 1600: set MODEL.VIT.IMG_SIZE"
    ):
        MaskFormerCheckpointer(small).load(file)


def test_differences_to_dinov3_are_refused(small, tmp_path):
    weights = made_up_file(SMALL)
    weights["network.encoder.backbone.patch_embed.cls_token"] = torch.zeros(1, 1, 384)
    torch.save(weights, tmp_path / "pytorch_model.bin")
    with pytest.raises(UserError, match="pytorch_model.bin.*added to the weights of DINOv3"):
        MaskFormerCheckpointer(small).load(str(tmp_path / "pytorch_model.bin"))


def make_theirs(kind):
    """A model of transformers whose every weight matters."""
    torch.manual_seed(0)
    size = {"hidden_size": 384, "num_hidden_layers": 12, "num_attention_heads": 6}
    options = {"image_size": 64, "num_blocks": 3, "num_queries": 7, "num_labels": 5}
    if kind == "dinov2":
        model = EomtForUniversalSegmentation(EomtConfig(**size, **options))
    else:
        config = EomtDinov3Config(**size, **options, intermediate_size=1536)
        model = EomtDinov3ForUniversalSegmentation(config)
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if name.startswith("criterion."):
                continue
            if tensor.ndim == 1 and name.endswith(("weight", "lambda1")):
                tensor.uniform_(0.5, 1.5)
            elif tensor.ndim == 1 and name.endswith("bias"):
                tensor.normal_(std=0.1)
            elif "token" in name or "position" in name:
                tensor.normal_()
    return model.eval()


@torch.no_grad()
@pytest.mark.parametrize("probabilities", [(1, 1, 1), (0, 0, 1), (0, 0, 0)])
@pytest.mark.parametrize("kind", ["dinov2", "dinov3"])
def test_the_same_outputs_as_transformers(tmp_path, kind, probabilities):
    """Theirs masks the blocks whose probability is not 0."""
    theirs = make_theirs(kind)
    theirs.attn_mask_probs.copy_(torch.tensor(probabilities))
    *_, config_file = convert(theirs, tmp_path)
    ours = build_ours(config_file)
    assert_same_outputs(ours, theirs)


@pytest.mark.parametrize("kind", ["dinov2", "dinov3"])
def test_there_and_back(tmp_path, kind):
    theirs = make_theirs(kind)
    folder, weights, config_file = convert(theirs, tmp_path)
    back = tmp_path / "back"
    convert_weights.main(["--to", "hf", "--config-file", str(config_file), str(weights), str(back)])
    assert_same_files(folder / "model.safetensors", back / "model.safetensors")
    before, after = (json.loads((x / "config.json").read_text()) for x in (folder, back))
    rope = after.pop("rope_parameters", {})
    assert rope.items() <= before.get("rope_parameters", {}).items()
    assert after == {key: before[key] for key in after}
    again, info = type(theirs).from_pretrained(back, output_loading_info=True)
    assert not any(info.values()), info
    assert again.config.num_labels == 5


def test_weights_from_the_middle_of_an_annealing_infer_there_as_here(tmp_path):
    theirs = make_theirs("dinov2")
    theirs.attn_mask_probs.zero_()
    _, weights, config_file = convert(theirs, tmp_path)
    content = torch.load(weights)
    content["model"]["sem_seg_head.predictor.attn_mask_probs"] = torch.tensor([0, 0.5, 1])
    torch.save(content, weights)
    back = tmp_path / "back"
    convert_weights.main(["--to", "hf", "--config-file", str(config_file), str(weights), str(back)])
    assert_same_outputs(build_ours(config_file), type(theirs).from_pretrained(back).eval())


@torch.no_grad()
def test_windows_there_and_back(tmp_path):
    theirs = make_theirs("dinov2")
    theirs.attn_mask_probs.zero_()
    processor = EomtImageProcessor(size={"shortest_edge": 64}, do_split_image=True)
    processor.save_pretrained(tmp_path / "theirs")
    _, weights, config_file = convert(theirs, tmp_path)
    arguments = ["--to", "hf", "--config-file", str(config_file), str(weights)]
    convert_weights.main([*arguments, str(tmp_path / "back")])
    with pytest.raises(UserError, match=r"TEST.WINDOW.STRIDE is 32"):
        convert_weights.main([*arguments, str(tmp_path / "no"), "TEST.WINDOW.STRIDE", "32"])

    image = np.random.default_rng(0).integers(0, 256, (64, 112, 3), dtype=np.uint8)
    cfg = load_config(str(config_file), ["MODEL.DEVICE", "cpu", "DATASETS.TEST", "()"])
    found = DefaultPredictor(cfg)(image[:, :, ::-1])["sem_seg"]
    for name in ("theirs", "back"):
        processor = EomtImageProcessor.from_pretrained(tmp_path / name)
        output = theirs(**processor(images=image, return_tensors="pt"))
        (expected,) = processor.post_process_semantic_segmentation(
            output, target_sizes=[image.shape[:2]], return_segmentation_scores=True
        )
        torch.testing.assert_close(found, expected["segmentation_scores"], **CLOSE)


def test_gates_of_the_giant_model():
    """timm's SwiGLU has one weight for what is two in transformers'."""
    theirs = make_theirs("dinov2").state_dict()
    swapped = {}
    for name, tensor in theirs.items():
        if ".mlp.fc1." in name:
            swapped[name.replace("fc1", "gate_proj")] = tensor[:768].clone()
            swapped[name.replace("fc1", "up_proj")] = tensor[768:].clone()
        elif ".mlp.fc2.weight" in name:
            swapped[name.replace("fc2", "down_proj")] = tensor[:, :768].clone()
        else:
            swapped[name.replace(".mlp.fc2", ".mlp.down_proj")] = tensor
    ours, _ = from_hugging_face(swapped)
    assert torch.equal(
        ours["backbone.model.blocks.4.mlp.fc1.bias"], theirs["layers.4.mlp.fc1.bias"]
    )
    again = to_hugging_face(ours, no_object_weight=0.1)
    assert again.keys() == swapped.keys()
    assert all(torch.equal(again[name], tensor) for name, tensor in swapped.items())


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("MODEL.VIT.NAME", "vit_tiny_patch16_224"),
        ("MODEL.MASK_FORMER.MASK_LOSS", "focal"),
        ("MODEL.MASK_FORMER.SIZE_DIVISIBILITY", 32),  # theirs pads to squares
    ],
)
def test_a_model_that_transformers_cannot_have_is_named(tmp_path, key, value):
    *_, weights, config_file = convert(make_theirs("dinov2"), tmp_path)
    arguments = ["--to", "hf", "--config-file", str(config_file), str(weights)]
    with pytest.raises(UserError, match=f"{key} is {value!r}"):
        convert_weights.main([*arguments, str(tmp_path / "back"), key, str(value)])

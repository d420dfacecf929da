"""Conversion against `transformers` itself: same outputs there and back, bit for bit."""

import json
import pickle
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
import yaml
from detectron2.data import MetadataCatalog
from detectron2.modeling import build_model
from transformers import (
    MaskFormerForInstanceSegmentation,
    MaskFormerImageProcessor,
)

from mask_former.checkpoint import to_ours
from mask_former.checkpoint.checkpointer import MaskFormerCheckpointer
from mask_former.checkpoint.read import read_weights_file
from mask_former.engine import load_config
from tests.checkpoint.transformers_models import (
    SHAPES,
    assert_same_files,
    build_ours,
    convert,
    make_theirs,
)
from tools import convert_weights


@torch.no_grad()
@pytest.mark.parametrize("shape", SHAPES)
def test_the_same_outputs_as_transformers(tmp_path, shape):
    theirs = make_theirs(shape)
    *_, config_file = convert(theirs, tmp_path)
    ours = build_ours(config_file)
    # No multiple of the windows at any stage.
    image = torch.randint(0, 256, (3, 96, 160), dtype=torch.uint8)
    pixels = ours.preprocess([{"image": image}]).tensor
    expected = theirs(pixels)
    prediction = ours.predict(pixels)[-1]
    assert expected.masks_queries_logits.std() > 0.1
    close = {"atol": 1e-4, "rtol": 1e-4}
    torch.testing.assert_close(prediction.class_logits, expected.class_queries_logits, **close)
    torch.testing.assert_close(prediction.mask_logits, expected.masks_queries_logits, **close)

    # Theirs scales probabilities from a quarter of the resolution, the paper's code logits.
    expected.masks_queries_logits = F.interpolate(
        expected.masks_queries_logits, size=(96, 160), mode="bilinear"
    )
    processor = MaskFormerImageProcessor()
    things = frozenset([0, 2])
    ours.inference = replace(
        ours.inference,
        panoptic_on=True,
        resize_before_semantic=True,
        thing_classes=things,
        overlap_threshold=0.3,
    )
    result = ours([{"image": image}])[0]

    scores = processor.post_process_semantic_segmentation(
        expected, return_segmentation_scores=True
    )[0].segmentation_scores
    torch.testing.assert_close(result["sem_seg"], scores, **close)

    # Sure of the classes, since theirs measures a mask where score times probability is 0.5; and
    # unfused, since theirs gives a new segment an old id after a fused one.
    expected.class_queries_logits *= 1e5
    for parameter in ours.sem_seg_head.predictor.class_embed.parameters():
        parameter.mul_(1e5)
    result = ours([{"image": image}])[0]
    merged = processor.post_process_panoptic_segmentation(
        expected, threshold=0.0, overlap_mask_area_threshold=0.3, label_ids_to_fuse=set()
    )[0]
    labels = {segment["id"]: segment["label_id"] for segment in merged["segments_info"]}
    segment_map, segments = result["panoptic_seg"]
    classes = {segment["id"]: segment["category_id"] for segment in segments}
    assert labels and set(labels.values()) == set(classes.values())
    maps = torch.stack((segment_map, merged["segmentation"]), -1).flatten(0, 1)
    maps, pixels = maps.unique(dim=0, return_counts=True)
    # Where two masks are as sure as float32 can be, rounding decides: a thousandth of the pixels.
    pairs = {tuple(pair) for pair in maps[pixels > 0.001 * pixels.sum()].tolist()}
    for mine, their in pairs:
        assert classes.get(mine) == labels.get(their)
    of_things = [pair for pair in pairs if classes.get(pair[0]) in things]
    for side in (0, 1):
        assert len({pair[side] for pair in of_things}) == len(of_things)
    assert len(classes) - len(of_things) == len(set(classes.values()) - things)


@pytest.mark.parametrize("shape", SHAPES)
def test_there_and_back_and_there_again(tmp_path, shape):
    folder, weights, config_file = convert(make_theirs(shape), tmp_path)
    back = tmp_path / "back"
    convert_weights.main(["--to", "hf", "--config-file", str(config_file), str(weights), str(back)])
    assert_same_files(folder / "model.safetensors", back / "model.safetensors")
    before = json.loads((folder / "config.json").read_text())
    after = json.loads((back / "config.json").read_text())
    before.setdefault("id2label", {"0": "LABEL_0", "1": "LABEL_1"})
    for key in ("id2label", "fpn_feature_size", "mask_feature_size", "model_type"):
        assert after[key] == before[key]
    for section in ("backbone_config", "decoder_config"):
        own = {k: v for k, v in after[section].items() if "_dropout" not in k}
        assert own == {key: before[section][key] for key in own}
    again = tmp_path / "again.pth"
    convert_weights.main([str(back), str(again)])
    assert_same_files(weights, again)
    old, new = (
        yaml.safe_load(config_file.read_text()),
        yaml.safe_load(again.with_suffix(".yaml").read_text()),
    )
    assert new.pop("INPUT") == {"FORMAT": "RGB", "MIN_SIZE_TEST": 800, "MAX_SIZE_TEST": 1333}
    assert old.pop("INPUT") == {"FORMAT": "RGB"}
    del old["MODEL"]["WEIGHTS"], new["MODEL"]["WEIGHTS"]
    assert new == old
    counted = SHAPES[shape][-1]
    norm = None if "swin" in shape else "BN" if counted else "FrozenBN"
    assert new["MODEL"].get("RESNETS", {}).get("NORM") == norm


OURS = {
    "R50": ["MODEL.RESNETS.STEM_OUT_CHANNELS", 4, "MODEL.RESNETS.RES2_OUT_CHANNELS", 8]
    + ["MODEL.RESNETS.WIDTH_PER_GROUP", 2, "MODEL.RESNETS.STRIDE_IN_1X1", False],
    "swin": ["MODEL.BACKBONE.NAME", "D2SwinTransformer", "MODEL.SWIN.EMBED_DIM", 4]
    + ["MODEL.SWIN.NUM_HEADS", [1, 1, 1, 1], "MODEL.SWIN.DEPTHS", [1, 1, 2, 1]],
}
SMALL = [
    *["MODEL.DEVICE", "cpu", "MODEL.META_ARCHITECTURE", "MaskFormer", "INPUT.FORMAT", "RGB"],
    *["MODEL.RESNETS.OUT_FEATURES", ["res2", "res3", "res4", "res5"]],
    *["MODEL.SEM_SEG_HEAD.NAME", "MaskFormerHead", "MODEL.SEM_SEG_HEAD.NORM", "GN"],
    *["MODEL.SEM_SEG_HEAD.IN_FEATURES", ["res2", "res3", "res4", "res5"]],
    *["MODEL.SEM_SEG_HEAD.CONVS_DIM", 32, "MODEL.SEM_SEG_HEAD.MASK_DIM", 16],
    *["MODEL.MASK_FORMER.HIDDEN_DIM", 16, "MODEL.MASK_FORMER.DIM_FEEDFORWARD", 16],
    *["MODEL.MASK_FORMER.DEC_LAYERS", 1, "MODEL.MASK_FORMER.NUM_OBJECT_QUERIES", 6],
    *["MODEL.SEM_SEG_HEAD.NUM_CLASSES", 10, "DATASETS.TEST", ("shapes_val_panoptic",)],
    *["MODEL.PIXEL_MEAN", [100.0, 110.0, 120.0], "MODEL.PIXEL_STD", [50.0, 60.0, 70.0]],
]


@torch.no_grad()
@pytest.mark.parametrize("backbone", OURS)
def test_transformers_runs_ours(tmp_path, backbone, capsys):
    classes = MetadataCatalog.get("shapes_val_panoptic").stuff_classes
    cfg = load_config(
        opts=[*SMALL, *OURS[backbone], "MODEL.SEM_SEG_HEAD.NUM_CLASSES", len(classes)]
    )
    torch.manual_seed(0)
    ours = build_model(cfg).eval()
    # As published: pickled arrays, in the older layout.
    weights = {
        name.replace(".pixel_decoder.", "."): tensor.numpy()
        for name, tensor in ours.state_dict().items()
    }
    (tmp_path / "ours.pkl").write_bytes(pickle.dumps({"model": weights, "__author__": "x"}))
    (tmp_path / "ours.yaml").write_text(cfg.dump())
    arguments = [str(tmp_path / "ours.pkl"), str(tmp_path / "theirs")]
    convert_weights.main(["--to", "hf", "--config-file", str(tmp_path / "ours.yaml"), *arguments])
    assert f"{len(weights)} of our tensors" in capsys.readouterr().out

    theirs, info = MaskFormerForInstanceSegmentation.from_pretrained(
        tmp_path / "theirs", output_loading_info=True
    )
    assert not any(info.values()), info
    assert [theirs.config.id2label[i] for i in range(len(classes))] == list(classes)
    processor = MaskFormerImageProcessor.from_pretrained(tmp_path / "theirs")
    assert processor.size == {"shortest_edge": 800, "longest_edge": 1333}
    image = torch.randint(0, 256, (3, 64, 96), dtype=torch.uint8)
    pixels = processor(image, do_resize=False, return_tensors="pt")["pixel_values"]
    expected = ours.preprocess([{"image": image}]).tensor
    torch.testing.assert_close(pixels, expected, atol=1e-5, rtol=0)
    prediction = ours.predict(expected)[-1]
    outputs = theirs.eval()(expected)
    torch.testing.assert_close(
        outputs.masks_queries_logits, prediction.mask_logits, atol=1e-4, rtol=1e-4
    )
    torch.testing.assert_close(
        outputs.class_queries_logits, prediction.class_logits, atol=1e-4, rtol=1e-4
    )

    # And back, without a difference.
    convert_weights.main([str(tmp_path / "theirs"), str(tmp_path / "back.safetensors")])
    back = read_weights_file(str(tmp_path / "back.safetensors"))["model"]
    assert back.keys() == ours.state_dict().keys()
    for name, tensor in ours.state_dict().items():
        assert torch.equal(back[name], tensor), name


def test_names_of_a_model_in_memory(tmp_path):
    """transformers 5 renames what it reads; its state_dict is not what its files hold."""
    theirs = make_theirs("swin, window 4")
    _, file, _ = convert(theirs, tmp_path)
    weights = {name: tensor.clone() for name, tensor in theirs.state_dict().items()}
    assert any(".o_proj." in name for name in weights)
    converted = to_ours(weights, "hf").weights
    expected = read_weights_file(str(file))["model"]
    assert converted.keys() == expected.keys()
    assert all(torch.equal(converted[name], expected[name]) for name in expected)


def test_a_checkpoint_of_transformers_is_loaded_as_it_is(tmp_path):
    folder, _, config_file = convert(make_theirs("resnet 50"), tmp_path)
    converted = build_ours(config_file)
    direct = build_model(load_config(str(config_file), ["MODEL.DEVICE", "cpu"]))
    checkpointer = MaskFormerCheckpointer(direct, accept_backbone=False)
    checkpointer.load(str(folder / "model.safetensors"))
    for name, tensor in converted.state_dict().items():
        assert torch.equal(direct.state_dict()[name], tensor), name


def test_a_projection_must_be_complete(tmp_path):
    theirs = make_theirs("swin, window 4").state_dict()
    del theirs["model.transformer_module.decoder.layers.0.self_attn.k_proj.weight"]
    with pytest.raises(ValueError, match=r"missing: .*0.self_attn.in_proj_weight\[1\]"):
        to_ours(theirs, "hf")

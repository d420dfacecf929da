"""What configs of Mask2Former's and PEM's repositories are completed by, and what is said of it."""

import pytest
import yaml
from detectron2.config import get_cfg as get_detectron2_cfg
from detectron2.layers import ShapeSpec
from detectron2.projects.deeplab import add_deeplab_config

from mask_former import add_mask_former_config, add_maskformer2_config
from mask_former.engine import load_config
from mask_former.predictor import build_predictor
from tests.engine.tiny import tiny_cfg


@pytest.fixture
def write(tmp_path):
    def write(name, text):
        path = tmp_path / name
        path.write_text(text)
        return str(path)

    return write


POINTS, LOSS = "MODEL.MASK_FORMER.TRAIN_NUM_POINTS", "MODEL.MASK_FORMER.MASK_LOSS"


def losses(cfg):
    return cfg.MODEL.MASK_FORMER.TRAIN_NUM_POINTS, cfg.MODEL.MASK_FORMER.MASK_LOSS


def test_what_mask2former_leaves_to_its_defaults_is_said_once(write, caplog):
    base = "MODEL: {MASK_FORMER: {TRANSFORMER_DECODER_NAME: MultiScaleMaskedTransformerDecoder}}"
    write("base.yaml", base)
    path = write("a.yaml", "_BASE_: base.yaml\nSOLVER: {MAX_ITER: 4}")
    assert losses(load_config(path)) == (12544, "bce")
    (line,) = caplog.messages
    assert f"{POINTS} 12544" in line and f"{LOSS} bce" in line


def test_what_is_given_stays_as_it_is(write, caplog):
    path = write(
        "a.yaml", "MODEL: {MASK_FORMER: {TRANSFORMER_DECODER_NAME: Mine, TRAIN_NUM_POINTS: 0}}"
    )
    assert losses(load_config(path)) == (0, "bce")
    (line,) = caplog.messages
    assert POINTS not in line and f"{LOSS} bce" in line
    caplog.clear()
    assert losses(load_config(path, [LOSS, "focal"])) == (0, "focal")
    (line,) = caplog.messages
    assert LOSS not in line and "TEST.VOID_BELOW_HALF True" in line
    caplog.clear()
    # Our own name of the predictor implies nothing.
    assert losses(load_config(opts=["MODEL.MASK_FORMER.PREDICTOR_NAME", "Mine"])) == (0, "focal")
    assert not caplog.messages


PEM = """
MODEL:
  BACKBONE: {NAME: D2STDCnet}
  STDC: {LAYERS: [4, 5, 3], BLOCK_NUM: 4, BLOCK_TIPE: cat, USE_CONV_LAST: false, NORM: SyncBN}
  SEM_SEG_HEAD: {PIXEL_DECODER_NAME: PEM_Pixel_Decoder, TRANSFORMER_ENC_LAYERS: 6}
SOLVER: {BASE_LR_END: 1e-6}
"""
NAME = "MODEL.MASK_FORMER.TRANSFORMER_DECODER_NAME"
MASK2FORMERS = "MultiScaleMaskedTransformerDecoder"


@pytest.mark.parametrize("options", [[], [NAME, MASK2FORMERS]], ids=["by default", "by name"])
def test_a_config_of_pems_repository_means_its_predictor(write, caplog, options):
    cfg = load_config(write("a.yaml", PEM), options)
    assert cfg.MODEL.MASK_FORMER.TRANSFORMER_DECODER_NAME == "PrototypeTransformerDecoder"
    assert losses(cfg) == (12544, "bce")
    assert cfg.SOLVER.BASE_LR_END == 1e-6
    lines = [line for line in caplog.messages if "PEM's repository" in line]
    assert len(lines) == 1 and "PrototypeTransformerDecoder" in lines[0]


def test_another_predictor_behind_pems_pixel_decoder_is_chosen_by_our_name(write, caplog):
    path = write("a.yaml", PEM)
    keys = load_config(path, ["MODEL.MASK_FORMER.PREDICTOR_NAME", MASK2FORMERS]).MODEL.MASK_FORMER
    assert (keys.PREDICTOR_NAME, keys.TRANSFORMER_DECODER_NAME) == (MASK2FORMERS, "")
    other = load_config(path, [NAME, "Mine"])
    assert other.MODEL.MASK_FORMER.TRANSFORMER_DECODER_NAME == "Mine"
    assert not [line for line in caplog.messages if "PEM's" in line]
    # What a run has saved means what it meant.
    saved = write("saved.yaml", load_config(path).dump())
    ours, again = (yaml.safe_load(load_config(file).dump()) for file in (path, saved))
    assert again == ours


MASK2FORMER = """
MODEL:
  SEM_SEG_HEAD: {PIXEL_DECODER_NAME: MSDeformAttnPixelDecoder}
  MASK_FORMER: {TRANSFORMER_DECODER_NAME: MultiScaleMaskedTransformerDecoder, NHEADS: 4}
"""
NUM_HEADS = "MODEL.SEM_SEG_HEAD.DEFORMABLE_TRANSFORMER_ENCODER_N_HEADS"
NUM_SAMPLES = "MODEL.SEM_SEG_HEAD.DEFORMABLE_TRANSFORMER_ENCODER_N_POINTS"


def deformable(cfg):
    head = cfg.MODEL.SEM_SEG_HEAD
    return (
        head.DEFORMABLE_TRANSFORMER_ENCODER_N_HEADS,
        head.DEFORMABLE_TRANSFORMER_ENCODER_N_POINTS,
    )


def test_the_pixel_decoder_has_the_heads_of_the_predictor(write, caplog):
    """As in Mask2Former's repository, which never reads the key for it."""
    path = write("a.yaml", MASK2FORMER)
    assert deformable(load_config(path)) == (4, 4)
    (line,) = caplog.messages
    assert f"{NUM_HEADS} 4" in line


def test_keys_that_mask2formers_repository_never_reads_act_and_say_so(write, caplog):
    path = write("a.yaml", MASK2FORMER)
    assert deformable(load_config(path, [NUM_HEADS, 8, NUM_SAMPLES, 6])) == (8, 6)
    heads, points, _ = caplog.messages
    assert f"{NUM_HEADS} 8 acts" in heads and "trained there has 4" in heads
    assert f"{NUM_SAMPLES} 6 acts" in points and "trained there has 4" in points
    caplog.clear()
    load_config(path, [NUM_HEADS, 4, NUM_SAMPLES, 4])
    assert not [line for line in caplog.messages if "acts" in line]


def test_detectron2s_merge_with_mask2formers_defaults(write):
    path = write("a.yaml", MASK2FORMER)
    cfg = get_detectron2_cfg()
    add_maskformer2_config(cfg)
    cfg.merge_from_file(path)
    assert losses(cfg) == (12544, "bce")
    ours = load_config(path, [NUM_HEADS, 8])
    assert cfg == ours


def test_a_prepared_config_keeps_its_predictor(write, caplog):
    """Which predictor is meant was decided when the pixel decoder was set."""
    path = write("a.yaml", PEM)
    cfg = load_config(path, ["MODEL.MASK_FORMER.PREDICTOR_NAME", MASK2FORMERS, POINTS, 64])
    caplog.clear()
    assert load_config("", ["SEED", 3, "SEED", cfg.SEED], cfg) == cfg
    assert not caplog.messages


def test_a_prepared_config_keeps_its_losses(caplog):
    cfg = get_detectron2_cfg()
    add_maskformer2_config(cfg)
    cfg.merge_from_list([LOSS, "focal", POINTS, 0])
    assert losses(load_config("", ["SEED", 3], cfg)) == (0, "focal")
    assert not caplog.messages


def test_mask2formers_config_with_maskformers_defaults_is_said(write, caplog):
    """Detectron2 merges such a config into ours, and nothing knows what it left out."""
    cfg = get_detectron2_cfg()
    add_mask_former_config(cfg)
    cfg.merge_from_file(write("a.yaml", MASK2FORMER))
    assert losses(cfg) == (0, "focal")
    caplog.clear()
    build_predictor(cfg, [ShapeSpec(channels=8, stride=32)])
    (line,) = caplog.messages
    assert "MASK_LOSS focal" in line and "add_maskformer2_config" in line
    caplog.clear()
    complete = load_config(write("b.yaml", MASK2FORMER))
    caplog.clear()
    build_predictor(complete, [ShapeSpec(channels=8, stride=32)])
    assert not caplog.messages


def test_pems_config_with_mask2formers_predictor_is_said(write, caplog):
    cfg = get_detectron2_cfg()
    add_deeplab_config(cfg)  # as in these repositories
    add_maskformer2_config(cfg)
    cfg.merge_from_file(write("a.yaml", PEM))
    caplog.clear()
    build_predictor(cfg, [ShapeSpec(channels=8, stride=32)])
    (line,) = caplog.messages
    assert "behind PEM's pixel decoder" in line and "PrototypeTransformerDecoder" in line


def test_maskformers_predictor_by_its_name_in_mask2formers_repository():
    cfg = tiny_cfg("", MODEL__MASK_FORMER__TRANSFORMER_DECODER_NAME="StandardTransformerDecoder")
    cfg.MODEL.MASK_FORMER.MASK_LOSS = "bce"
    theirs = build_predictor(cfg, [ShapeSpec(channels=8, stride=32)]).state_dict()
    cfg.MODEL.MASK_FORMER.TRANSFORMER_DECODER_NAME = ""
    ours = build_predictor(cfg, [ShapeSpec(channels=8, stride=32)]).state_dict()
    assert {name: w.shape for name, w in theirs.items()} == {n: w.shape for n, w in ours.items()}

"""Segmenter's published files: they load weight by weight, or say where they do not fit."""

import pytest
import torch

from mask_former.checkpoint.checkpointer import MaskFormerCheckpointer
from mask_former.checkpoint.convert import read_as_ours
from mask_former.engine import build_model, get_cfg
from mask_former.errors import UserError
from tests.checkpoint.segmenter_files import published_shapes, save_checkpoint

K = 7


def make(**opts):
    """Segmenter of ViT-T for images of 64 pixels."""
    cfg = get_cfg()
    values = {
        "MODEL__META_ARCHITECTURE": "SemanticSegmentor",
        "MODEL__DEVICE": "cpu",
        "MODEL__BACKBONE__NAME": "ViTEncoder",
        "MODEL__VIT__NAME": "vit_tiny_patch16_384",
        "MODEL__VIT__IMG_SIZE": 64,
        "MODEL__SEM_SEG_HEAD__NAME": "SegmenterHead",
        "MODEL__SEM_SEG_HEAD__NUM_CLASSES": K,
        **opts,
    }
    for key, value in values.items():
        cfg.merge_from_list([key.replace("__", "."), value])
    return build_model(cfg)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Decoder layers -> file, and its weights."""
    folder = tmp_path_factory.mktemp("segmenter")
    made = {}
    for layers in (0, 2):
        path = folder / f"{layers}" / "checkpoint.pth"
        path.parent.mkdir()
        made[layers] = str(path), save_checkpoint(path, published_shapes("tiny", K, 64, 16, layers))
    return made


def load(model, path, *, accept_backbone=False, **options):
    return MaskFormerCheckpointer(model, accept_backbone=accept_backbone).load(path, **options)


def test_the_mask_transformer(files):
    path, theirs = files[2]
    model = make()
    load(model, path)
    ours = model.state_dict()
    pairs = {
        "encoder.pos_embed": "backbone.model.pos_embed",
        "encoder.blocks.11.mlp.fc2.weight": "backbone.model.blocks.11.mlp.fc2.weight",
        "decoder.cls_emb": "sem_seg_head.predictor.cls_emb",
        "decoder.blocks.0.attn.qkv.weight": "sem_seg_head.predictor.transformer.layers.0."
        "self_attn.in_proj_weight",
        "decoder.blocks.1.mlp.fc1.bias": "sem_seg_head.predictor.transformer.layers.1.linear1.bias",
        "decoder.decoder_norm.weight": "sem_seg_head.predictor.transformer.norm.weight",
        "decoder.mask_norm.bias": "sem_seg_head.predictor.mask_norm.bias",
    }
    for name, here in pairs.items():
        assert torch.equal(theirs[name], ours[here]), name
    # All of ours came from the file: no two of random weights are equal.
    remaining = {tensor.flatten()[0].item() for tensor in theirs.values()}
    assert {tensor.flatten()[0].item() for tensor in ours.values()} <= remaining


def test_the_linear_decoder(files):
    path, theirs = files[0]
    model = make(MODEL__SEGMENTER__DECODER_NAME="LinearDecoder")
    load(model, path)
    assert torch.equal(model.sem_seg_head.predictor.head.weight, theirs["decoder.head.weight"])


def test_what_is_left_out_is_the_classifier_of_imagenet(files):
    conversion = read_as_ours(files[0][0])
    assert conversion.source == "segmenter"
    assert conversion.left_out == ["encoder.head.weight", "encoder.head.bias"]


@pytest.mark.parametrize(
    ("layers", "opts", "message"),
    [
        (2, {"MODEL__SEGMENTER__DEC_LAYERS": 3}, "layers.2.*missing in the file"),
        (2, {"MODEL__SEGMENTER__DECODER_NAME": "LinearDecoder"}, "predictor.head.weight: missing"),
        (0, {}, "predictor.cls_emb: missing"),
        (2, {"MODEL__VIT__NAME": "vit_small_patch16_384"}, "192.* in the file, .*384"),
        (2, {"MODEL__SEM_SEG_HEAD__NUM_CLASSES": 9}, "trained for 7 classes; .* is 9"),
        (2, {"MODEL__VIT__IMG_SIZE": 96}, "17, 192.* in the file, .*37, 192"),
    ],
)
def test_another_architecture_is_refused(files, layers, opts, message):
    with pytest.raises(UserError, match=f"(?s){message}"):
        load(make(**opts), files[layers][0])


@pytest.mark.parametrize("layers", [0, 2])
def test_fine_tuning_to_other_classes(files, layers):
    path, theirs = files[layers]
    decoder = "MaskTransformer" if layers else "LinearDecoder"
    opts = {"MODEL__SEM_SEG_HEAD__NUM_CLASSES": 9, "MODEL__SEGMENTER__DECODER_NAME": decoder}
    model = make(**opts)
    with pytest.raises(UserError, match="WEIGHTS_WITHOUT_CLASS_HEAD"):
        load(model, path, accept_backbone=True)
    load(model, path, accept_backbone=True, without_class_head=True)
    assert torch.equal(model.backbone.model.norm.weight, theirs["encoder.norm.weight"])
    if layers:
        assert torch.equal(model.sem_seg_head.predictor.proj_patch, theirs["decoder.proj_patch"])


def test_nothing_in_a_file_is_run(tmp_path):
    class Call:
        def __reduce__(self):
            return (print, ("run",))

    weights = {"encoder.cls_token": torch.zeros(1, 1, 192)}
    torch.save({"model": weights, "lr_scheduler": Call()}, tmp_path / "checkpoint.pth")
    with pytest.raises(UserError, match="nothing in a weights file is run"):
        load(make(), str(tmp_path / "checkpoint.pth"))

"""Keys of `transformers`' models that correspond to ours, and what is fixed on each side."""

from typing import Any, NamedTuple

from mask_former.checkpoint.hugging_face.mapping import Rows

_MASK_FORMER_KEYS: Rows = (
    ("fpn_feature_size", "MODEL.SEM_SEG_HEAD.CONVS_DIM", 256),
    ("mask_feature_size", "MODEL.SEM_SEG_HEAD.MASK_DIM", 256),
    ("no_object_weight", "MODEL.MASK_FORMER.NO_OBJECT_WEIGHT", 0.1),
    ("dice_weight", "MODEL.MASK_FORMER.DICE_WEIGHT", 1.0),
    ("mask_weight", "MODEL.MASK_FORMER.MASK_WEIGHT", 20.0),
    ("decoder_config.num_queries", "MODEL.MASK_FORMER.NUM_OBJECT_QUERIES", 100),
    ("decoder_config.d_model", "MODEL.MASK_FORMER.HIDDEN_DIM", 256),
    ("decoder_config.decoder_layers", "MODEL.MASK_FORMER.DEC_LAYERS", 6),
    ("decoder_config.decoder_attention_heads", "MODEL.MASK_FORMER.NHEADS", 8),
    ("decoder_config.decoder_ffn_dim", "MODEL.MASK_FORMER.DIM_FEEDFORWARD", 2048),
    ("decoder_config.dropout", "MODEL.MASK_FORMER.DROPOUT", 0.1),
)
_MASK2FORMER_KEYS: Rows = (
    ("feature_size", "MODEL.SEM_SEG_HEAD.CONVS_DIM", 256),
    ("mask_feature_size", "MODEL.SEM_SEG_HEAD.MASK_DIM", 256),
    ("common_stride", "MODEL.SEM_SEG_HEAD.COMMON_STRIDE", 4),
    ("encoder_layers", "MODEL.SEM_SEG_HEAD.TRANSFORMER_ENC_LAYERS", 6),
    ("num_attention_heads", "MODEL.SEM_SEG_HEAD.DEFORMABLE_TRANSFORMER_ENCODER_N_HEADS", 8),
    ("num_attention_heads", "MODEL.MASK_FORMER.NHEADS", 8),
    ("dropout", "MODEL.MASK_FORMER.DROPOUT", 0.0),
    ("num_queries", "MODEL.MASK_FORMER.NUM_OBJECT_QUERIES", 100),
    ("hidden_dim", "MODEL.MASK_FORMER.HIDDEN_DIM", 256),
    ("decoder_layers", "MODEL.MASK_FORMER.DEC_LAYERS", 10),
    ("dim_feedforward", "MODEL.MASK_FORMER.DIM_FEEDFORWARD", 2048),
    ("pre_norm", "MODEL.MASK_FORMER.PRE_NORM", False),
    ("enforce_input_projection", "MODEL.MASK_FORMER.ENFORCE_INPUT_PROJ", False),
    ("use_auxiliary_loss", "MODEL.MASK_FORMER.DEEP_SUPERVISION", True),
    ("no_object_weight", "MODEL.MASK_FORMER.NO_OBJECT_WEIGHT", 0.1),
    ("class_weight", "MODEL.MASK_FORMER.CLASS_WEIGHT", 2.0),
    ("dice_weight", "MODEL.MASK_FORMER.DICE_WEIGHT", 5.0),
    ("mask_weight", "MODEL.MASK_FORMER.MASK_WEIGHT", 5.0),
    ("train_num_points", "MODEL.MASK_FORMER.TRAIN_NUM_POINTS", 12544),
    ("oversample_ratio", "MODEL.MASK_FORMER.OVERSAMPLE_RATIO", 3.0),
    ("importance_sample_ratio", "MODEL.MASK_FORMER.IMPORTANCE_SAMPLE_RATIO", 0.75),
)
SWIN: Rows = (
    ("backbone_config.image_size", "MODEL.SWIN.PRETRAIN_IMG_SIZE", 224),
    ("backbone_config.patch_size", "MODEL.SWIN.PATCH_SIZE", 4),
    ("backbone_config.embed_dim", "MODEL.SWIN.EMBED_DIM", 96),
    ("backbone_config.depths", "MODEL.SWIN.DEPTHS", [2, 2, 6, 2]),
    ("backbone_config.num_heads", "MODEL.SWIN.NUM_HEADS", [3, 6, 12, 24]),
    ("backbone_config.window_size", "MODEL.SWIN.WINDOW_SIZE", 7),
    ("backbone_config.mlp_ratio", "MODEL.SWIN.MLP_RATIO", 4.0),
    ("backbone_config.qkv_bias", "MODEL.SWIN.QKV_BIAS", True),
    ("backbone_config.hidden_dropout_prob", "MODEL.SWIN.DROP_RATE", 0.0),
    ("backbone_config.attention_probs_dropout_prob", "MODEL.SWIN.ATTN_DROP_RATE", 0.0),
    ("backbone_config.drop_path_rate", "MODEL.SWIN.DROP_PATH_RATE", 0.1),
)
RESNET: Rows = (
    ("backbone_config.embedding_size", "MODEL.RESNETS.STEM_OUT_CHANNELS", 64),
    ("backbone_config.downsample_in_bottleneck", "MODEL.RESNETS.STRIDE_IN_1X1", False),
)

# What their model must be for ours to equal it, besides what is written out below.
_THEIR_MASK_FORMER = {
    "model_type": "maskformer",
    "decoder_config.model_type": "detr",
    "decoder_config.activation_function": "relu",
    "decoder_config.position_embedding_type": "sine",
    "decoder_config.auxiliary_loss": False,
    "backbone_config.num_channels": 3,
}
_THEIR_MASK2FORMER = {
    "model_type": "mask2former",
    "activation_function": "relu",
    "encoder_feedforward_dim": 1024,
    "feature_strides": [4, 8, 16, 32],
    "backbone_config.num_channels": 3,
}
THEIR_SWIN = {
    "backbone_config.hidden_act": "gelu",
    "backbone_config.layer_norm_eps": 1e-5,
    "backbone_config.use_absolute_embeddings": False,
}
THEIR_RESNET = {
    "backbone_config.hidden_act": "relu",
    "backbone_config.downsample_in_first_stage": False,
}

_STAGES = ["res2", "res3", "res4", "res5"]
_OUR_META = {
    "MODEL.META_ARCHITECTURE": "MaskFormer",
    "MODEL.SEM_SEG_HEAD.NAME": "MaskFormerHead",
    "MODEL.SEM_SEG_HEAD.IN_FEATURES": _STAGES,
    "MODEL.SEM_SEG_HEAD.NORM": "GN",
    "MODEL.MASK_FORMER.ENC_LAYERS": 0,
    "INPUT.FORMAT": "RGB",
}
_OUR_MASK_FORMER = {
    **_OUR_META,
    "MODEL.SEM_SEG_HEAD.PIXEL_DECODER_NAME": "BasePixelDecoder",
    "MODEL.MASK_FORMER.PREDICTOR_NAME": "StandardPredictor",
    "MODEL.MASK_FORMER.TRANSFORMER_IN_FEATURE": "res5",
    "MODEL.MASK_FORMER.PRE_NORM": False,
}
_OUR_MASK2FORMER = {
    **_OUR_META,
    "MODEL.SEM_SEG_HEAD.PIXEL_DECODER_NAME": "MSDeformAttnPixelDecoder",
    "MODEL.SEM_SEG_HEAD.DEFORMABLE_TRANSFORMER_ENCODER_IN_FEATURES": _STAGES[1:],
    "MODEL.SEM_SEG_HEAD.DEFORMABLE_TRANSFORMER_ENCODER_N_POINTS": 4,
    "MODEL.MASK_FORMER.TRANSFORMER_DECODER_NAME": "MultiScaleMaskedTransformerDecoder",
    "MODEL.MASK_FORMER.TRANSFORMER_IN_FEATURE": "multi_scale_pixel_decoder",
}
OUR_SWIN = {
    "MODEL.BACKBONE.NAME": "D2SwinTransformer",
    "MODEL.SWIN.OUT_FEATURES": _STAGES,
    "MODEL.SWIN.QK_SCALE": None,
    "MODEL.SWIN.APE": False,
    "MODEL.SWIN.PATCH_NORM": True,
}
OUR_RESNET = {
    "MODEL.BACKBONE.NAME": "build_resnet_backbone",
    "MODEL.RESNETS.OUT_FEATURES": _STAGES,
    "MODEL.RESNETS.NUM_GROUPS": 1,
    "MODEL.RESNETS.RES5_DILATION": 1,
    "MODEL.RESNETS.DEFORM_ON_PER_STAGE": [False, False, False, False],
}
# (kind of block, blocks of each stage) -> depth
RESNET_DEPTHS = {
    ("basic", (2, 2, 2, 2)): 18,
    ("basic", (3, 4, 6, 3)): 34,
    ("bottleneck", (3, 4, 6, 3)): 50,
    ("bottleneck", (3, 4, 23, 3)): 101,
    ("bottleneck", (3, 8, 36, 3)): 152,
}


class Model(NamedTuple):
    """A model that exists in `transformers` and here.

    Attributes:
        name: of their class.
        keys: those that correspond.
        theirs, ours: what the other keys must be.
        swin: their model_type of its Swin Transformer.
        processor: the class of its image processor.
    """

    name: str
    keys: Rows
    theirs: dict[str, Any]
    ours: dict[str, Any]
    swin: str
    processor: str


MASK_FORMER = Model(
    "MaskFormerForInstanceSegmentation",
    _MASK_FORMER_KEYS,
    _THEIR_MASK_FORMER,
    _OUR_MASK_FORMER,
    "maskformer-swin",
    "MaskFormerImageProcessor",
)
MASK2FORMER = Model(
    "Mask2FormerForUniversalSegmentation",
    _MASK2FORMER_KEYS,
    _THEIR_MASK2FORMER,
    _OUR_MASK2FORMER,
    "swin",
    "Mask2FormerImageProcessor",
)

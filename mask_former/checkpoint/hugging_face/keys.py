"""Keys of `transformers`' MaskFormer that correspond to ours, and what is fixed on each side."""

# (their key, our key, their default)
MODEL = (
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
SWIN = (
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
RESNET = (
    ("backbone_config.embedding_size", "MODEL.RESNETS.STEM_OUT_CHANNELS", 64),
    ("backbone_config.downsample_in_bottleneck", "MODEL.RESNETS.STRIDE_IN_1X1", False),
)

# What their model must be for ours to equal it, besides what is written out below.
THEIR_CONSTANTS = {
    "model_type": "maskformer",
    "decoder_config.model_type": "detr",
    "decoder_config.activation_function": "relu",
    "decoder_config.position_embedding_type": "sine",
    "decoder_config.auxiliary_loss": False,
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
OUR_CONSTANTS = {
    "MODEL.META_ARCHITECTURE": "MaskFormer",
    "MODEL.SEM_SEG_HEAD.NAME": "MaskFormerHead",
    "MODEL.SEM_SEG_HEAD.PIXEL_DECODER_NAME": "BasePixelDecoder",
    "MODEL.SEM_SEG_HEAD.IN_FEATURES": _STAGES,
    "MODEL.SEM_SEG_HEAD.NORM": "GN",
    "MODEL.MASK_FORMER.PREDICTOR_NAME": "StandardPredictor",
    "MODEL.MASK_FORMER.TRANSFORMER_IN_FEATURE": "res5",
    "MODEL.MASK_FORMER.ENC_LAYERS": 0,
    "MODEL.MASK_FORMER.PRE_NORM": False,
    "INPUT.FORMAT": "RGB",
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

PROCESSOR = {"do_rescale": True, "rescale_factor": 1 / 255, "do_normalize": True}
# ImageNet's, the defaults of their image processor.
IMAGENET_MEAN = [0.485, 0.456, 0.406]
IMAGENET_STD = [0.229, 0.224, 0.225]

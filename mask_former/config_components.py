"""The configuration keys of backbones and heads that a model may have or not."""

from detectron2.config import CfgNode as CN


def add_component_config(cfg: CN) -> None:
    """Add the keys of these components to `cfg`, in place."""
    _add_swin(cfg)
    _add_stdc(cfg)
    _add_timm(cfg)
    _add_vit(cfg)
    _add_segmenter(cfg)
    _add_eomt(cfg)


def _add_swin(cfg: CN) -> None:
    cfg.MODEL.SWIN = CN()
    cfg.MODEL.SWIN.PRETRAIN_IMG_SIZE = 224
    cfg.MODEL.SWIN.PATCH_SIZE = 4
    cfg.MODEL.SWIN.EMBED_DIM = 96
    cfg.MODEL.SWIN.DEPTHS = [2, 2, 6, 2]
    cfg.MODEL.SWIN.NUM_HEADS = [3, 6, 12, 24]
    cfg.MODEL.SWIN.WINDOW_SIZE = 7
    cfg.MODEL.SWIN.MLP_RATIO = 4.0
    cfg.MODEL.SWIN.QKV_BIAS = True
    cfg.MODEL.SWIN.QK_SCALE = None
    cfg.MODEL.SWIN.DROP_RATE = 0.0
    cfg.MODEL.SWIN.ATTN_DROP_RATE = 0.0
    cfg.MODEL.SWIN.DROP_PATH_RATE = 0.3
    cfg.MODEL.SWIN.APE = False
    cfg.MODEL.SWIN.PATCH_NORM = True
    cfg.MODEL.SWIN.OUT_FEATURES = ["res2", "res3", "res4", "res5"]
    # Mask2Former's name for MODEL.BACKBONE.ACTIVATION_CHECKPOINTING.
    cfg.MODEL.SWIN.USE_CHECKPOINT = False


def _add_stdc(cfg: CN) -> None:
    # MODEL.BACKBONE.NAME D2STDCnet. Blocks of its three stages: [4, 5, 3] is STDC2.
    cfg.MODEL.STDC = CN()
    cfg.MODEL.STDC.LAYERS = [2, 2, 2]
    # Convolutions of a block.
    cfg.MODEL.STDC.BLOCK_NUM = 4
    # PEM's keys, with one value each: outputs are concatenated, and there is no last convolution.
    cfg.MODEL.STDC.BLOCK_TIPE = "cat"
    cfg.MODEL.STDC.USE_CONV_LAST = False
    # BN, SyncBN, FrozenBN or GN. In PEM's repository the default is SyncBN, which nothing reads:
    # there it is BN, whatever the config says.
    cfg.MODEL.STDC.NORM = "BN"
    cfg.MODEL.STDC.OUT_FEATURES = ["res2", "res3", "res4", "res5"]


def _add_timm(cfg: CN) -> None:
    # MODEL.BACKBONE.NAME TimmBackbone: any model of timm that has a pyramid of feature maps.
    # MODEL.BACKBONE.FREEZE_AT counts as for ResNets: 1 freezes the stem, 2 also res2, ...
    cfg.MODEL.TIMM = CN()
    # The model, of timm.list_models(); maybe with the tag of its weights: convnext_tiny.fb_in22k.
    cfg.MODEL.TIMM.NAME = "convnext_tiny"
    # Start from timm's weights, which it downloads once into its cache. A file in MODEL.WEIGHTS,
    # which may be one of timm's, takes their place.
    cfg.MODEL.TIMM.PRETRAINED = False
    # Names of the maps to return: res1 has stride 2, res2 4, ... Coarser layers are not made.
    cfg.MODEL.TIMM.OUT_FEATURES = ["res2", "res3", "res4", "res5"]
    # Batch norms: BN (of the batch), SyncBN (of all processes' batches) or FrozenBN (the statistics
    # of the weights that the training starts from).
    cfg.MODEL.TIMM.NORM = "BN"
    # Stochastic depth, as timm defines it for the model; 0: timm's default, which is mostly none.
    cfg.MODEL.TIMM.DROP_PATH_RATE = 0.0


def _add_vit(cfg: CN) -> None:
    # MODEL.BACKBONE.NAME ViTPyramid: a plain ViT of timm (ViT, DeiT, DINOv2, DINOv3) with ViTDet's
    # simple feature pyramid, for heads that want maps; or ViTEncoder, for heads that want tokens.
    cfg.MODEL.VIT = CN()
    # The model, of timm.list_models(), maybe with the tag of its weights; and whether to start from
    # them, as for TIMM.
    cfg.MODEL.VIT.NAME = "vit_small_patch14_reg4_dinov2"
    cfg.MODEL.VIT.PRETRAINED = False
    # Side in pixels of the images that learned positions are for, and of patches; 0: the model's
    # own. Pretrained positions and patches are interpolated to them when they are loaded.
    cfg.MODEL.VIT.IMG_SIZE = 0
    cfg.MODEL.VIT.PATCH_SIZE = 16
    cfg.MODEL.VIT.DROP_PATH_RATE = 0.0
    # Epsilon of the layer norms; 0: the model's own, mostly 1e-6. Segmenter's is 1e-5.
    cfg.MODEL.VIT.NORM_EPS = 0.0
    # How positions are interpolated for an image of another size: bicubic, or bilinear (Segmenter).
    cfg.MODEL.VIT.INTERPOLATION = "bicubic"
    # ViTPyramid: names of its maps, and their channels.
    cfg.MODEL.VIT.OUT_FEATURES = ["res2", "res3", "res4", "res5"]
    cfg.MODEL.VIT.OUT_CHANNELS = 256


def _add_segmenter(cfg: CN) -> None:
    # MODEL.SEM_SEG_HEAD.NAME SegmenterHead, on the backbone ViTEncoder: its decoder, a name of
    # SEGMENTER_DECODER_REGISTRY, MaskTransformer or LinearDecoder; and the mask transformer's
    # layers and dropout.
    cfg.MODEL.SEGMENTER = CN()
    cfg.MODEL.SEGMENTER.DECODER_NAME = "MaskTransformer"
    cfg.MODEL.SEGMENTER.DEC_LAYERS = 2
    cfg.MODEL.SEGMENTER.DROPOUT = 0.1


def _add_eomt(cfg: CN) -> None:
    # MODEL.META_ARCHITECTURE EoMT, with MODEL.BACKBONE.NAME ViTEncoder and MODEL.SEM_SEG_HEAD.NAME
    # EoMTHead. As many of the encoder's last blocks have queries.
    cfg.MODEL.EOMT = CN()
    cfg.MODEL.EOMT.NUM_BLOCKS = 4
    # In each of these blocks queries attend within their masks; of a block's first number of
    # iterations to its second, ever fewer of them, by a polynomial of this power. Empty: all in
    # the whole training, and in inference, too.
    cfg.MODEL.EOMT.ANNEALING_START = []
    cfg.MODEL.EOMT.ANNEALING_END = []
    cfg.MODEL.EOMT.ANNEALING_POWER = 0.9

"""The configuration keys that MaskFormer adds to Detectron2's, each with its default.

The names are those of the published recipes, so that their yaml files keep working.
"""

from detectron2.config import CfgNode as CN
from detectron2.projects.deeplab import add_deeplab_config

from mask_former.config_components import add_component_config

# What a config of Mask2Former's repository leaves to its defaults or its code, where these differ
# from the defaults below. It names its predictor in MODEL.MASK_FORMER.TRANSFORMER_DECODER_NAME.
MASK2FORMER_DEFAULTS = {
    "MODEL.MASK_FORMER.MASK_LOSS": "bce",
    "MODEL.MASK_FORMER.TRAIN_NUM_POINTS": 12544,
    "MODEL.MASK_FORMER.TEST.VOID_BELOW_HALF": True,
    "MODEL.MASK_FORMER.TEST.TOP_OF_ALL_CLASSES": True,
}
# In PEM's repository its predictor has the name of Mask2Former's, and is the default: it is by the
# pixel decoder that a config is known to mean PEM's.
MASK2FORMER_PREDICTOR = "MultiScaleMaskedTransformerDecoder"
PEM_PIXEL_DECODER = "PEM_Pixel_Decoder"
PEM_PREDICTOR = "PrototypeTransformerDecoder"
# Of earlier versions: a config that still names one gets a warning, and the key has no effect.
REMOVED_KEYS = ("MODEL.PUBLISHED_ROUNDING", "INPUT.FAST_RESIZE")


def add_mask_former_config(cfg: CN) -> None:
    """Add MaskFormer's keys to `cfg`, a Detectron2 configuration, in place."""
    # DeepLab's keys bring the poly schedule, the crop with a category area limit and the
    # ResNet-c stem.
    add_deeplab_config(cfg)
    _add_datasets(cfg)
    _add_input(cfg)
    _add_model(cfg)
    add_component_config(cfg)
    _add_solver(cfg)
    _add_test(cfg)
    for key in REMOVED_KEYS:
        cfg.register_deprecated_key(key)


def add_maskformer2_config(cfg: CN) -> None:
    """Add MaskFormer's keys to `cfg`, in place, with the defaults of Mask2Former's repository, for
    configs of that repository that are read by `cfg.merge_from_file`. Its name is the one there."""
    add_mask_former_config(cfg)
    cfg.MODEL.MASK_FORMER.TRANSFORMER_DECODER_NAME = MASK2FORMER_PREDICTOR
    cfg.merge_from_list([x for pair in MASK2FORMER_DEFAULTS.items() for x in pair])


def _add_datasets(cfg: CN) -> None:
    # Modules, by name (my_project.data) or file (my_data.py), that are imported first: what they
    # register (data sets, backbones, predictors, evaluators) can then be named by other keys.
    cfg.IMPORTS = ()
    # Data sets of your own, by the name under which DATASETS.TRAIN and TEST list them. Their keys,
    # with defaults, are in mask_former/data/datasets/custom.py. NUM_CLASSES, IGNORE_VALUE, the
    # mapper and the outputs of TEST follow from data sets of your own, however registered, unless
    # they are set where these are named, or later.
    cfg.DATASETS.CUSTOM = CN(new_allowed=True)


def _add_input(cfg: CN) -> None:
    # Which ground truth is made of a dataset's annotation: mask_former_semantic,
    # mask_former_panoptic, mask_former_instance, detr_panoptic (DETR's crop augmentation), or
    # coco_panoptic_lsj, coco_instance_lsj and semantic_lsj (large-scale jitter).
    cfg.INPUT.DATASET_MAPPER_NAME = "mask_former_semantic"
    # Turn images as their EXIF data say. False where they were annotated as they are in the file.
    cfg.INPUT.EXIF_ORIENTATION = True
    # SSD's random brightness, contrast, saturation and hue.
    cfg.INPUT.COLOR_AUG_SSD = False
    # Pad training images to a multiple of this, before they are batched. Nothing is ever cropped.
    # 0 or less: no padding here, the model pads the batch.
    cfg.INPUT.SIZE_DIVISIBILITY = -1
    # Grey level of the pixels that are padded there: about the mean of natural images; EoMT's is 0.
    cfg.INPUT.PADDING_VALUE = 128
    # Large-scale jitter: the image is scaled to fit a square of IMAGE_SIZE times a random number
    # between MIN_SCALE and MAX_SCALE, then cropped or padded to IMAGE_SIZE.
    cfg.INPUT.IMAGE_SIZE = 1024
    cfg.INPUT.MIN_SCALE = 0.1
    cfg.INPUT.MAX_SCALE = 2.0


def _add_model(cfg: CN) -> None:
    # Start from all of MODEL.WEIGHTS but what depends on the classes: to fine-tune on other ones.
    cfg.MODEL.WEIGHTS_WITHOUT_CLASS_HEAD = False

    # Parameters that do not learn: patterns of their names, which are regular expressions that are
    # searched in them, such as "^backbone" for all of the backbone. Batch norms that are frozen
    # keep their statistics. See docs/FINE_TUNING.md.
    cfg.MODEL.FREEZE = []

    # On NVIDIA GPUs round the factors of float32 convolutions and matrix products to 10 bits, which
    # is faster and an approximation. PyTorch by itself does so in convolutions.
    cfg.MODEL.TF32 = False
    # How the values of feature maps lie in memory: contiguous (channel by channel), channels_last
    # (pixel by pixel), or auto, the faster one; see mask_former/precision.py.
    cfg.MODEL.MEMORY_FORMAT = "auto"
    # Compile backbone, head and losses by torch.compile when they first run: minutes, once for
    # every kind of input size, so that SIZE_DIVISIBILITY should leave few. For GPUs; on CPUs the
    # network gains a little, and the losses are not compiled. The same results but for rounding.
    cfg.MODEL.COMPILE = False

    # Compute the activations of the backbone's blocks again for the gradients, instead of keeping
    # them: the same result in less memory and more time.
    cfg.MODEL.BACKBONE.ACTIVATION_CHECKPOINTING = False

    # The pixel decoder, a name of PIXEL_DECODER_REGISTRY, and its transformer encoder's depth.
    cfg.MODEL.SEM_SEG_HEAD.PIXEL_DECODER_NAME = "BasePixelDecoder"
    cfg.MODEL.SEM_SEG_HEAD.TRANSFORMER_ENC_LAYERS = 0
    # Channels of the per-pixel embeddings and of the mask embeddings.
    cfg.MODEL.SEM_SEG_HEAD.MASK_DIM = 256
    # Weights of the classes in the class loss, or the loss of pixels, one for each class; empty: 1
    # each. "No object" weighs NO_OBJECT_WEIGHT beside them.
    cfg.MODEL.SEM_SEG_HEAD.CLASS_WEIGHTS = []
    # MSDeformAttnPixelDecoder: the maps that its encoder attends to, and the points that a head
    # samples of each; and its heads, which are not MASK_FORMER.NHEADS. In Mask2Former's repository
    # the last two are never read; see engine/completion.py.
    cfg.MODEL.SEM_SEG_HEAD.DEFORMABLE_TRANSFORMER_ENCODER_IN_FEATURES = ["res3", "res4", "res5"]
    cfg.MODEL.SEM_SEG_HEAD.DEFORMABLE_TRANSFORMER_ENCODER_N_POINTS = 4
    cfg.MODEL.SEM_SEG_HEAD.DEFORMABLE_TRANSFORMER_ENCODER_N_HEADS = 8

    cfg.MODEL.MASK_FORMER = CN()
    # The predictor, a name of PREDICTOR_REGISTRY.
    cfg.MODEL.MASK_FORMER.PREDICTOR_NAME = "StandardPredictor"
    # Mask2Former's name for the same; if it is not empty, it is the one that counts.
    cfg.MODEL.MASK_FORMER.TRANSFORMER_DECODER_NAME = ""
    cfg.MODEL.MASK_FORMER.NUM_OBJECT_QUERIES = 100

    # Loss: every decoder layer is supervised, or the last one only.
    cfg.MODEL.MASK_FORMER.DEEP_SUPERVISION = True
    cfg.MODEL.MASK_FORMER.NO_OBJECT_WEIGHT = 0.1
    cfg.MODEL.MASK_FORMER.CLASS_WEIGHT = 1.0
    cfg.MODEL.MASK_FORMER.DICE_WEIGHT = 1.0
    cfg.MODEL.MASK_FORMER.MASK_WEIGHT = 20.0
    # What MASK_WEIGHT weighs: "focal" (MaskFormer), or "bce", binary cross entropy (Mask2Former).
    cfg.MODEL.MASK_FORMER.MASK_LOSS = "focal"
    # Which query learns which segment: "hungarian", that of the least total cost, or "fixed",
    # query i that of class i (needs NUM_OBJECT_QUERIES = NUM_CLASSES).
    cfg.MODEL.MASK_FORMER.MATCHER = "hungarian"
    # Learn each mask at this many random points only, and match at as many; 0: at every pixel.
    # An approximation: see docs/PERFORMANCE.md. 12544 is Mask2Former's.
    cfg.MODEL.MASK_FORMER.TRAIN_NUM_POINTS = 0
    # This share of the points is where the mask is least certain, of this many times as many.
    cfg.MODEL.MASK_FORMER.OVERSAMPLE_RATIO = 3.0
    cfg.MODEL.MASK_FORMER.IMPORTANCE_SAMPLE_RATIO = 0.75
    # Leave padded and unannotated pixels out of costs and mask losses. The published models were
    # trained with such pixels as background of every mask.
    cfg.MODEL.MASK_FORMER.IGNORE_VOID = False

    # Transformer.
    cfg.MODEL.MASK_FORMER.NHEADS = 8
    cfg.MODEL.MASK_FORMER.DROPOUT = 0.1
    cfg.MODEL.MASK_FORMER.DIM_FEEDFORWARD = 2048
    cfg.MODEL.MASK_FORMER.ENC_LAYERS = 0
    cfg.MODEL.MASK_FORMER.DEC_LAYERS = 6
    cfg.MODEL.MASK_FORMER.PRE_NORM = False
    cfg.MODEL.MASK_FORMER.HIDDEN_DIM = 256
    # What the queries attend to: a backbone map, or what the pixel decoder offers: its per-pixel
    # embeddings ("pixel_embedding"), its encoded map ("transformer_encoder") or its three coarsest
    # maps ("multi_scale_pixel_decoder"). A predictor for one map takes the coarsest.
    cfg.MODEL.MASK_FORMER.TRANSFORMER_IN_FEATURE = "res5"
    # Project that map even where its channels equal HIDDEN_DIM.
    cfg.MODEL.MASK_FORMER.ENFORCE_INPUT_PROJ = False

    # Batches are padded to a multiple of this; 0: to their largest image only; negative: to a
    # multiple of the backbone's own divisibility.
    cfg.MODEL.MASK_FORMER.SIZE_DIVISIBILITY = 32

    # Inference: any combination of outputs. TEST.DETECTIONS_PER_IMAGE limits the instances.
    cfg.MODEL.MASK_FORMER.TEST = CN()
    cfg.MODEL.MASK_FORMER.TEST.SEMANTIC_ON = True
    cfg.MODEL.MASK_FORMER.TEST.INSTANCE_ON = False
    cfg.MODEL.MASK_FORMER.TEST.PANOPTIC_ON = False
    # Panoptic merge: the least class score of a query, and the least share of its own mask that
    # must remain visible.
    cfg.MODEL.MASK_FORMER.TEST.OBJECT_MASK_THRESHOLD = 0.0
    cfg.MODEL.MASK_FORMER.TEST.OVERLAP_THRESHOLD = 0.0
    # Mask2Former's rules. Panoptic pixels where their segment has a probability below 0.5 are void.
    cfg.MODEL.MASK_FORMER.TEST.VOID_BELOW_HALF = False
    # The best instances are chosen among all classes, before those that are no things are left out.
    cfg.MODEL.MASK_FORMER.TEST.TOP_OF_ALL_CLASSES = False
    # Return the class of each pixel, (H, W), instead of the scores of all classes, (K, H, W): in a
    # fraction of the time and memory. What Detectron2 offers for predictions wants scores; the
    # evaluation and the demo of this package ask for classes by themselves.
    cfg.MODEL.MASK_FORMER.TEST.SEMANTIC_LABELS = False
    # Scale the masks to the requested size before the semantic scores are summed, or after
    # (less memory for large outputs and many classes). Always before with PANOPTIC_ON or
    # INSTANCE_ON.
    cfg.MODEL.MASK_FORMER.TEST.SEM_SEG_POSTPROCESSING_BEFORE_INFERENCE = False


def _add_solver(cfg: CN) -> None:
    cfg.SOLVER.OPTIMIZER = "ADAMW"  # or SGD
    # The backbone learns at this fraction of BASE_LR.
    cfg.SOLVER.BACKBONE_MULTIPLIER = 0.1
    # Layer-wise decay of the learning rate, mostly for plain ViTs: every layer of the backbone
    # learns at this fraction of the rate of the next one. 1: all alike. The pattern finds a layer's
    # parameters by their names; its group is the layer's number.
    cfg.SOLVER.LAYER_DECAY = 1.0
    cfg.SOLVER.LAYER_DECAY_PATTERN = r"^backbone\.(?:[a-z_]+\.)*blocks\.(\d+)\."
    # With LR_SCHEDULER_NAME TwoStageWarmupPolyLR the backbone's rate is 0 for WARMUP_ITERS
    # iterations, and then warms up in as many as this.
    cfg.SOLVER.BACKBONE_WARMUP_ITERS = 0
    # Factors of the learning rate by name: pairs of a pattern, as in MODEL.FREEZE, and a factor,
    # such as [["query", 2.0]]. They multiply BACKBONE_MULTIPLIER, LAYER_DECAY and each other.
    cfg.SOLVER.LR_FACTORS = []
    # The gradients of a batch of IMS_PER_BATCH are accumulated over so many parts, in the memory of
    # one. Batch, rate and schedule stay as they are, and so do the losses of images of one size;
    # others are padded to the largest of their part, as a process pads its share of a batch.
    cfg.SOLVER.ACCUMULATION_STEPS = 1
    # The training ends after so many evaluations in a row without a better
    # TEST.BEST_CHECKPOINT_METRIC; 0: it does not end early.
    cfg.SOLVER.EARLY_STOPPING_PATIENCE = 0
    # Weight decay of embeddings (queries, relative positions).
    cfg.SOLVER.WEIGHT_DECAY_EMBED = 0.0
    # Evaluate and save an exponential moving average (EMA) of the weights, over about the last
    # 1 / (1 - EMA_DECAY) iterations; the weights that are trained are in the checkpoint besides,
    # but not in model_best.pth. 0: no average. The average is not compiled by MODEL.COMPILE.
    cfg.SOLVER.EMA_DECAY = 0.0
    # Arithmetic of mixed precision (SOLVER.AMP.ENABLED): float32, bfloat16, or float16 with a loss
    # scaler (NVIDIA GPUs), where the device has it; or auto: bfloat16 where the device computes it
    # natively, else float16 on a GPU, else float32. Costs and losses stay in float32.
    cfg.SOLVER.AMP.DTYPE = "auto"


def _add_test(cfg: CN) -> None:
    # Count the objects (things) of each class in an image, and evaluate their numbers, beside AP or
    # PQ: the instances of at least this score or, with PANOPTIC_ON alone, the segments.
    cfg.TEST.COUNT = CN()
    cfg.TEST.COUNT.ENABLED = False
    cfg.TEST.COUNT.MIN_SCORE = 0.5
    # Semantic segmentation of any model in square windows of so many pixels a side, whose scores
    # are averaged; 0: of whole images. An image with a shorter side is enlarged to it first.
    cfg.TEST.WINDOW = CN()
    cfg.TEST.WINDOW.SIZE = 0
    # Pixels from one window to the next, at most SIZE; the last one ends with the image. 0: as few
    # windows as cover the image, spread evenly.
    cfg.TEST.WINDOW.STRIDE = 0
    # Windows that the model sees at once.
    cfg.TEST.WINDOW.BATCH_SIZE = 4
    # Test-time augmentation of models whose scores are logits: average the softmax of every view's
    # (Segmenter), instead of the logits (the per-pixel baselines).
    cfg.TEST.AUG.PROBABILITIES = False
    # Arithmetic of evaluation and prediction: float32, bfloat16 or float16; or auto: with
    # SOLVER.AMP.ENABLED as SOLVER.AMP.DTYPE, so that a model is judged in what it learned in,
    # and float32 without, as in all recipes of MaskFormer's. Post-processing stays in float32.
    cfg.TEST.PRECISION = "auto"
    # Compute the validation loss with each evaluation of a training, on DATASETS; empty: on
    # DATASETS.TEST. It is that of the final prediction, and the mean over the images.
    cfg.TEST.LOSS = CN({"ENABLED": False, "DATASETS": ()})
    # The metric by which the best checkpoint is chosen, e.g. "panoptic_seg/PQ", or
    # "validation/total_loss", of which the least is the best. Empty: the first that the evaluation
    # reports of PQ, mIoU, AP, validation loss.
    cfg.TEST.BEST_CHECKPOINT_METRIC = ""

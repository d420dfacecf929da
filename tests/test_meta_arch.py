"""The meta-architecture as its users see it: any inputs, any outputs, any combination."""

import pytest
import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.modeling import build_model
from detectron2.structures import BitMasks, Instances

from mask_former.engine import get_cfg
from mask_former.errors import NonFiniteError, UserError
from mask_former.structures import Prediction

K, THINGS = 5, 3


@pytest.fixture(scope="module")
def dataset():
    name = "meta_arch_test"
    DatasetCatalog.register(name, list)
    MetadataCatalog.get(name).set(
        thing_dataset_id_to_contiguous_id={10 + i: i for i in range(THINGS)},
        stuff_classes=[f"class {i}" for i in range(K)],
    )
    yield name
    DatasetCatalog.remove(name)
    MetadataCatalog.remove(name)


@pytest.fixture
def cfg(dataset) -> CfgNode:
    cfg = get_cfg()
    cfg.MODEL.META_ARCHITECTURE = "MaskFormer"
    cfg.MODEL.DEVICE = "cpu"
    cfg.MODEL.PIXEL_MEAN, cfg.MODEL.PIXEL_STD = [120.0] * 3, [60.0] * 3
    cfg.MODEL.BACKBONE.NAME = "build_resnet_backbone"
    cfg.MODEL.RESNETS.DEPTH = 18
    cfg.MODEL.RESNETS.RES2_OUT_CHANNELS = 64
    cfg.MODEL.RESNETS.OUT_FEATURES = ["res2", "res3", "res4", "res5"]
    cfg.MODEL.SEM_SEG_HEAD.NAME = "MaskFormerHead"
    cfg.MODEL.SEM_SEG_HEAD.IN_FEATURES = ["res2", "res3", "res4", "res5"]
    cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES = K
    cfg.MODEL.SEM_SEG_HEAD.CONVS_DIM = cfg.MODEL.SEM_SEG_HEAD.MASK_DIM = 32
    cfg.MODEL.MASK_FORMER.HIDDEN_DIM = 32
    cfg.MODEL.MASK_FORMER.DIM_FEEDFORWARD = 32
    cfg.MODEL.MASK_FORMER.NUM_OBJECT_QUERIES = 7
    cfg.MODEL.MASK_FORMER.DEC_LAYERS = 2
    cfg.MODEL.MASK_FORMER.DROPOUT = 0.0
    cfg.DATASETS.TRAIN = cfg.DATASETS.TEST = [dataset]
    return cfg


def make_model(cfg, seed=0):
    torch.manual_seed(seed)
    return build_model(cfg)


def make_inputs(sizes=((64, 96), (48, 40)), segments=(2, 0), seed=0):
    generator = torch.Generator().manual_seed(seed)
    inputs = []
    for i, ((h, w), n) in enumerate(zip(sizes, segments, strict=True)):
        instances = Instances(
            (h, w),
            gt_classes=torch.randint(K, (n,), generator=generator),
            gt_masks=BitMasks(torch.rand(n, h, w, generator=generator) < 0.5),
        )
        image = torch.randint(256, (3, h, w), generator=generator, dtype=torch.uint8)
        inputs.append({"image": image, "instances": instances, "file_name": f"{i}.jpg"})
    return inputs


@pytest.mark.parametrize("segments", [(2, 0), (0, 0), (9, 1)], ids=str)
def test_trains_on_any_number_of_segments(cfg, segments):
    model = make_model(cfg)
    losses = model(make_inputs(segments=segments))
    assert losses.keys() == {
        f"loss_{kind}{layer}" for kind in ("ce", "mask", "dice") for layer in ("", "_0")
    }
    sum(losses.values()).backward()
    unused = [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert not unused  # distributed training waits for the gradient of every parameter


@pytest.mark.parametrize("label", [K, K + 1, -1])
def test_a_class_that_the_model_does_not_have_is_refused(cfg, label):
    inputs = make_inputs()
    inputs[0]["instances"].gt_classes[1] = label
    with pytest.raises(UserError, match=rf"0\.jpg: .* classes \[{label}\], .* in 0\.\.{K - 1} "):
        make_model(cfg)(inputs)


def test_masks_may_be_plain_tensors(cfg):
    model, inputs = make_model(cfg), make_inputs()
    expected = model(inputs)
    for x in inputs:
        masks = x["instances"].gt_masks.tensor
        x["instances"].remove("gt_masks")
        x["instances"].gt_masks = masks
    torch.testing.assert_close(model(inputs), expected)


@pytest.mark.parametrize("training", [True, False])
def test_a_broken_prediction_names_the_file(cfg, training):
    """No figure is made of it, and no loss."""
    model, inputs = make_model(cfg).train(training), make_inputs()
    inputs[1]["image"] = torch.full((3, 48, 40), float("nan"))
    with pytest.raises(NonFiniteError, match=r"\['1.jpg'\]"):
        model(inputs)


@pytest.mark.parametrize(
    "on",
    [("SEMANTIC_ON",), ("PANOPTIC_ON",), ("INSTANCE_ON",),
     ("SEMANTIC_ON", "INSTANCE_ON", "PANOPTIC_ON")],
    ids="+".join,
)  # fmt: skip
def test_outputs_are_those_switched_on_at_the_requested_size(cfg, on):
    for key in ("SEMANTIC_ON", "INSTANCE_ON", "PANOPTIC_ON"):
        cfg.MODEL.MASK_FORMER.TEST[key] = key in on
    cfg.TEST.DETECTIONS_PER_IMAGE = 4
    inputs = make_inputs()
    inputs[0] |= {"height": 100, "width": 151}
    with torch.no_grad():
        results = make_model(cfg).eval()(inputs)
    names = {"SEMANTIC_ON": "sem_seg", "INSTANCE_ON": "instances", "PANOPTIC_ON": "panoptic_seg"}
    for result, size in zip(results, [(100, 151), (48, 40)], strict=True):
        assert result.keys() == {names[key] for key in on}
        if "sem_seg" in result:
            assert result["sem_seg"].shape == (K, *size)
        if "panoptic_seg" in result:
            panoptic, segments = result["panoptic_seg"]
            assert panoptic.shape == size and panoptic.dtype == torch.int32
            ids = {s["id"] for s in segments}
            assert set(panoptic.unique().tolist()) <= ids | {0}
            assert all(s["isthing"] == (s["category_id"] < THINGS) for s in segments)
        if "instances" in result:
            instances = result["instances"]
            assert instances.image_size == size
            assert instances.pred_masks.shape == (len(instances), *size)
            assert len(instances) <= 4
            assert instances.pred_classes.max() < THINGS


@pytest.mark.parametrize("before", [True, False], ids=["masks are resized", "scores are resized"])
@pytest.mark.parametrize("size", [(100, 151), (64, 96), (31, 40)], ids=str)
def test_labels_are_those_of_the_largest_scores(cfg, before, size):
    cfg.MODEL.MASK_FORMER.TEST.SEM_SEG_POSTPROCESSING_BEFORE_INFERENCE = before
    scores_of = make_model(cfg).eval()
    cfg.MODEL.MASK_FORMER.TEST.SEMANTIC_LABELS = True
    labels_of = make_model(cfg).eval()
    inputs = make_inputs()
    inputs[0] |= {"height": size[0], "width": size[1]}
    with torch.no_grad():
        for scores, labels in zip(scores_of(inputs), labels_of(inputs), strict=True):
            assert labels["sem_seg"].dtype == torch.int64
            assert torch.equal(labels["sem_seg"], scores["sem_seg"].argmax(0))


def test_inference_is_exact_under_autocast_and_without_gradients(cfg):
    cfg.MODEL.MASK_FORMER.TEST.INSTANCE_ON = cfg.MODEL.MASK_FORMER.TEST.PANOPTIC_ON = True
    model, inputs = make_model(cfg).eval(), make_inputs()
    with torch.no_grad():
        images = model.preprocess(inputs)
        prediction = model.predict(images.tensor)[-1]
        prediction = Prediction(prediction.class_logits, prediction.mask_logits)
    expected = model.postprocess(prediction, images, inputs)
    prediction.mask_features.requires_grad_(True)
    with torch.autocast("cpu", torch.bfloat16):
        results = model.postprocess(prediction, images, inputs)
    for result, other in zip(results, expected, strict=True):
        assert not result["sem_seg"].requires_grad
        assert torch.equal(result["sem_seg"], other["sem_seg"])
        assert torch.equal(result["panoptic_seg"][0], other["panoptic_seg"][0])
        assert torch.equal(result["instances"].scores, other["instances"].scores)


def test_an_image_alone_and_in_a_batch_of_its_size_gives_the_same(cfg):
    model = make_model(cfg).eval()
    inputs = make_inputs(sizes=((64, 64), (64, 64)))
    with torch.no_grad():
        together, alone = model(inputs), model(inputs[1:])
    torch.testing.assert_close(together[1]["sem_seg"], alone[0]["sem_seg"], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("divisibility", "size"), [(32, (64, 96)), (0, (50, 70)), (-1, (64, 96))])
def test_padding(cfg, divisibility, size):
    cfg.MODEL.MASK_FORMER.SIZE_DIVISIBILITY = divisibility
    model = make_model(cfg)
    if divisibility < 0:
        # ResNets ask for no divisibility of their own.
        assert model.size_divisibility == model.backbone.size_divisibility
        return
    images = model.preprocess(make_inputs(sizes=((50, 33), (17, 70))))
    assert images.tensor.shape[-2:] == size
    assert images.tensor[0, :, 50:].abs().sum() == images.tensor[0, :, :, 33:].abs().sum() == 0


def test_void_is_background_by_default_and_can_be_left_out(cfg):
    inputs = make_inputs()
    annotated = torch.zeros(64, 96, dtype=torch.bool)
    annotated[10:50, 20:70] = True
    inputs[0]["valid"] = annotated
    model = make_model(cfg)
    targets = model.prepare_targets(inputs, model.preprocess(inputs))
    assert [t.valid for t in targets] == [None, None]
    losses = model(inputs)

    cfg.MODEL.MASK_FORMER.IGNORE_VOID = True
    model = make_model(cfg)
    targets = model.prepare_targets(inputs, model.preprocess(inputs))
    assert torch.equal(targets[0].valid, annotated)
    assert targets[1].valid[:48, :40].all() and targets[1].valid.sum() == 48 * 40
    assert not torch.isclose(model(inputs)["loss_mask"], losses["loss_mask"])
    # What the pixels that are left out look like in the ground truth makes no difference.
    expected = model(inputs)
    inputs[0]["instances"].gt_masks.tensor[:, ~annotated] = True
    torch.testing.assert_close(model(inputs), expected)


def test_an_unknown_matcher_is_named(cfg):
    cfg.MODEL.MASK_FORMER.MATCHER = "greedy"
    with pytest.raises(ValueError, match="MATCHER is 'greedy'; .*'hungarian' or 'fixed'"):
        make_model(cfg)


def test_nothing_switched_on(cfg):
    cfg.MODEL.MASK_FORMER.TEST.SEMANTIC_ON = False
    with pytest.raises(ValueError, match="SEMANTIC_ON, INSTANCE_ON, PANOPTIC_ON"):
        make_model(cfg)


def test_panoptic_inference_needs_to_know_the_things(cfg):
    cfg.DATASETS.TEST = ["a_set_without_metadata"]
    make_model(cfg)  # semantic inference does not
    cfg.MODEL.MASK_FORMER.TEST.PANOPTIC_ON = True
    with pytest.raises(ValueError, match="a_set_without_metadata.*thing_dataset_id"):
        make_model(cfg)


def test_things_are_those_of_the_set_that_is_tested_on(cfg, dataset):
    training = MetadataCatalog.get("meta_arch_training")
    training.set(thing_dataset_id_to_contiguous_id={1: K - 1}, stuff_classes=["a"])
    cfg.DATASETS.TRAIN = [training.name]
    cfg.MODEL.MASK_FORMER.TEST.PANOPTIC_ON = True
    assert make_model(cfg).inference.thing_classes == set(range(THINGS))
    cfg.DATASETS.TEST = []
    assert make_model(cfg).inference.thing_classes == {K - 1}
    MetadataCatalog.remove(training.name)


def test_a_semantic_set_may_be_tested_on_beside_a_panoptic_one(cfg, dataset):
    cfg.DATASETS.TEST = ["a_set_without_metadata", dataset]
    cfg.MODEL.MASK_FORMER.TEST.PANOPTIC_ON = True
    assert make_model(cfg).inference.thing_classes == set(range(THINGS))


def test_data_sets_that_contradict(cfg, dataset):
    other = MetadataCatalog.get("meta_arch_other")
    other.set(thing_dataset_id_to_contiguous_id={10: 0}, stuff_classes=["a", "b"])
    cfg.DATASETS.TEST = [dataset, other.name]
    make_model(cfg)  # semantic inference does not ask
    cfg.MODEL.MASK_FORMER.TEST.INSTANCE_ON = True
    with pytest.raises(ValueError, match="meta_arch_other, .*do not agree"):
        make_model(cfg)
    MetadataCatalog.remove(other.name)


def test_runs_under_bfloat16(cfg):
    model, inputs = make_model(cfg), make_inputs()
    expected = sum(model(inputs).values())
    with torch.autocast("cpu", torch.bfloat16):
        losses = model(inputs)
    assert {loss.dtype for loss in losses.values()} == {torch.float32}
    assert sum(losses.values()).item() == pytest.approx(expected.item(), rel=0.05)

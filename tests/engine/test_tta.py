"""Test-time augmentation: which views are made, what is averaged, and that a mean is a result."""

import weakref
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn

from mask_former import MaskFormer
from mask_former.engine import DefaultPredictor, Trainer
from mask_former.engine.tta import (
    MaskFormerWithTTA,
    SemanticSegmentorWithTTA,
    with_test_time_augmentation,
)
from mask_former.inference import Inference
from mask_former.structures import Prediction
from tests.engine.tiny import tiny_cfg

THING, BACKGROUND = 0, 1
SHADES = torch.tensor([0.0, 100.0, 150.0, 200.0])  # of the background and of three boxes


class Mirror(nn.Module):
    """Returns the image that it is given, at the requested size, as scores."""

    def __init__(self):
        super().__init__()
        self.shapes, self.results, self.alive = [], [], []

    def forward(self, inputs):
        (x,) = inputs
        self.shapes.append(tuple(x["image"].shape[1:]))
        self.alive.append(sum(result() is not None for result in self.results))
        size = (x["height"], x["width"])
        scores = F.interpolate(x["image"][None].float(), size=size, mode="bilinear")[0]
        self.results.append(weakref.ref(scores))
        return [{"sem_seg": scores}]


class LeftToRight(nn.Module):
    """A perfect head for three boxes: query 0 finds the leftmost one, and so on.

    So the queries of an image and of its mirror image stand for different boxes. The last query
    finds the background, the one before it nothing.
    """

    def forward(self, image):
        image = F.interpolate(image, scale_factor=0.25, mode="nearest")[0, 0]
        shade = (image[..., None] - SHADES).abs().argmin(-1)  # of pixels between two, too
        boxes = [shade == i for i in range(1, len(SHADES))]
        boxes.sort(key=lambda box: box.nonzero()[:, 1].float().mean())
        masks = torch.full((5, *image.shape), -8.0)
        classes = torch.tensor([0.0, 0.0, 6.0]).repeat(5, 1)
        for query, box in enumerate(boxes):
            masks[query][box] = 8.0
            classes[query, [THING, 2]] = torch.tensor([6.0, 0.0])
        masks[-1][shade == 0] = 8.0
        classes[-1, [BACKGROUND, 2]] = torch.tensor([6.0, 0.0])
        return [Prediction(classes[None], masks[None])]


def make_boxes_model(**options):
    return MaskFormer(
        backbone=nn.Identity(),
        sem_seg_head=LeftToRight(),
        criterion=nn.Identity(),
        pixel_mean=[0.0] * 3,
        pixel_std=[1.0] * 3,
        inference=Inference(
            thing_classes=[THING],
            overlap_threshold=0.5,
            **{"panoptic_on": True, "instance_on": True, **options},
        ),
    ).eval()


def draw_boxes():
    image = torch.zeros(3, 64, 96, dtype=torch.uint8)
    image[:, 8:32, 8:24], image[:, 40:56, 32:40], image[:, 16:56, 56:88] = 100, 200, 150
    return image


def make_model(**opts):
    torch.manual_seed(1)
    cfg = tiny_cfg("unused", MODEL__MASK_FORMER__TEST__INSTANCE_ON=True, **opts)
    model = Trainer.build_model(cfg).eval()
    # Masks that differ from query to query and from pixel to pixel; confident classes.
    head = model.sem_seg_head.predictor
    with torch.no_grad():
        head.class_embed.weight.mul_(20)
        head.mask_embed.layers[-1].weight.mul_(20)
    return cfg, model


def random_image(height=64, width=96, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(256, (3, height, width), generator=generator, dtype=torch.uint8)


def tta(model, min_sizes=(64,), max_size=1000, flip=True):
    wrapper = MaskFormerWithTTA if isinstance(model, MaskFormer) else SemanticSegmentorWithTTA
    return wrapper(model, min_sizes=min_sizes, max_size=max_size, flip=flip)


def test_views_have_the_sizes_that_are_asked_for():
    model = Mirror()
    tta(model, (32, 64, 128), max_size=120)([{"image": random_image(64, 96)}])
    assert model.shapes == [(32, 48)] * 2 + [(64, 96)] * 2 + [(80, 120)] * 2
    model.shapes.clear()
    tta(model, (32, 64), flip=False)([{"image": random_image(96, 64)}])
    assert model.shapes == [(48, 32), (96, 64)]


def test_scores_are_averaged_where_they_belong():
    image = random_image()
    # Mirrored scores are mirrored back: the image comes out as it went in.
    (same,) = tta(Mirror())([{"image": image}])
    assert torch.equal(same["sem_seg"], image.float())

    class Count(Mirror):
        def forward(self, inputs):
            (result,) = super().forward(inputs)
            return [{"sem_seg": torch.full_like(result["sem_seg"], len(self.shapes))}]

    (mean,) = tta(Count(), (32, 64, 96))([{"image": image, "height": 20, "width": 30}])
    assert mean["sem_seg"].shape == (3, 20, 30)
    torch.testing.assert_close(mean["sem_seg"], torch.full((3, 20, 30), 3.5))  # of 1 .. 6


def test_there_is_never_more_than_one_result():
    model = Mirror()
    tta(model, (32, 48, 64))([{"image": random_image()}])
    assert model.alive == [0] * 6  # of the results before


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32, torch.int64])
def test_images_of_any_dtype(dtype):
    image = random_image()
    (result,) = tta(Mirror())([{"image": image.to(dtype)}])
    assert torch.equal(result["sem_seg"], image.float())
    (smaller,) = tta(Mirror(), (32,))([{"image": image.to(dtype), "height": 1, "width": 1}])
    assert smaller["sem_seg"].mean() == pytest.approx(image.float().mean().item(), abs=20)


@pytest.mark.parametrize("image_format", ["RGB", "BGR"])
def test_an_image_is_read_where_there_is_only_its_name(tmp_path, image_format):
    image = random_image(30, 50)
    Image.fromarray(image.permute(1, 2, 0).numpy()).save(tmp_path / "a.png")
    model = SemanticSegmentorWithTTA(
        Mirror(), min_sizes=(30, 40), max_size=100, image_format=image_format
    )
    in_memory = image if image_format == "RGB" else image.flip(0)
    results = model([{"file_name": str(tmp_path / "a.png")}, {"image": in_memory}])
    assert results[0]["sem_seg"].shape == (3, 30, 50)
    assert torch.equal(results[0]["sem_seg"], results[1]["sem_seg"])


def assert_same(result, expected):
    assert result.keys() == expected.keys()
    torch.testing.assert_close(result["sem_seg"], expected["sem_seg"])
    assert torch.equal(result["panoptic_seg"][0], expected["panoptic_seg"][0])
    assert result["panoptic_seg"][1] == expected["panoptic_seg"][1]
    for name in ("pred_masks", "pred_classes", "scores"):
        torch.testing.assert_close(
            result["instances"].get(name), expected["instances"].get(name), msg=name
        )


def test_a_single_view_is_plain_inference():
    _, model = make_model()
    x = {"image": random_image(), "height": 100, "width": 150}
    with torch.no_grad():
        (expected,) = model([x])
    assert expected["panoptic_seg"][1] and len(expected["instances"])
    assert_same(tta(model, flip=False)([x])[0], expected)


def test_per_pixel_classification_is_augmented_too():
    cfg = tiny_cfg(
        "unused",
        MODEL__META_ARCHITECTURE="SemanticSegmentor",
        MODEL__SEM_SEG_HEAD__NAME="PerPixelBaselineHead",
        TEST__AUG__MIN_SIZES=(64,),
    )
    model = with_test_time_augmentation(cfg, Trainer.build_model(cfg))
    x = {"image": random_image(), "height": 100, "width": 150}
    mirrored = {**x, "image": x["image"].flip(-1)}
    with torch.no_grad():
        plain, other = (model.model([view])[0]["sem_seg"] for view in (x, mirrored))
    torch.testing.assert_close(model([x])[0]["sem_seg"], (plain + other.flip(-1)) / 2)


def test_outputs_are_those_that_the_model_has_on():
    for on in ("semantic_on", "panoptic_on", "instance_on"):
        switches = dict.fromkeys(("semantic_on", "panoptic_on", "instance_on"), False)
        model = make_boxes_model(**{**switches, on: True})
        x = [{"image": draw_boxes()}]
        assert tta(model)(x)[0].keys() == model(x)[0].keys()


def test_queries_that_swap_places_in_the_mirror_image():
    model, x = make_boxes_model(), {"image": draw_boxes()}
    (expected,), (result,) = model([x]), tta(model)([x])
    assert len(expected["panoptic_seg"][1]) == 4
    assert_same(result, expected)


def test_segments_are_the_same_at_all_scales():
    (result,) = tta(make_boxes_model(), (96, 64, 48))([{"image": draw_boxes()}])
    panoptic, segments = result["panoptic_seg"]
    assert sorted(s["category_id"] for s in segments) == [THING, THING, THING, BACKGROUND]
    for shade in SHADES.tolist():
        box = draw_boxes()[0] == shade
        segment = panoptic == panoptic[box].mode().values
        assert (segment & box).sum() / (segment | box).sum() > 0.8


@pytest.mark.parametrize("seed", range(3))
def test_a_symmetric_image_gives_a_symmetric_result(seed):
    half = F.interpolate(random_image(8, 6, seed)[None].float(), scale_factor=8)[0].byte()
    image = torch.cat((half, half.flip(-1)), -1)
    _, model = make_model()
    (plain,), (result,) = model([{"image": image}]), tta(model, (64, 96, 32))([{"image": image}])
    assert not torch.allclose(plain["sem_seg"], plain["sem_seg"].flip(-1), atol=1e-2)
    torch.testing.assert_close(result["sem_seg"], result["sem_seg"].flip(-1))
    panoptic, segments = result["panoptic_seg"]
    classes = torch.zeros(len(segments) + 1, dtype=torch.int64)
    for segment in segments:
        classes[segment["id"]] = segment["category_id"] + 1
    assert len(segments) > 1
    assert (classes[panoptic] == classes[panoptic].flip(-1)).float().mean() > 0.99
    instances = result["instances"]
    for mask, score in zip(instances.pred_masks, instances.scores, strict=True):
        difference = (instances.pred_masks != mask.flip(-1)).float().mean((1, 2))
        assert ((difference < 0.01) & ((instances.scores - score).abs() < 1e-3)).any()


def test_which_model_gets_which():
    cfg = tiny_cfg("unused", TEST__AUG__MIN_SIZES=(10, 20), TEST__AUG__FLIP=False)
    cfg.INPUT.FORMAT = "BGR"
    model = with_test_time_augmentation(cfg, Mirror())
    assert type(model) is SemanticSegmentorWithTTA
    assert (model.min_sizes, model.max_size) == ((10, 20), 4000)
    assert (model.flip, model.image_format) == (False, "BGR")
    assert type(with_test_time_augmentation(cfg, make_boxes_model())) is MaskFormerWithTTA


def test_what_cannot_be_augmented(tmp_path):
    with pytest.raises(ValueError, match="TEST.AUG.MIN_SIZES"):
        tta(Mirror(), ())
    with pytest.raises(ValueError, match="'image' or 'file_name'.*height"):
        tta(Mirror())([{"height": 3}])
    with pytest.raises(FileNotFoundError, match=r"missing\.png"):
        tta(Mirror())([{"file_name": str(tmp_path / "missing.png")}])
    boxes = nn.Module()
    boxes.forward = lambda inputs: [{"instances": None}]
    with pytest.raises(ValueError, match=r"'sem_seg'.*\['instances'\]"):
        tta(boxes)([{"image": random_image()}])
    labels = nn.Module()
    labels.forward = lambda inputs: [{"sem_seg": torch.zeros(2, 3)}]
    with pytest.raises(ValueError, match="returns labels"):
        tta(labels)([{"image": random_image()}])


def test_labels_are_those_of_the_mean_scores():
    _, model = make_model()
    x = [{"image": random_image()}]
    (scores,) = tta(model)(x)
    model.inference = replace(model.inference, semantic_labels=True)
    (labels,) = tta(model)(x)
    assert torch.equal(labels["sem_seg"], scores["sem_seg"].argmax(0))


def test_predictor_augments_where_the_config_says_so(tmp_path):
    cfg, model = make_model(
        TEST__AUG__ENABLED=True,
        TEST__AUG__MIN_SIZES=(32, 64),
        MODEL__MEMORY_FORMAT="contiguous",  # as the model is here: equal but for rounding otherwise
    )
    torch.save({"model": model.state_dict()}, tmp_path / "weights.pth")
    cfg.MODEL.WEIGHTS = str(tmp_path / "weights.pth")
    cfg.INPUT.MIN_SIZE_TEST = 0
    image = random_image()
    (expected,) = tta(model, (32, 64))([{"image": image}])
    assert_same(DefaultPredictor(cfg)(image.permute(1, 2, 0).flip(-1).numpy()), expected)

"""TEST.LOSS: the losses of images that are not learned, with the evaluations of a training."""

import json
import os
import signal
from pathlib import Path

import pytest
import torch
from torch import nn

from mask_former.data.loader import build_loss_loader
from mask_former.engine import Trainer, check_run
from mask_former.engine.interruption import Interrupted
from mask_former.engine.validation_loss import returns_losses, with_validation_loss
from mask_former.errors import UserError
from tests.engine import tiny
from tests.engine.test_accumulation import PER_PIXEL

LOSS = {"TEST__LOSS__ENABLED": True}


def losses_of(cfg, model):
    return with_validation_loss({}, cfg, model)["validation"]


@pytest.mark.parametrize("head", [{}, PER_PIXEL], ids=["MaskFormer", "SemanticSegmentor"])
def test_it_is_the_mean_of_what_the_images_would_train_by(shapes_root, tmp_path, head):
    """The final layer's losses, each image as a batch of its own."""
    test = ("shapes_val_semantic",) if head else ("shapes_val_panoptic",)
    options = LOSS | {"DATASETS__TEST": test, "MODEL__MASK_FORMER__DROPOUT": 0.0} | head
    options["INPUT__SIZE_DIVISIBILITY"] = 32
    cfg = tiny.tiny_cfg(tmp_path, **options)
    model = Trainer.build_model(cfg).train()
    batches = list(build_loss_loader(cfg, test[0]))
    assert [len(batch) for batch in batches] == [1] * 8
    images = [model(batch) for batch in batches]
    found = losses_of(cfg, model)
    names = [name for name in images[0] if not name[-1].isdigit()]
    assert list(found) == ["total_loss", *names]
    for name in names:
        assert found[name] == pytest.approx(sum(x[name].item() for x in images) / 8, rel=1e-5), name
    assert found["total_loss"] == pytest.approx(sum(found[name] for name in names))


def test_images_have_the_size_of_the_test_and_are_not_augmented(shapes_root, tmp_path):
    cfg = tiny.tiny_cfg(tmp_path, INPUT__MIN_SIZE_TEST=48, INPUT__COLOR_AUG_SSD=True, **LOSS)
    samples = [[batch[0] for batch in build_loss_loader(cfg, *cfg.DATASETS.TEST)] for _ in range(2)]
    for first, second in zip(*samples, strict=True):
        assert min(first["image"].shape[1:]) == 48
        assert torch.equal(first["image"], second["image"])
        assert first["instances"].gt_masks.tensor.shape[1:] == first["image"].shape[1:]


class Noisy(nn.Module):
    """A loss that dropout, a batch norm in training mode and random points would change."""

    def __init__(self):
        super().__init__()
        self.head = nn.Sequential(nn.Dropout(0.5), nn.BatchNorm2d(3))
        self.w = nn.Parameter(torch.zeros(1))

    def normalize_by(self, batch, average=None):
        self.number = batch and len(batch)

    def forward(self, batch):
        if not self.training:
            return []
        x = torch.stack([record["image"] for record in batch]).float()
        return {"loss_a": self.head(x).mean() + torch.rand(()), "loss_b": x.new_tensor(self.number)}


def test_it_is_the_same_each_time_and_leaves_no_trace(shapes_root, tmp_path):
    cfg = tiny.tiny_cfg(tmp_path, **LOSS)
    model = Noisy().train()
    model.head[0].eval()  # a mode of its own stays, too
    modes = [module.training for module in model.modules()]
    state = torch.get_rng_state()
    first = losses_of(cfg, model)
    assert torch.equal(torch.get_rng_state(), state)
    torch.rand(7)
    assert losses_of(cfg, model) == first and first["loss_b"] == 1
    assert [module.training for module in model.modules()] == modes
    assert model.head[1].num_batches_tracked == 0 and model.number is None
    assert model.w.grad is None


def test_only_what_chooses_between_losses_and_results_is_in_training_mode():
    model = nn.Sequential(Noisy(), nn.Dropout()).eval()
    with returns_losses(model):
        assert [name for name, m in model.named_modules() if m.training] == ["", "0"]
    assert not any(module.training for module in model.modules())


def test_a_model_without_losses_of_a_known_kind_is_refused(tmp_path):
    with pytest.raises(UserError, match="TEST.LOSS.ENABLED is True, but Linear .*normalize_by"):
        with_validation_loss({}, tiny.tiny_cfg(tmp_path, **LOSS), nn.Linear(1, 1))


def test_results_of_several_data_sets(shapes_root, tmp_path):
    sets = ("shapes_val_panoptic", "shapes_train_panoptic")
    cfg = tiny.tiny_cfg(tmp_path, TEST__LOSS__DATASETS=sets, **LOSS)
    results = with_validation_loss({"panoptic_seg": {"PQ": 1.0}}, cfg, Noisy())
    assert list(results) == ["panoptic_seg", *sets]
    assert [list(results[name]) for name in sets] == [["validation"]] * 2


@pytest.fixture(scope="module")
def trained(shapes_root, tmp_path_factory):
    """Evaluated every two iterations on a set that is no test set, with dropout and an EMA."""
    options = LOSS | {
        "TEST__LOSS__DATASETS": ("shapes_val_panoptic",),
        "DATASETS__TEST": (),
        "TEST__EVAL_PERIOD": 2,
        "TEST__BEST_CHECKPOINT_METRIC": "validation/loss_ce",
        "SOLVER__EMA_DECAY": 0.5,
        "SOLVER__BASE_LR": 3e-3,
    }
    folder = tmp_path_factory.mktemp("validation")
    cfg = tiny.tiny_cfg(folder / "run", **options)
    return cfg, tiny.run_here(cfg), options


def metrics_of(cfg):
    lines = Path(cfg.OUTPUT_DIR, "metrics.json").read_text().splitlines()
    entries = [json.loads(line) for line in lines]
    return {
        entry["iteration"]: entry["validation/loss_ce"]
        for entry in entries
        if "validation/loss_ce" in entry
    }


def test_it_is_logged_with_each_evaluation_and_the_least_is_the_best(trained):
    cfg, record, _ = trained
    values = metrics_of(cfg)
    assert list(values) == [1, 3, 6]
    assert record["metrics"]["validation"]["loss_ce"] == values[6]
    best = torch.load(Path(cfg.OUTPUT_DIR, "model_best.pth"), weights_only=True)
    assert best["metric"] == "validation/loss_ce"
    assert best["value"] == pytest.approx(min(values.values()))
    # It is what the weights of that checkpoint, those of the EMA, have.
    model = Trainer.build_model(cfg)
    model.load_state_dict(best["model"])
    assert losses_of(cfg, model)["loss_ce"] == pytest.approx(best["value"], rel=1e-5)
    events = [path.read_bytes() for path in Path(cfg.OUTPUT_DIR).glob("events.*")]
    assert any(b"validation/total_loss" in content for content in events)


def test_it_does_not_change_the_training(trained, tmp_path):
    cfg, record, options = trained
    without = tiny.tiny_cfg(
        tmp_path / "run", **options | {"TEST__LOSS__ENABLED": False, "TEST__EVAL_PERIOD": 0}
    )
    assert tiny.run_here(without)["losses"] == record["losses"]


def test_two_processes_have_the_loss_of_one(trained, tmp_path):
    """With shares of different size, four and five images, where none may wait for the other."""
    cfg, record, options = trained
    weights = str(Path(cfg.OUTPUT_DIR, "model_final.pth"))
    both = tiny.tiny_cfg(
        tmp_path / "two",
        **options
        | {
            "MODEL__WEIGHTS": weights,
            "SOLVER__BASE_LR": 0.0,
            "SOLVER__MAX_ITER": 1,
            "SOLVER__EMA_DECAY": 0.0,
            "TEST__LOSS__DATASETS": ("shapes_val_panoptic", "shapes_train_panoptic"),
        },
    )
    codes, output = tiny.run_in_two(both)
    assert codes == [0, 0], output
    found = tiny.read_record(both)["metrics"]["shapes_val_panoptic"]["validation"]
    assert found == pytest.approx(record["metrics"]["validation"], rel=1e-5)


def test_a_signal_ends_it_without_a_loss_of_half_of_the_images(trained, tmp_path):
    options = trained[2]
    cfg = tiny.tiny_cfg(
        tmp_path / "run", **options | {"TEST__LOSS__DATASETS": ("shapes_val_panoptic",)}
    )
    trainer = Trainer(cfg)
    seen = []

    def forward(model, inputs):
        if not trainer.final_model.backbone.training and not model.backbone.training:
            seen.append(inputs)
            os.kill(os.getpid(), signal.SIGTERM)

    trainer.final_model.register_forward_pre_hook(forward)
    with pytest.raises(Interrupted, match="SIGTERM.*2 of 6"):
        trainer.train()
    assert len(seen) == 1 and trainer.last_results == {}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"DATASETS__TEST": ()}, "TEST.LOSS.ENABLED is True, but DATASETS.TEST"),
        ({"TEST__LOSS__DATASETS": ("nothing",)}, "nothing"),
        ({"TEST__LOSS__DATASETS": ("shapes_val_instance",)}, "shapes_val_instance"),
    ],
)
def test_what_is_refused_before_training(shapes_root, tmp_path, options, message):
    cfg = tiny.tiny_cfg(tmp_path / "run", **LOSS | options)
    args = tiny.argument_parser().parse_args(["--record", ""])
    with pytest.raises(UserError, match=message):
        check_run(cfg, args)

"""A trainer of eight weights, in which a test sees what training loop, hooks and checkpoints do."""

from dataclasses import dataclass

import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.evaluation import DatasetEvaluator
from torch import nn

from mask_former.engine.config import get_cfg
from mask_former.engine.trainer import Trainer

NUM_IMAGES = 5


class ToyModel(nn.Module):
    """Learns w = 1 through dropout; evaluated it gives w."""

    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(torch.zeros(8))

    def forward(self, batch):
        if not self.training:
            torch.rand(3)  # an evaluation that uses random numbers
            return [{"w": self.w.mean().item()} for _ in batch]
        scale = sum(record["scale"] for record in batch)
        w = nn.functional.dropout(self.w, 0.5)
        return {"loss_a": scale * ((w - 1) ** 2).mean(), "loss_b": 0 * w.sum()}


class ToyEvaluator(DatasetEvaluator):
    def reset(self):
        self.values = []

    def process(self, inputs, outputs):
        self.values += [output["w"] for output in outputs]

    def evaluate(self):
        return {"sem_seg": {"mIoU": sum(self.values) / len(self.values)}}


@dataclass
class ToyLoader:
    """Endless, with scale 1, but for one iteration."""

    start_iter: int
    bad_iter: int = -1
    dataset = range(NUM_IMAGES)

    def __iter__(self):
        iteration = self.start_iter
        while True:
            scale = float("nan") if iteration == self.bad_iter else 1.0
            yield [{"scale": scale, "file_name": f"{iteration}.jpg"}]
            iteration += 1


class ToyTrainer(Trainer):
    bad_iter = -1
    output_folders: list[str | None] = []

    @classmethod
    def build_model(cls, cfg):
        torch.manual_seed(1)
        return ToyModel()

    @classmethod
    def build_train_loader(cls, cfg, *, start_iter=0):
        return ToyLoader(start_iter, cls.bad_iter)

    @classmethod
    def build_test_loader(cls, cfg, dataset_name):
        return [[{}], [{}]]

    @classmethod
    def build_evaluator(cls, cfg, dataset_name, output_folder=None):
        cls.output_folders.append(output_folder)
        return ToyEvaluator()


@pytest.fixture(scope="module", autouse=True)
def dataset():
    """Imported by the test files that train on it."""
    DatasetCatalog.register("toy", list)
    MetadataCatalog.get("toy").thing_dataset_id_to_contiguous_id = {1: 0, 2: 1}
    yield
    DatasetCatalog.remove("toy")
    MetadataCatalog.remove("toy")


def toy_cfg(folder, **solver):
    cfg = get_cfg()
    cfg.OUTPUT_DIR = str(folder)
    cfg.DATASETS.TRAIN = ("toy",)
    cfg.DATASETS.TEST = ("toy",)
    cfg.MODEL.DEVICE = "cpu"
    cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES = 5
    cfg.SOLVER.IMS_PER_BATCH = 1
    cfg.SOLVER.BASE_LR = 0.1
    cfg.SOLVER.MAX_ITER = 4
    for key, value in solver.items():
        cfg.SOLVER[key] = value
    return cfg


def train(cfg, trainer_class=ToyTrainer, resume=False):
    folder = cfg.OUTPUT_DIR
    trainer = trainer_class(cfg)
    trainer.resume_or_load(resume=resume)
    results = trainer.train()
    return trainer, results, folder

"""Data loaders whose stream of samples depends on the seed alone.

The training set is shuffled again and again into one endless stream, and batches are cut from it
for all processes together. A sample's augmentation is drawn from the seed and its position in the
stream. So any number of processes and of workers sees the same global batches, and training
resumed at iteration i goes on with exactly the samples that it would have seen.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import Any

import cv2
import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetFromList, MetadataCatalog, build_detection_test_loader
from detectron2.data.build import trivial_batch_collator
from detectron2.data.samplers import RepeatFactorTrainingSampler
from detectron2.utils import comm
from torch.utils.data import DataLoader, Dataset, Sampler

from mask_former.data.checks import check_records
from mask_former.data.json_files import forget_files
from mask_former.data.mapper import MaskFormerDatasetMapper
from mask_former.data.random_state import random_state_of
from mask_former.data.reading import read_header
from mask_former.data.records import Record, image_size, load_records, segments_of
from mask_former.data.validation_loss import loss_mapper
from mask_former.errors import UserError, check_choice

# Position of a sample in the stream, index of its record.
Key = tuple[int, int]


def build_train_loader(cfg: CfgNode, *, start_iter: int = 0) -> DataLoader:
    """An endless loader of this process's share of the batches of `cfg.DATASETS.TRAIN`.

    Before it is returned, the records are checked (see `checks.check_records`).

    Args:
        cfg: SOLVER.IMS_PER_BATCH is the size of the global batch. With a negative SEED every run,
            a resumed one too, has another stream.
        start_iter: the iteration, counted from 0, at which training starts.

    Raises:
        FileNotFoundError, UserError: a record is wrong.
        UserError: the batch cannot be shared equally by the processes, there is nothing to train
            on, or the sampler is unknown.
    """
    batch_size, world_size = cfg.SOLVER.IMS_PER_BATCH, comm.get_world_size()
    parts = cfg.SOLVER.ACCUMULATION_STEPS
    if batch_size < 1 or batch_size % (world_size * parts):
        raise UserError(
            f"SOLVER.IMS_PER_BATCH is {batch_size}, but must be a multiple of the number of "
            f"processes, {world_size}"
            + (f", times SOLVER.ACCUMULATION_STEPS, {parts}." if parts > 1 else ".")
        )
    mapper = MaskFormerDatasetMapper(cfg, is_train=True)
    seed = cfg.SEED if cfg.SEED >= 0 else comm.shared_random_seed()
    records = []
    with random_state_of(seed, 0):  # the checks map samples
        for name in cfg.DATASETS.TRAIN:
            found = load_records(name, filter_empty=cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS)
            records += check_records(name, found, mapper)
    if not records:
        raise UserError("DATASETS.TRAIN names no data set to train on.")
    dataset = SeededDataset(records, mapper, seed)
    # What is packed is not kept a second time; the evaluators need theirs.
    forget_files(kept=_files(cfg.DATASETS.TEST))
    sampler = BatchSampler(
        repeat_factors(cfg, records),
        batch_size=batch_size,
        seed=seed,
        start_iter=start_iter,
        rank=comm.get_rank(),
        world_size=world_size,
        group_of=AspectRatio(dataset.records, exif=cfg.INPUT.EXIF_ORIENTATION)
        if cfg.DATALOADER.ASPECT_RATIO_GROUPING
        else None,
    )
    return DataLoader(
        dataset,
        batch_sampler=sampler,
        num_workers=cfg.DATALOADER.NUM_WORKERS,
        collate_fn=trivial_batch_collator,
        worker_init_fn=_init_worker,
        # Its own, so that starting the workers does not draw from the training's generator.
        generator=torch.Generator(),
    )


def _files(names: Sequence[str]) -> list[str]:
    """The annotation files of data sets."""
    keys = ("json_file", "panoptic_json")
    found = (MetadataCatalog.get(name).get(key) for name in names for key in keys)
    return [file for file in found if file]


def build_test_loader(cfg: CfgNode, dataset_name: str) -> DataLoader:
    """A loader of this process's share of a data set, one image at a time, in its order."""
    return _loader_in_order(cfg, dataset_name, MaskFormerDatasetMapper(cfg, is_train=False))


def build_loss_loader(cfg: CfgNode, dataset_name: str) -> DataLoader:
    """Like `build_test_loader`, of samples with ground truth, from which a loss is computed."""
    return _loader_in_order(cfg, dataset_name, loss_mapper(cfg))


def _loader_in_order(
    cfg: CfgNode, dataset_name: str, mapper: MaskFormerDatasetMapper
) -> DataLoader:
    records, workers = load_records(dataset_name), cfg.DATALOADER.NUM_WORKERS
    return build_detection_test_loader(records, mapper=mapper, num_workers=workers)


class SeededDataset(Dataset):
    """Records, mapped under random numbers that depend only on the seed and the position."""

    def __init__(
        self, records: Sequence[Record], mapper: Callable[[Record], dict[str, Any]], seed: int
    ) -> None:
        self.records = DatasetFromList(records, copy=False)  # packed; shared by the workers
        self._mapper = mapper
        self._seed = seed

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, key: Key) -> dict[str, Any]:
        position, index = key
        with random_state_of(self._seed, position):
            return self._mapper(self.records[index])


class BatchSampler(Sampler[list[Key]]):
    """The endless sequence of this process's share of the batches."""

    def __init__(
        self,
        factors: torch.Tensor,
        *,
        batch_size: int,
        seed: int,
        start_iter: int = 0,
        rank: int = 0,
        world_size: int = 1,
        group_of: Callable[[int], Any] | None = None,
    ) -> None:
        """
        Args:
            factors: how often each record occurs in an epoch, (number of records,), >= 0. The
                fractional part is the probability of one occurrence more.
            batch_size: samples in a batch of all processes together.
            seed: decides the order.
            start_iter: number of batches to skip.
            rank, world_size: of this process.
            group_of: maps the index of a record to its group; all samples of a batch are of one
                group. A sample waits until its group fills a batch.
        """
        self._factors = factors
        self._batch_size = batch_size
        self._seed = seed
        self._start_iter = start_iter
        self._rank = rank
        self._world_size = world_size
        self._group_of = group_of

    def __iter__(self) -> Iterator[list[Key]]:
        for batch in islice(self._batches(), self._start_iter, None):
            yield batch[self._rank :: self._world_size]

    def _batches(self) -> Iterator[list[Key]]:
        groups = defaultdict(list)
        for position, index in enumerate(self._indices()):
            group = groups[self._group_of(index) if self._group_of else None]
            group.append((position, index))
            if len(group) == self._batch_size:
                yield group.copy()
                group.clear()

    def _indices(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self._seed)
        whole, fraction = self._factors.floor(), self._factors.frac()
        records = torch.arange(len(self._factors))
        while True:
            more = torch.rand(len(records), generator=generator) < fraction
            epoch = records.repeat_interleave((whole + more).long())
            yield from epoch[torch.randperm(len(epoch), generator=generator)].tolist()


def repeat_factors(cfg: CfgNode, records: Sequence[Record]) -> torch.Tensor:
    """How often each record occurs in an epoch, float32 (number of records,).

    `cfg.DATALOADER.SAMPLER_TRAIN` is TrainingSampler (once) or RepeatFactorTrainingSampler (more
    often if it has rare classes; LVIS paper, appendix B.2).

    Raises:
        UserError: the sampler is another one.
    """
    name = cfg.DATALOADER.SAMPLER_TRAIN
    samplers = ("TrainingSampler", "RepeatFactorTrainingSampler")
    check_choice("DATALOADER.SAMPLER_TRAIN", name, samplers)
    if name == "TrainingSampler":
        return torch.ones(len(records))
    return RepeatFactorTrainingSampler.repeat_factors_from_category_frequency(
        [{"annotations": segments_of(record)} for record in records],
        cfg.DATALOADER.REPEAT_THRESHOLD,
        cfg.DATALOADER.REPEAT_SQRT,
    )


class AspectRatio:
    """Whether a record's image is wider than high: two groups, so that batches need less padding.

    If the record has no size, the header of the image file is read, once.

    Args:
        records: of the images.
        exif: whether the orientation of EXIF is applied.
    """

    def __init__(self, records: Sequence[Record], *, exif: bool = True) -> None:
        self._records = records
        self._exif = exif
        self._wide: dict[int, bool] = {}

    def __call__(self, index: int) -> bool:
        if index not in self._wide:
            record = self._records[index]
            size = image_size(record) or read_header(record["file_name"]).shown(self._exif)
            height, width = size
            self._wide[index] = width > height
        return self._wide[index]


def _init_worker(worker_id: int) -> None:
    # OpenCV's threads do not survive a fork, and workers are parallel enough.
    cv2.setNumThreads(0)

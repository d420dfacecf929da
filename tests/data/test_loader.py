from collections import Counter
from itertools import islice

import numpy as np
import pytest
import torch
from detectron2.config import get_cfg
from detectron2.data import DatasetCatalog
from detectron2.utils import comm
from PIL import Image

from mask_former.config import add_mask_former_config
from mask_former.data.loader import (
    AspectRatio,
    BatchSampler,
    build_test_loader,
    build_train_loader,
    repeat_factors,
)
from mask_former.data.random_state import get_random_state


def batches(count, factors=None, **options):
    """The first batches of ten records, by default in batches of four."""
    factors = torch.ones(10) if factors is None else torch.tensor(factors)
    options = {"batch_size": 4, "seed": 5, **options}
    return list(islice(BatchSampler(factors, **options), count))


def indices(batches):
    return [index for batch in batches for _, index in batch]


# The sampler


def test_every_record_occurs_once_an_epoch_in_another_order():
    epochs = indices(batches(5))
    assert sorted(epochs[:10]) == sorted(epochs[10:]) == list(range(10))
    assert epochs[:10] != epochs[10:] and epochs[:10] != list(range(10))


def test_positions_count_the_stream():
    keys = [key for batch in batches(5) for key in batch]
    assert [position for position, _ in keys] == list(range(20))


def test_the_seed_decides_the_order():
    assert batches(5) == batches(5)
    assert indices(batches(5)) != indices(batches(5, seed=6))


@pytest.mark.parametrize("group_of", [None, lambda index: index % 3 == 0])
def test_start_iter_leaves_out_batches(group_of):
    assert batches(4, start_iter=3, group_of=group_of) == batches(7, group_of=group_of)[3:]


@pytest.mark.parametrize("group_of", [None, lambda index: index % 3 == 0])
@pytest.mark.parametrize("world_size", [2, 4])
def test_processes_share_the_batches_of_one(group_of, world_size):
    whole = batches(6, group_of=group_of)
    shares = [
        batches(6, group_of=group_of, rank=rank, world_size=world_size)
        for rank in range(world_size)
    ]
    for batch, *parts in zip(whole, *shares, strict=True):
        assert [len(part) for part in parts] == [4 // world_size] * world_size
        assert sorted(key for part in parts for key in part) == sorted(batch)


def test_a_batch_is_of_one_group_and_no_sample_is_lost():
    groups = batches(50, group_of=lambda index: index % 3 == 0)
    for batch in groups:
        assert len({index % 3 == 0 for _, index in batch}) == 1
    counts = Counter(indices(groups))
    assert sum(counts.values()) == 200
    # 20 epochs, less or more what waits in the groups.
    assert set(counts) == set(range(10)) and max(abs(n - 20) for n in counts.values()) <= 2
    positions = [position for batch in groups for position, _ in batch]
    assert len(set(positions)) == 200


def test_factors_repeat_records():
    counts = Counter(indices(batches(250, factors=[0.0, 1.0, 2.0, 0.5])))
    assert counts[0] == 0
    epochs = counts[1]
    assert abs(counts[2] - 2 * epochs) <= 2
    # Binomial: a standard deviation is half of the root.
    assert abs(counts[3] - epochs / 2) < 2 * epochs**0.5


# The loaders


@pytest.fixture
def dataset(tmp_path):
    """A registered data set of 12 small images, half of them wide; of one square, or none."""
    records = []
    for number in range(12):
        height, width = (16, 24) if number % 2 else (24, 16)
        ids = np.ones((height, width, 3), dtype=np.uint8) * [1, 0, 0]
        ids[3:9, 4:11, 0] = 2
        for kind, array in (("image", ids * 9 + number), ("panoptic", ids)):
            Image.fromarray(array.astype(np.uint8)).save(tmp_path / f"{kind}{number}.png")
        square = {"id": 1, "category_id": 0, "segmentation": [[4, 3, 11, 3, 11, 9, 4, 9]]}
        records.append(
            {
                "file_name": str(tmp_path / f"image{number}.png"),
                "image_id": number,
                "height": height,
                "width": width,
                "pan_seg_file_name": str(tmp_path / f"panoptic{number}.png"),
                "segments_info": [{"id": k + 1, "category_id": k} for k in range(2)],
                "annotations": [] if number < 3 else [square],
            }
        )
    name = "test_loader_squares"
    DatasetCatalog.register(name, lambda: records)
    yield records
    DatasetCatalog.remove(name)


@pytest.fixture
def cfg(dataset):
    cfg = get_cfg()
    add_mask_former_config(cfg)
    cfg.DATASETS.TRAIN = cfg.DATASETS.TEST = ("test_loader_squares",)
    cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS = False
    cfg.DATALOADER.NUM_WORKERS = 0
    cfg.INPUT.DATASET_MAPPER_NAME = "mask_former_panoptic"
    cfg.INPUT.MIN_SIZE_TRAIN, cfg.INPUT.MAX_SIZE_TRAIN = (16, 20, 24, 28), 100
    cfg.INPUT.CROP.ENABLED, cfg.INPUT.CROP.SIZE = True, [0.6, 0.6]
    cfg.INPUT.COLOR_AUG_SSD = True
    cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES = 2
    cfg.SOLVER.IMS_PER_BATCH = 4
    cfg.SEED = 7
    return cfg


def samples(loader, count):
    """What identifies the samples of the first batches: one list a batch."""
    return [
        [
            (s["image_id"], s["image"].numpy().tobytes(), s["instances"].gt_masks.tensor.sum())
            for s in batch
        ]
        for batch in islice(loader, count)
    ]


def test_any_number_of_workers_gives_the_same_samples(cfg):
    expected = samples(build_train_loader(cfg), 6)
    for workers in (1, 2):
        cfg.DATALOADER.NUM_WORKERS = workers
        assert samples(build_train_loader(cfg), 6) == expected


@pytest.mark.parametrize("workers", [0, 2])
def test_resumed_loader_goes_on_with_the_same_samples(cfg, workers):
    cfg.DATALOADER.NUM_WORKERS = workers
    expected = samples(build_train_loader(cfg), 7)
    assert samples(build_train_loader(cfg, start_iter=4), 3) == expected[4:]


def test_two_processes_see_the_batches_of_one(cfg, monkeypatch):
    whole = samples(build_train_loader(cfg), 5)
    shares = []
    monkeypatch.setattr(comm, "get_world_size", lambda: 2)
    for rank in range(2):
        monkeypatch.setattr(comm, "get_rank", lambda rank=rank: rank)
        shares.append(samples(build_train_loader(cfg), 5))
    for batch, first, second in zip(whole, *shares, strict=True):
        assert first == batch[0::2] and second == batch[1::2]


def test_augmentation_differs_from_epoch_to_epoch(cfg):
    seen = Counter(image_id for batch in samples(build_train_loader(cfg), 12) for image_id in batch)
    assert max(seen.values()) == 1


def test_batches_are_wide_or_high(cfg):
    for batch in islice(build_train_loader(cfg), 8):
        assert len({sample["width"] > sample["height"] for sample in batch}) == 1
    cfg.DATALOADER.ASPECT_RATIO_GROUPING = False
    mixed = [len({s["width"] for s in batch}) for batch in islice(build_train_loader(cfg), 8)]
    assert 2 in mixed


def test_loading_leaves_the_random_numbers_of_the_training_alone(cfg):
    before = get_random_state(gpu=False)
    for workers in (0, 2):
        cfg.DATALOADER.NUM_WORKERS = workers
        samples(build_train_loader(cfg), 3)
        after = get_random_state(gpu=False)
        assert torch.equal(after.pop("torch"), before["torch"])
        assert after == {name: before[name] for name in ("python", "numpy")}


def test_without_a_seed_every_run_is_another_one(cfg):
    cfg.SEED = -1
    np.random.seed(0)  # Detectron2 draws the shared seed from NumPy
    first, second = (samples(build_train_loader(cfg), 3) for _ in range(2))
    assert first != second


def test_images_without_annotations_are_filtered_on_request(cfg):
    cfg.INPUT.DATASET_MAPPER_NAME = "mask_former_instance"
    seen = {s["image_id"] for batch in islice(build_train_loader(cfg), 12) for s in batch}
    assert seen == set(range(12))
    cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS = True
    seen = {s["image_id"] for batch in islice(build_train_loader(cfg), 12) for s in batch}
    assert seen == set(range(3, 12))


def test_all_training_sets_are_joined(cfg, dataset):
    name = "test_loader_more"
    DatasetCatalog.register(name, lambda: [{**dataset[0], "image_id": "more"}])
    try:
        cfg.DATASETS.TRAIN = ("test_loader_squares", name)
        seen = {s["image_id"] for batch in islice(build_train_loader(cfg), 13) for s in batch}
        assert seen == {*range(12), "more"}
    finally:
        DatasetCatalog.remove(name)


def test_test_loader_gives_each_image_once_in_order(cfg):
    cfg.INPUT.MIN_SIZE_TEST = 32
    got = list(build_test_loader(cfg, "test_loader_squares"))
    assert [[sample["image_id"] for sample in batch] for batch in got] == [[n] for n in range(12)]
    assert got[0][0]["image"].shape == (3, 48, 32)
    assert "instances" not in got[0][0]


def test_size_of_the_image_is_read_where_the_record_has_none(dataset):
    without = [{"file_name": record["file_name"]} for record in dataset]
    got, expected = AspectRatio(without), AspectRatio(dataset)
    assert [got(n) for n in range(12)] == [expected(n) for n in range(12)] == [False, True] * 6
    with pytest.raises(FileNotFoundError, match="gone.png"):
        AspectRatio([{"file_name": "gone.png"}])(0)


@pytest.mark.parametrize(("exif", "wide"), [(True, False), (False, True)])
def test_orientation_of_exif_decides_the_group(tmp_path, exif, wide):
    orientation = Image.Exif()
    orientation[0x0112] = 6
    path = tmp_path / "x.jpg"
    Image.new("RGB", (32, 16)).save(path, exif=orientation)
    assert AspectRatio([{"file_name": str(path)}], exif=exif)(0) is wide


def test_repeat_factors_of_rare_classes(cfg):
    cfg.DATALOADER.SAMPLER_TRAIN = "RepeatFactorTrainingSampler"
    cfg.DATALOADER.REPEAT_THRESHOLD = 0.5
    common, rare = {"category_id": 0}, {"category_id": 1}
    for key in ("annotations", "segments_info"):
        records = [{key: [common, rare]}, *[{key: [common]}] * 6, {key: []}]
        # The rare class is in 1 of 8 images: sqrt(0.5 / 0.125) = 2.
        assert repeat_factors(cfg, records).tolist() == [2, 1, 1, 1, 1, 1, 1, 1]


# What is wrong is named


@pytest.mark.parametrize("batch_size", [0, 3])
def test_batch_that_the_processes_cannot_share(cfg, monkeypatch, batch_size):
    cfg.SOLVER.IMS_PER_BATCH = batch_size
    monkeypatch.setattr(comm, "get_world_size", lambda: 2)
    with pytest.raises(ValueError, match=f"IMS_PER_BATCH is {batch_size}.* 2"):
        build_train_loader(cfg)


def test_unknown_sampler(cfg):
    cfg.DATALOADER.SAMPLER_TRAIN = "Sampler"
    with pytest.raises(ValueError, match="'Sampler', but must be one of TrainingSampler"):
        build_train_loader(cfg)


def test_nothing_to_train_on(cfg):
    cfg.DATASETS.TRAIN = ()
    with pytest.raises(ValueError, match="DATASETS.TRAIN"):
        build_train_loader(cfg)


def test_damaged_file_is_named_from_within_a_worker(cfg, dataset):
    cfg.DATALOADER.NUM_WORKERS = 1
    loader = build_train_loader(cfg)
    for record in dataset:
        with open(record["pan_seg_file_name"], "wb"):
            pass
    with pytest.raises(ValueError, match=r"panoptic\d+.png cannot be read"):
        next(iter(loader))

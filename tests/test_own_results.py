"""From a training on a user's own data to results, in processes where no data set is registered."""

import json

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image
from pycocotools.coco import COCO

from demo import demo
from mask_former.checkpoint.read import trained_classes
from mask_former.data.datasets import register_instances, register_panoptic, register_semantic
from mask_former.engine import DefaultPredictor, Trainer, load_config
from tests import forks
from tests.engine.tiny import run_here, tiny_cfg
from tests.own_data import CATEGORIES, load, write_own_data
from tools import score

TASKS = {"panoptic": "PANOPTIC_ON", "semantic": "SEMANTIC_ON", "instance": "INSTANCE_ON"}


def later(jobs):
    """What a user does later, or elsewhere, with {task: [config, weights, images, ...]}; prints
    the classes that are known there."""
    for task, (config, weights, images, truth, output) in jobs.items():
        flags = ["--config-file", config, "--input", images, "--output", output, "--save-results"]
        flags += ["--confidence-threshold", "0"] if task == "instance" else []
        flags += ["--image-ids", truth, "--opts", "MODEL.WEIGHTS", weights]
        assert demo.main(flags) == 0
        assert not any(name.startswith("own_") for name in DatasetCatalog)
        predictor = DefaultPredictor(load_config(config, ["MODEL.WEIGHTS", weights]))
        print(json.dumps([list(predictor.metadata.stuff_classes)]))


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("own")
    write_own_data(folder)
    return folder


@pytest.fixture(scope="module")
def trained(data, tmp_path_factory):
    """For each task the folder of a training of two iterations, and the metrics afterwards."""
    names = {task: f"own_{task}" for task in TASKS}
    images, labels = data / "images", data / "labels"
    register_panoptic(
        names["panoptic"],
        image_root=images,
        panoptic_root=data / "panoptic",
        panoptic_json=data / "panoptic.json",
    )
    register_instances(names["instance"], image_root=images, json_file=data / "instances.json")
    register_semantic(
        names["semantic"],
        image_root=images,
        sem_seg_root=labels,
        classes=[category["name"] for category in CATEGORIES],
        image_suffix="png",
    )
    folders, metrics = {}, {}
    for task, name in names.items():
        folders[task] = tmp_path_factory.mktemp("runs") / task
        switches = {f"MODEL__MASK_FORMER__TEST__{key}": kind == task for kind, key in TASKS.items()}
        cfg = tiny_cfg(
            folders[task],
            DATASETS__TRAIN=(name,),
            DATASETS__TEST=(name,),
            INPUT__DATASET_MAPPER_NAME=f"mask_former_{task}",
            MODEL__SEM_SEG_HEAD__NUM_CLASSES=2 if task == "instance" else 3,
            SOLVER__MAX_ITER=2,
            **switches,
        )
        run_here(cfg)
        cfg.MODEL.WEIGHTS = str(folders[task] / "model_final.pth")
        metrics[task] = Trainer.evaluate(cfg)
    for name in names.values():
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)
    return folders, metrics


@pytest.fixture(scope="module")
def runs(trained):
    return trained[0]


@pytest.fixture(scope="module")
def results(runs, data, tmp_path_factory):
    """The folder of the demo's results for each task, and what the predictor said."""
    output = tmp_path_factory.mktemp("pictures")
    jobs = {
        task: [
            str(folder / "config.yaml"),
            str(folder / "model_final.pth"),
            str(data / "images"),
            str(data / "panoptic.json"),
            str(output / task),
        ]
        for task, folder in runs.items()
    }
    code, printed = forks.run(output / "output", later, jobs)
    assert code == 0, printed
    said = [json.loads(line)[0] for line in printed.splitlines() if line.startswith("[[")]
    return {task: output / task / "results" for task in TASKS}, dict(zip(TASKS, said, strict=True))


def test_a_run_folder_names_the_classes(runs):
    panoptic = load(runs["panoptic"] / "classes.json")
    assert [(c["id"], c["name"], c["isthing"]) for c in panoptic] == [
        (40, "leaf", 1),
        (7, "soil", 0),
        (12, "beetle", 1),
    ]
    assert panoptic[0]["supercategory"] == "plant" and "supercategory" not in panoptic[1]
    assert len({tuple(category["color"]) for category in panoptic}) == 3
    # COCO instances: by id.
    instance = load(runs["instance"] / "classes.json")
    assert [(c["id"], c["name"], c["isthing"]) for c in instance] == [
        (12, "beetle", 1),
        (40, "leaf", 1),
    ]
    semantic = load(runs["semantic"] / "classes.json")
    assert [(c["id"], c["name"]) for c in semantic] == [(0, "leaf"), (1, "soil"), (2, "beetle")]
    assert "isthing" not in semantic[0]  # nobody said


def test_the_predictor_knows_its_classes(results):
    assert results[1] == {
        "panoptic": ["leaf", "soil", "beetle"],
        "semantic": ["leaf", "soil", "beetle"],
        "instance": ["beetle", "leaf"],
    }


def test_panoptic_results_have_the_ids_of_the_data(results, data):
    content = load(results[0]["panoptic"] / "panoptic.json")
    assert [image["id"] for image in content["images"]] == ["plot-0", "plot-1", "plot-2"]
    assert [(c["id"], c["isthing"], c["supercategory"]) for c in content["categories"]] == [
        (40, 1, "plant"),
        (7, 0, "soil"),
        (12, 1, "animal"),
    ]
    for category in content["categories"]:
        assert len(category["color"]) == 3
    own_ids = {category["id"] for category in CATEGORIES}
    for annotation in content["annotations"]:
        ids = np.asarray(Image.open(results[0]["panoptic"] / "panoptic" / annotation["file_name"]))
        found = set(np.unique(ids @ [1, 256, 65536])) - {0}
        assert {segment["id"] for segment in annotation["segments_info"]} == found
        assert {segment["category_id"] for segment in annotation["segments_info"]} <= own_ids


def test_pycocotools_takes_the_instances(results, data):
    truth = COCO(data / "instances.json")
    found = truth.loadRes(str(results[0]["instance"] / "instances.json"))
    assert found.getCatIds(supNms=["animal"]) == [12]
    assert set(found.getImgIds()) == {"plot-0", "plot-1", "plot-2"}


@pytest.mark.parametrize(
    ("task", "truth"),
    [
        ("panoptic", ["--panoptic-json", "panoptic.json"]),
        ("instance", ["--instances-json", "instances.json"]),
        ("semantic", ["--labels", "labels"]),
    ],
)
def test_scores_of_saved_results_are_those_of_an_evaluation(task, truth, trained, results, data):
    folders, metrics = trained
    evaluated = folders[task] / "inference" / f"own_{task}"
    for folder in (evaluated, results[0][task]):
        found = score.main([str(folder), truth[0], str(data / truth[1])])
        assert found.keys() == metrics[task].keys()
        for name, values in found.items():
            assert values == pytest.approx(metrics[task][name], nan_ok=True)


@pytest.fixture
def renamed(data):
    """The panoptic data set, with two classes of each other's names."""
    categories = [dict(category) for category in CATEGORIES]
    categories[0]["name"], categories[2]["name"] = "beetle", "leaf"
    register_panoptic(
        "own_renamed",
        image_root=data / "images",
        panoptic_root=data / "panoptic",
        panoptic_json=data / "panoptic.json",
        categories=categories,
    )
    yield "own_renamed"
    DatasetCatalog.remove("own_renamed")
    MetadataCatalog.remove("own_renamed")


def test_weights_of_other_classes_are_refused(runs, renamed, tmp_path):
    weights = str(runs["panoptic"] / "model_final.pth")
    known = {
        "MODEL__SEM_SEG_HEAD__NUM_CLASSES": 3,
        "DATASETS__TRAIN": (renamed,),
        "DATASETS__TEST": (renamed,),
    }
    message = "model_final.pth was trained on .* class 0 is 'leaf' there and 'beetle' here"
    with pytest.raises(ValueError, match=message):
        Trainer.evaluate(tiny_cfg(tmp_path, MODEL__WEIGHTS=weights, **known))
    with pytest.raises(ValueError, match=message):
        Trainer(tiny_cfg(tmp_path, MODEL__WEIGHTS=weights, **known)).resume_or_load(resume=False)
    with pytest.raises(ValueError, match=message):
        Trainer(tiny_cfg(runs["panoptic"], **known)).resume_or_load(resume=True)
    cfg = tiny_cfg(
        tmp_path, MODEL__WEIGHTS=weights, MODEL__WEIGHTS_WITHOUT_CLASS_HEAD=True, **known
    )
    Trainer(cfg).resume_or_load(resume=False)


def test_the_best_checkpoint_knows_its_classes_too(runs):
    classes = trained_classes(str(runs["panoptic"] / "model_best.pth"))
    assert [category["name"] for category in classes] == ["leaf", "soil", "beetle"]

"""From folders to a config that loads, and says why."""

import re

import pytest
import yaml

from mask_former import model_zoo
from mask_former.engine import load_config
from tests.data.test_discovery import make
from tests.data.test_report import save
from tools.make_config import MODELS, main


@pytest.fixture
def folders(tmp_path):
    for split in ("train", "val"):
        make(
            tmp_path, [[0] * 20 + [1] * 20 + [2] * 10] * 40, (f"images/{split}", f"labels/{split}")
        )
        for path in (tmp_path / "images" / split).iterdir():
            save(path, [[[len(path.name) * 9] * 3] * 50] * 40)
    return str(tmp_path / "images"), str(tmp_path / "labels")


def run(folders, output, *flags):
    return main([*folders, "--output", str(output), "--model", "small-maskformer", *flags])


def test_the_config_loads_and_says_why(folders, tmp_path, capsys):
    output = tmp_path / "made" / "mine.yaml"
    assert run(folders, output, "--classes", "sky,tree,lake", "--name", "trees") == 0
    cfg = load_config(str(output))
    assert cfg.DATASETS.TRAIN == ("trees_train",) and cfg.DATASETS.TEST == ("trees_val",)
    assert list(cfg.DATASETS.CUSTOM.trees.CLASSES) == ["sky", "tree", "lake"]
    assert cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES == 3
    assert cfg.MODEL.BACKBONE.NAME == "build_resnet_backbone"
    assert cfg.INPUT.MIN_SIZE_TEST == 40 and cfg.MODEL.MASK_FORMER.NUM_OBJECT_QUERIES == 20
    assert cfg.SOLVER.IMS_PER_BATCH == 2  # of ten images
    text = output.read_text()
    assert yaml.safe_load(text)["DATASETS"]["CUSTOM"]["trees"]["FORMAT"] == "semantic"
    assert "# 10 images to train on; 3 classes." in text
    said = capsys.readouterr().out
    assert f"python train_net.py --config-file {output}" in said
    # Each key below MODEL stands under a comment.
    lines = text[text.index("\nMODEL:") :].splitlines()
    for before, line in zip(lines, lines[1:], strict=False):
        if re.match(r" +[A-Z_]+: .", line):
            assert before.lstrip().startswith("#"), line
    assert max(map(len, text.splitlines())) <= 160


def test_a_config_is_not_overwritten(folders, tmp_path, capsys):
    output = tmp_path / "mine.yaml"
    output.write_text("mine")
    with pytest.raises(SystemExit, match="2"):
        run(folders, output)
    assert "--overwrite" in capsys.readouterr().err and output.read_text() == "mine"
    assert run(folders, output, "--overwrite") == 0


def test_wrong_data_are_refused(folders, tmp_path, capsys):
    for name in ("0.png", "1.png"):
        save(tmp_path / "labels" / "train" / name, [[0, 1]])
    with pytest.raises(SystemExit, match="2"):
        run(folders, tmp_path / "mine.yaml")
    said = capsys.readouterr().err
    assert "The data have faults:" in said and said.count("Sizes differ") == 2
    assert not (tmp_path / "mine.yaml").exists()


def test_weights_that_are_not_there(folders, tmp_path, capsys):
    with pytest.raises(SystemExit, match="2"):
        run(folders, tmp_path / "mine.yaml", "--weights", str(tmp_path / "none.pth"))
    assert f"no weights file {tmp_path / 'none.pth'}" in capsys.readouterr().err


def test_the_data_set_has_the_name_of_the_config(folders, tmp_path):
    run(folders, tmp_path / "my-trees.yaml")
    cfg = load_config(str(tmp_path / "my-trees.yaml"))
    assert cfg.DATASETS.TRAIN == ("my_trees_train",) and cfg.OUTPUT_DIR == "output/my_trees"


def test_every_short_name_has_its_recipes():
    assert {name for recipes in MODELS.values() for name in recipes.values()} <= set(
        model_zoo.names()
    )


def test_an_unknown_model(folders, tmp_path, capsys):
    with pytest.raises(SystemExit, match="2"):
        main([*folders, "--output", str(tmp_path / "x.yaml"), "--model", "yolo"])
    assert "--model yolo: it is none of mask2former-R50" in capsys.readouterr().err


def test_a_recipe_without_published_weights(folders, tmp_path):
    """And with a norm that refuses a single image."""
    output, recipe = tmp_path / "mine.yaml", "pem/ade20k/semantic-segmentation/pem_R50_bs32_160k"
    assert model_zoo.table()["recipes"][recipe]["weights"] is None
    assert main([*folders, "--output", str(output), "--model", recipe]) == 0
    cfg = load_config(str(output))
    assert cfg.MODEL.SEM_SEG_HEAD.NORM == "SyncBN" and cfg.SOLVER.IMS_PER_BATCH == 2
    assert "licence" not in output.read_text()


@pytest.mark.parametrize(
    ("part", "said"),
    [
        ("mask2former/Base-Swin-T", "it sets no MODEL.META_ARCHITECTURE"),
        ("segmenter/Base-Segmenter", "INPUT.MIN_SIZE_TRAIN_SAMPLING"),
    ],
)
def test_a_part_of_recipes(folders, tmp_path, capsys, part, said):
    with pytest.raises(SystemExit, match="2"):
        main([*folders, "--output", str(tmp_path / "x.yaml"), "--model", f"configs/{part}.yaml"])
    assert said in capsys.readouterr().err


@pytest.mark.parametrize("weights", ["", "my.pth"])
def test_weights(folders, tmp_path, monkeypatch, weights):
    (tmp_path / "my.pth").touch()
    monkeypatch.chdir(tmp_path)
    output = tmp_path / "mine.yaml"
    flags = ["--weights", weights] if weights else []
    assert main([*folders, "--output", str(output), "--model", "mask2former-R50", *flags]) == 0
    cfg = load_config(str(output))
    assert cfg.MODEL.WEIGHTS_WITHOUT_CLASS_HEAD is bool(weights)
    assert (weights or "detectron2://ImageNetPretrained/torchvision/R-50.pkl") == cfg.MODEL.WEIGHTS
    assert ("licence" in output.read_text()) is not bool(weights)

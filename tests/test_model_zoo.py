"""The model zoo: names, weights, and one table behind the metrics, the document and the headers."""

import json
import re
from pathlib import Path

import pytest
import torch
from detectron2.modeling import build_model
from detectron2.utils.file_io import PathManager

from mask_former import model_zoo
from tools import make_model_zoo_doc as doc

ROOT = Path(__file__).parents[1]
REFERENCE = ROOT / "tests" / "reference"
FACTS = {
    name: facts
    for file in ("zoo.json", "mask2former_zoo.json", "pem_zoo.json")
    for name, facts in json.loads((REFERENCE / file).read_text()).items()
}
for row in json.loads((REFERENCE / "segmenter_zoo.json").read_text()):
    figures = row["figures"]
    FACTS["segmenter/" + row["url"].split("/checkpoints/")[1].rsplit("/", 1)[0]] = {
        "weights": row["url"],
        "mIoU": figures["mIoU_ss"],
        "mIoU_multi_scale_flip": figures["mIoU_ms"],
        "params_million": figures["params_M"],
    }
EOMT = "configs/dinov2/"
for row in json.loads((REFERENCE / "eomt_zoo.json").read_text()):
    config = row["config_path"] or ""
    if config.startswith(EOMT):
        FACTS["eomt/" + config.removeprefix(EOMT).removesuffix(".yaml")] = {
            "weights": row["url"],
            {"mAP": "AP"}.get(row["figure_name"], row["figure_name"]): row["figure_value"],
        }
RECIPES = {
    name: recipe
    for file in ("recipes.json", "mask2former_recipes.json", "pem_recipes.json")
    for name, recipe in json.loads((REFERENCE / file).read_text())["recipes"].items()
}
R50 = "ade20k-150/maskformer_R50_bs16_160k"
SEGMENTER = "segmenter/ade20k/seg_tiny_mask"
SHAPES = "shapes/maskformer_panoptic_quickstart"
PEM_STDC = "pem/ade20k/semantic-segmentation/pem_STDC1_bs32_90k"


def test_table_is_the_published_one():
    recipes = model_zoo.table()["recipes"]
    known = {name: {"weights": e["weights"], **e["published"]} for name, e in recipes.items()}
    assert known == FACTS
    zoo = model_zoo.table()
    used = {id(model_zoo.data_set(zoo, name)) for name in recipes}
    assert used == {id(facts) for facts in zoo["data_sets"].values()}


def test_names_are_recipes_and_no_bases():
    names = model_zoo.names()
    assert {*FACTS, SHAPES} <= set(names)
    assert not [name for name in names if "Base" in name]


@pytest.mark.parametrize(("name", "license"), [(R50, "CC BY-NC 4.0"), (SEGMENTER, "MIT")])
def test_the_licence_is_said_with_the_weights(name, license, caplog):
    assert not model_zoo.get_config(name).MODEL.WEIGHTS.startswith(FACTS[name]["weights"])
    assert not caplog.messages
    model_zoo.get_config(name, trained=True)
    assert [message for message in caplog.messages if name in message and license in message]


def test_config():
    cfg = model_zoo.get_config(R50)
    assert cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES == 150
    assert cfg.MODEL.WEIGHTS.endswith("torchvision/R-50.pkl")
    assert model_zoo.get_config(f"{R50}.yaml") == cfg
    cfg.MODEL.WEIGHTS = FACTS[R50]["weights"]
    assert model_zoo.get_config(R50, trained=True) == cfg


def test_recipes_of_an_installed_package_are_inside_it(tmp_path, monkeypatch):
    monkeypatch.setattr(model_zoo, "PACKAGE", tmp_path / "mask_former")
    for folder, classes in (("configs", 2), ("mask_former/configs", 3)):
        file = tmp_path / folder / "mine.yaml"
        file.parent.mkdir(parents=True)
        file.write_text(f"MODEL: {{SEM_SEG_HEAD: {{NUM_CLASSES: {classes}}}}}")
        assert model_zoo.names() == ["mine"]
        found = model_zoo.get_config("mine").MODEL.SEM_SEG_HEAD.NUM_CLASSES
        assert found == classes


@pytest.mark.parametrize(
    "wrong", ["ade20k-150/maskformer_R5O_bs16_160k", "../" + R50, "ade20k-150/Base-ADE20K-150"]
)
def test_an_unknown_name_is_an_error_that_names_the_nearest(wrong):
    for get in (model_zoo.get_config, model_zoo.get_checkpoint_url, model_zoo.get):
        with pytest.raises(ValueError, match=re.escape(wrong)) as error:
            get(wrong)
        assert "ade20k-150/" in str(error.value).split("nearest is")[1]


@pytest.mark.parametrize(
    ("name", "start"),
    [
        (SHAPES, ""),
        (PEM_STDC, "./pretrained_models/STDC1.pkl"),
        ("eomt/coco/panoptic/eomt_small_640", ""),
    ],
)
def test_a_recipe_without_published_weights_says_so(name, start):
    weights = model_zoo.get_config(name).MODEL.WEIGHTS
    assert weights == start
    with pytest.raises(ValueError, match=f"no published weights.*{name}"):
        model_zoo.get_config(name, trained=True)


def test_trained_model_has_the_published_weights(tmp_path, monkeypatch):
    cfg = model_zoo.get_config(SHAPES)
    saved = build_model(cfg).state_dict()
    file = tmp_path / "model_final.pth"
    torch.save({"model": saved}, file)
    url = "https://weights.example/model_final.pkl"
    entry = {"weights": url}
    zoo = {
        "papers": {"any": {"license": "any"}},
        "data_sets": {"shapes": {"paper": "any"}},
        "recipes": {SHAPES: entry},
    }
    monkeypatch.setattr(model_zoo, "table", lambda: zoo)
    downloads = {url: str(file)}
    monkeypatch.setattr(PathManager, "get_local_path", lambda path, **_: downloads.get(path, path))
    model = model_zoo.get(SHAPES, trained=True, device="cpu")
    assert model.training
    loaded = model.state_dict()
    assert loaded.keys() == saved.keys()
    assert all(torch.equal(loaded[name], saved[name]) for name in saved)

    # A backbone is no trained model.
    torch.save({"model": {k: w for k, w in saved.items() if k.startswith("backbone.")}}, file)
    with pytest.raises(ValueError, match="holds no head"):
        model_zoo.get(SHAPES, trained=True, device="cpu")


def test_untrained_model():
    model = model_zoo.get(SHAPES, device="cpu")
    assert model.training
    classes = model_zoo.get_config(SHAPES).MODEL.SEM_SEG_HEAD.NUM_CLASSES
    assert model.sem_seg_head.num_classes == classes


def test_document_and_headers_are_those_of_the_table():
    zoo = model_zoo.table()
    again = "run `python -m tools.make_model_zoo_doc`"
    assert doc.DOC.read_text(encoding="utf-8") == doc.document(zoo), again
    for name in FACTS:
        text = Path(model_zoo.get_config_file(name)).read_text(encoding="utf-8")
        assert doc.with_header(text, doc.header(zoo, name)) == text, again


def test_document_tells_published_from_measured():
    zoo = json.loads(json.dumps(model_zoo.table()))
    assert "There are none yet." in doc.document(zoo)
    zoo["recipes"][R50]["measured"] = {"mIoU": 44.26}
    text = doc.document(zoo)
    assert f"1 of {len(FACTS)} models are." in text
    above, row = text.split(f"](../configs/{R50}.yaml)")
    cells = [cell.strip() for cell in row.splitlines()[0].split("|")[:-1]]
    headings = [line for line in above.splitlines() if line.startswith("| recipe")][-1]
    headings = [cell.strip() for cell in headings.strip("|").split("|")]
    metrics = dict(zip(headings, cells, strict=True))
    assert metrics["mIoU: published"] == "44.5"
    assert metrics["mIoU: measured"] == "44.3"
    assert metrics["mIoU, multi-scale and flip: published"] == "46.7"
    assert metrics["mIoU, multi-scale and flip: measured"] == doc.NOTHING


def test_document_has_every_model_and_the_licence():
    text = doc.DOC.read_text(encoding="utf-8")
    assert text.count("weights CC BY-NC 4.0") == 2 and "weights MIT" in text
    for name, facts in FACTS.items():
        assert text.count(f"]({facts['weights']})") == bool(facts["weights"])
        assert f"(../configs/{name}.yaml)" in text
    for file in {recipe["MODEL.WEIGHTS"] for recipe in RECIPES.values()}:
        assert "://" in file or f"| `{file}` |" in text

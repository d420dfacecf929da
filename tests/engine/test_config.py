"""Loading configurations: inheritance, and errors that say where and what."""

from pathlib import Path

import pytest

from mask_former.config import REMOVED_KEYS
from mask_former.engine.config import get_cfg, load_config

CONFIGS = sorted((Path(__file__).parents[2] / "configs").rglob("*.yaml"))
RECIPES = [path for path in CONFIGS if not path.name.startswith("Base")]


@pytest.fixture
def write(tmp_path):
    def write(name, text):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        return str(path)

    return write


def test_nothing_given_yields_the_defaults():
    assert load_config() == get_cfg()


def test_bases_then_the_file_then_the_options(write):
    write("base/a.yaml", "SOLVER:\n  BASE_LR: 1.0\n  GAMMA: 1.0\n  MAX_ITER: 1\n  IMS_PER_BATCH: 1")
    write("base/b.yaml", "_BASE_: a.yaml\nSOLVER:\n  GAMMA: 2.0\n  MAX_ITER: 2\n  IMS_PER_BATCH: 2")
    write("c.yaml", "SOLVER:\n  IMS_PER_BATCH: 3")
    path = write("d.yaml", "_BASE_: [base/b.yaml, c.yaml]\nSOLVER: {MAX_ITER: 4}")
    solver = load_config(path, ["SOLVER.STEPS", "(5,)"]).SOLVER
    assert (solver.BASE_LR, solver.GAMMA, solver.IMS_PER_BATCH, solver.MAX_ITER) == (1.0, 2.0, 3, 4)
    assert solver.STEPS == (5,)


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.name)
def test_recipes_load(path):
    assert load_config(str(path)).DATASETS.TRAIN


@pytest.mark.parametrize(
    ("key", "nearest"),
    [
        ("SOLVER.BASELR", "SOLVER.BASE_LR"),
        ("MODEL.MASK_FORMER.NHEAD", "MODEL.MASK_FORMER.NHEADS"),
        ("MASK_FORMER.DICE_WEIGHT", "MODEL.MASK_FORMER.DICE_WEIGHT"),
        ("solver.max_iter", "SOLVER.MAX_ITER"),
    ],
)
def test_an_unknown_option_is_answered_with_the_nearest(key, nearest):
    with pytest.raises(ValueError, match=f"command line: unknown key {key}; .* {nearest}"):
        load_config(opts=[key, "1"])


def test_another_projects_key_is_not_answered_with_one_that_is_nothing_like_it():
    with pytest.raises(
        ValueError, match="unknown key MY.NOTE, and none is like it.*docs/DETECTRON2.md"
    ):
        load_config("", ["MY.NOTE", "hello"])


def test_an_unknown_key_is_found_in_the_file_that_has_it(write):
    base = write("base.yaml", "SOLVER:\n  BASELR: 1.0")
    path = write("child.yaml", "_BASE_: base.yaml\nSOLVER:\n  MAX_ITER: 1")
    with pytest.raises(ValueError, match=f"{base}: unknown key SOLVER.BASELR.*SOLVER.BASE_LR"):
        load_config(path)


@pytest.mark.parametrize("key", REMOVED_KEYS)
def test_a_key_of_an_earlier_version_has_no_effect_but_a_warning(key, caplog):
    assert load_config(opts=[key, "True"]) == get_cfg()
    assert key in caplog.text


def test_a_value_of_the_wrong_type(write):
    path = write("a.yaml", "SOLVER:\n  MAX_ITER: many")
    with pytest.raises(ValueError, match=f"{path}: SOLVER.MAX_ITER must be a int.*'many'"):
        load_config(path)
    with pytest.raises(ValueError, match=r"command line: DATASETS.TEST must be a tuple, like \('"):
        load_config(opts=["DATASETS.TEST", "ade20k_sem_seg_val"])


@pytest.mark.parametrize(("text", "rate"), [("1", 1), ("1e-4", 1e-4), ("'0.5'", 0.5)])
def test_numbers_without_a_decimal_point(write, text, rate):
    """To yaml 1e-4 is text, and 1 no float."""
    assert rate == load_config(write("a.yaml", f"SOLVER: {{BASE_LR: {text}}}")).SOLVER.BASE_LR
    assert rate == load_config(opts=["SOLVER.BASE_LR", text.strip("'")]).SOLVER.BASE_LR
    with pytest.raises(ValueError, match="BASE_LR must be a float.*'fast'"):
        load_config(opts=["SOLVER.BASE_LR", "fast"])


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("SOLVER:\n  BASE_LR: 0.1\nINPUT: {}\nSOLVER:\n  MAX_ITER: 5", "1 and 4"),
        ("SOLVER:\n  BASE_LR: 0.1\n  BASE_LR: 0.2", "2 and 3"),
    ],
)
def test_a_key_that_occurs_twice(write, text, lines):
    path = write("a.yaml", text)
    with pytest.raises(ValueError, match=f"{path} .*twice, in the lines {lines}"):
        load_config(path)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("SOLVER.BASE_LR", -0.1, "but must be at least 0"),
        ("SOLVER.BASE_LR", float("nan"), "must be a finite number"),
        ("SOLVER.WEIGHT_DECAY", float("inf"), "must be a finite number"),
        ("SOLVER.STEPS", (10, -1), "must be at least 0"),
        ("INPUT.MIN_SIZE_TRAIN", ("big",), "elements must be whole numbers, not 'big'"),
        ("INPUT.MIN_SIZE_TRAIN", (480, 0), "must be at least 1"),
        ("INPUT.MAX_SIZE_TEST", -1, "must be at least 1"),
        ("INPUT.FORMAT", "rgb", "must be one of 'RGB', 'BGR'"),
        ("INPUT.RANDOM_FLIP", "both", "must be one of 'none', 'horizontal', 'vertical'"),
        ("DATASETS.TRAIN", (1,), "elements must be texts"),
        ("MODEL.MASK_FORMER.DROPOUT", 1.5, r"must be in 0\.\.1"),
        ("MODEL.PIXEL_STD", [1.0, "x", 1.0], "elements must be numbers"),
        ("MODEL.SEM_SEG_HEAD.NUM_CLASSES", 0, "must be at least 1"),
        ("SOLVER.BASE_LR", None, "must be a float, like 0.001"),
        ("OUTPUT_DIR", None, "must be a str, like './output'"),
        ("SOLVER.POLY_LR_POWER", -1, "must be at least 0"),
        ("SEED", 2**40, "must be at most 2147483647"),
        ("INPUT.MIN_SIZE_TRAIN", (), "must have 1 or more elements"),
        ("INPUT.CROP.SIZE", (0.5,), "must have 2 elements"),
        ("MODEL.PIXEL_MEAN", [1.0, 2.0], "must have 3 elements"),
        ("MODEL.PIXEL_STD", [1.0, 0.0, 1.0], "must be at least 1e-06"),
        ("MODEL.SEM_SEG_HEAD.NORM", "BatchNorm", "must be one of .*SyncBN"),
        ("MODEL.SEM_SEG_HEAD.DEFORMABLE_TRANSFORMER_ENCODER_N_HEADS", 0, "must be at least 1"),
        ("MODEL.SEM_SEG_HEAD.DEFORMABLE_TRANSFORMER_ENCODER_N_POINTS", 0, "must be at least 1"),
        ("MODEL.VIT.PATCH_SIZE", -16, "must be at least 0"),
        ("SOLVER.EMA_DECAY", 1.0, r"must be in 0\.\.1, without 1\."),
        ("SOLVER.LAYER_DECAY", 0.0, r"must be in 0\.\.1, without 0\."),
        ("SOLVER.LAYER_DECAY", 1.5, r"must be in 0\.\.1, without 0\."),
        ("MODEL.SWIN.DROP_PATH_RATE", 1.0, r"must be in 0\.\.1, without 1\."),
    ],
)
def test_values_out_of_range(key, value, message):
    with pytest.raises(ValueError, match=f"command line: {key} is .*{message}"):
        load_config(opts=[key, value])


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *(("SOLVER.EMA_DECAY", x) for x in (0.0, 0.9999)),
        *(("SOLVER.LAYER_DECAY", x) for x in (0.01, 1.0)),
    ],
)
def test_values_at_the_ends_of_their_range(key, value):
    section, name = key.split(".")
    assert load_config(opts=[key, value])[section][name] == value


@pytest.mark.parametrize("base", [5, "[1]", "{a: b}"])
def test_a_base_that_is_no_file(write, base):
    path = write("a.yaml", f"_BASE_: {base}")
    with pytest.raises(ValueError, match=f"{path}: _BASE_ is .* must be a file"):
        load_config(path)


def test_yaml_that_contains_itself(write):
    path = write("a.yaml", "SOLVER: &a\n  BASE_LR: *a")
    with pytest.raises(ValueError, match=path):
        load_config(path)


def test_a_section_is_not_replaced_by_a_value(write):
    with pytest.raises(ValueError, match="SOLVER is a section"):
        load_config(opts=["SOLVER", "{'MAX_ITER': 1}"])
    with pytest.raises(ValueError, match="MODEL.RESNETS is a section"):
        load_config(write("a.yaml", "MODEL:\n  RESNETS:\n"))


def test_an_option_without_a_value():
    with pytest.raises(ValueError, match="KEY VALUE.*'SOLVER.BASE_LR=0.1'"):
        load_config(opts=["SOLVER.BASE_LR=0.1"])


def test_a_flag_behind_the_options():
    with pytest.raises(ValueError, match="--eval-only .*flags come before"):
        load_config(opts=["SOLVER.BASE_LR", "0.1", "--eval-only"])


@pytest.mark.parametrize("wrap", ["{}", "SOLVER:\n  STEPS: {}"])
def test_yaml_that_runs_python_is_refused(write, tmp_path, wrap):
    trace = tmp_path / "trace"
    tag = f"!!python/object/apply:os.mkdir ['{trace}']"
    path = write("evil.yaml", wrap.format(tag))
    child = write("child.yaml", "_BASE_: evil.yaml")
    for file in (path, child):
        with pytest.raises(ValueError, match=f"{path} needs more than plain yaml"):
            load_config(file)
    assert not trace.exists()


def test_a_python_list_of_sizes_is_answered_with_the_sizes(write):
    tag = '!!python/object/apply:eval ["[int(x * 0.1 * 512) for x in range(5, 21)]"]'
    path = write("a.yaml", f"VERSION: 2\nINPUT:\n  MIN_SIZE_TRAIN: {tag}")
    with pytest.raises(ValueError, match="python/object/apply:eval.*line 3") as caught:
        load_config(path)
    answer = str(caught.value).split("`")[1]
    assert answer == (
        "MIN_SIZE_TRAIN: [256, 307, 358, 409, 460, 512, 563, 614, 665, 716, 768, 819, 870, 921, "
        "972, 1024]"
    )
    assert load_config(write("a.yaml", f"INPUT:\n  {answer}")).INPUT.MIN_SIZE_TRAIN[-1] == 1024


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("SOLVER: [", "is not valid yaml"),
        ("- SOLVER", "must hold keys and values, not a list"),
        ("VERSION: 1", "VERSION is 1, this needs 2"),
        ("_BASE_: a.yaml", " -> .*a.yaml: _BASE_ leads in a circle"),
    ],
)
def test_broken_files_are_named(write, text, message):
    path = write("a.yaml", text)
    with pytest.raises(ValueError, match=f"{path}.*{message}"):
        load_config(path)


def test_a_missing_file_and_a_missing_base_are_named(write, tmp_path):
    with pytest.raises(FileNotFoundError, match=f"{tmp_path}/nowhere.yaml does not exist"):
        load_config(str(tmp_path / "nowhere.yaml"))
    path = write("a.yaml", "_BASE_: Base.yaml")
    with pytest.raises(FileNotFoundError, match=f"{tmp_path}/Base.yaml .*_BASE_ of {path}"):
        load_config(path)


def test_an_empty_file_changes_nothing(write):
    assert load_config(write("a.yaml", "# nothing yet\n")) == get_cfg()

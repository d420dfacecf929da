"""What the quickstart does around the training, which tests/test_end_to_end.py covers."""

import sys

import pytest

from tools import quickstart


def test_no_earlier_run_is_overwritten(tmp_path):
    folder = tmp_path / "quickstart"
    assert quickstart.free_folder(folder) == folder
    folder.mkdir()
    (tmp_path / "quickstart-2").mkdir()
    assert quickstart.free_folder(folder) == tmp_path / "quickstart-3"


def test_an_output_folder_with_a_run_is_refused(tmp_path, monkeypatch):
    (tmp_path / "metrics.json").write_text("{}")
    monkeypatch.setattr(sys, "argv", ["quickstart", "--output", str(tmp_path)])
    with pytest.raises(FileExistsError, match="holds another run"):
        quickstart.main()


@pytest.mark.parametrize("model", quickstart.RECIPES)
def test_its_configs_name_what_the_table_shows(model):
    cfg = quickstart.load_config(str(quickstart.RECIPES[model]), [])
    switches = cfg.MODEL.MASK_FORMER.TEST
    assert switches.PANOPTIC_ON and switches.SEMANTIC_ON and switches.INSTANCE_ON
    # The table is read from the figures of an evaluation at the very end.
    assert cfg.SOLVER.MAX_ITER % cfg.TEST.EVAL_PERIOD == 0


def test_the_models_share_data_backbone_and_optimizer():
    ours, theirs = (quickstart.load_config(str(path), []) for path in quickstart.RECIPES.values())
    for cfg in (ours, theirs):
        cfg.OUTPUT_DIR = ""
        cfg.TEST.EVAL_PERIOD = cfg.SOLVER.CHECKPOINT_PERIOD = cfg.SOLVER.MAX_ITER = 0
        for part in ("SEM_SEG_HEAD", "MASK_FORMER"):
            del cfg.MODEL[part]
    assert ours == theirs

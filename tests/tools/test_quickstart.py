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


def test_its_config_names_what_the_table_shows():
    cfg = quickstart.load_config(str(quickstart.CONFIG), [])
    switches = cfg.MODEL.MASK_FORMER.TEST
    assert switches.PANOPTIC_ON and switches.SEMANTIC_ON and switches.INSTANCE_ON
    # The table is read from the figures of an evaluation at the very end.
    assert cfg.SOLVER.MAX_ITER % cfg.TEST.EVAL_PERIOD == 0

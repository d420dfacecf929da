import pytest

from tests.engine import tiny


def test_bfloat16_trains_like_float32(shapes_root, tmp_path):
    """On the CPU, three digits of mantissa: the losses differ, but by little."""
    options = {
        "DATASETS__TEST": (),
        "MODEL__MASK_FORMER__DROPOUT": 0.0,
        "SOLVER__MAX_ITER": 3,
        "SOLVER__AMP__DTYPE": "bfloat16",
    }
    full, mixed = (
        tiny.run_here(tiny.tiny_cfg(tmp_path / name, SOLVER__AMP__ENABLED=enabled, **options))
        for name, enabled in (("full", False), ("mixed", True))
    )
    assert mixed["losses"] != full["losses"]
    for iteration, loss in full["losses"].items():
        assert mixed["losses"][iteration] == pytest.approx(loss, rel=0.02)

"""Mask2Former in training: it resumes as if nothing had happened, and its views can be merged."""

from tests.backbone.training import MASK2FORMER
from tests.engine.every_model import assert_a_resumed_run_continues, assert_one_view_is_the_model


def test_a_resumed_run_continues(shapes_root, tmp_path):
    assert_a_resumed_run_continues(tmp_path / "run", **MASK2FORMER)


def test_test_time_augmentation_of_one_view_is_the_model(tmp_path):
    assert_one_view_is_the_model(tmp_path, **MASK2FORMER)

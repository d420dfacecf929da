import json

from mask_former.engine.metrics_log import forget_metrics_from


def test_what_will_be_written_again_is_dropped(tmp_path):
    lines = [
        {"iteration": 19, "total_loss": 1.0},
        {"iteration": 24, "panoptic_seg/PQ": 1.0},
        {"iteration": 25, "panoptic_seg/PQ": 2.0},  # final evaluation of a run of 25
        {"iteration": 25, "total_loss": 1.0},
        {"iteration": 39, "panoptic_seg/PQ": 3.0, "total_loss": 0.5},
    ]
    text = [json.dumps(line) + "\n" for line in lines]
    path = tmp_path / "metrics.json"
    path.write_text("".join(text) + '{"iteration": 59, "tot')
    with path.open("a") as writer:  # of the new run
        forget_metrics_from(25, str(tmp_path))
        writer.write(text[3])
    assert path.read_text() == "".join(text[:4])


def test_no_file(tmp_path):
    forget_metrics_from(0, str(tmp_path))
    assert not list(tmp_path.iterdir())

import json

import cv2
import pytest

from mask_former.visualization import plot_curves


def write(path, entries, tail=""):
    path.write_text("".join(json.dumps(entry) + "\n" for entry in entries) + tail)
    return path


def entry(iteration, **more):
    return {"iteration": iteration, "total_loss": 9.0 - iteration / 100, "lr": 1e-3} | more


def test_a_file_without_metrics_is_named(tmp_path):
    with pytest.raises(ValueError, match="empty.json"):
        plot_curves(write(tmp_path / "empty.json", [], tail="\n"), tmp_path / "curves.png")


@pytest.mark.parametrize("with_evaluations", [True, False])
def test_curves_are_drawn(tmp_path, with_evaluations):
    entries = [entry(i, loss_ce=2.0, loss_ce_0=2.1, time=0.2) for i in range(19, 400, 20)]
    if with_evaluations:
        entries[-1]["panoptic_seg/PQ"] = 71.0
        entries[-1]["sem_seg/mIoU"] = float("nan")
    output = tmp_path / "figures" / "curves.png"
    plot_curves(write(tmp_path / "metrics.json", entries), output, title="shapes")
    picture = cv2.imread(str(output))
    colours = {tuple(c) for c in picture.reshape(-1, 3)[::7].tolist()}
    assert picture.shape[1] > 1000 and len(colours) > 20

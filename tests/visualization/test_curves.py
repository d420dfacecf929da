import json

import cv2
import pytest

from mask_former.visualization import plot_curves, read_metrics


def write(path, entries, tail=""):
    path.write_text("".join(json.dumps(entry) + "\n" for entry in entries) + tail)
    return path


def entry(iteration, **more):
    return {"iteration": iteration, "total_loss": 9.0 - iteration / 100, "lr": 1e-3} | more


def test_entries_are_sorted_and_of_repeated_iterations_the_last_counts(tmp_path):
    entries = [entry(19), entry(39, total_loss=5), entry(59), entry(39, total_loss=4)]
    read = read_metrics(write(tmp_path / "metrics.json", entries))
    assert [(e["iteration"], e["total_loss"]) for e in read] == [(19, 8.81), (39, 4), (59, 8.41)]


def test_entries_of_one_iteration_are_joined(tmp_path):
    path = write(tmp_path / "metrics.json", [entry(19), {"iteration": 19, "panoptic_seg/PQ": 70}])
    assert read_metrics(path) == [entry(19) | {"panoptic_seg/PQ": 70}]


def test_lines_torn_by_a_kill_are_left_out(tmp_path):
    path = tmp_path / "metrics.json"
    path.write_text(f'{json.dumps(entry(19))}\n{{"iterat{json.dumps(entry(39))}\n[1]\n{{"iter')
    assert [e["iteration"] for e in read_metrics(path)] == [19]


def test_missing_and_empty_files_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="metrics.json"):
        read_metrics(tmp_path / "metrics.json")
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

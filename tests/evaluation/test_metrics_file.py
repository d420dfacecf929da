import json

import pytest
from detectron2.utils.events import EventStorage

from mask_former.evaluation.metrics_file import MetricsWriter, drop_metrics_from, read_metrics


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


def test_a_missing_file_is_named_and_an_empty_one_has_no_entries(tmp_path):
    with pytest.raises(FileNotFoundError, match="metrics.json"):
        read_metrics(tmp_path / "metrics.json")
    assert read_metrics(write(tmp_path / "empty.json", [], tail="\n")) == []


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
        drop_metrics_from(25, str(tmp_path))
        writer.write(text[3])
    assert path.read_text() == "".join(text[:4])


def test_no_file(tmp_path):
    drop_metrics_from(0, str(tmp_path))
    assert not list(tmp_path.iterdir())


def test_a_line_that_lacks_only_its_end_stays_apart_from_the_next(tmp_path):
    path = tmp_path / "metrics.json"
    path.write_text(json.dumps(entry(19)))
    with path.open("a") as writer:
        drop_metrics_from(20, str(tmp_path))
        writer.write(json.dumps(entry(39)) + "\n")
    assert read_metrics(path) == [entry(19), entry(39)]


def test_what_is_written_is_json_and_only_what_is_new(tmp_path):
    path = tmp_path / "metrics.json"
    writer = MetricsWriter(str(path))
    with EventStorage(0) as storage:
        storage.put_scalar("total_loss", 2.0)
        storage.put_scalars(**{"segm/AP": 5.0, "segm/AP-dog": float("nan")}, smoothing_hint=False)
        writer.write()
        writer.write()
        storage.iter = 3
        storage.put_scalar("total_loss", 1.0)
        storage.put_scalar("other", float("inf"))
        writer.write()
    writer.close()

    def forbidden(name):
        raise AssertionError(name)

    lines = path.read_text().splitlines()
    assert [json.loads(line, parse_constant=forbidden) for line in lines] == [
        {"iteration": 0, "segm/AP": 5.0, "total_loss": 2.0},
        {"iteration": 3, "total_loss": 1.5},  # the median
    ]

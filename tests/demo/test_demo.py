"""The command line from end to end, with a tiny model of random weights on the CPU."""

import json
import os
import signal

import cv2
import numpy as np
import pytest
import torch
from detectron2.modeling import build_model

import mask_former  # noqa: F401
from demo import demo
from mask_former.visualization import VideoReader, VideoWriter, video
from tests.engine.tiny import tiny_cfg


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """Flags that name a config and weights."""
    folder = tmp_path_factory.mktemp("model")
    cfg = tiny_cfg(folder, MODEL__WEIGHTS=str(folder / "model.pth"))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        weights = build_model(cfg).state_dict()
        # No query says that there is no object, so that there are segments.
        weights["sem_seg_head.predictor.class_embed.bias"][-1] = -9
        torch.save({"model": weights}, folder / "model.pth")
    (folder / "config.yaml").write_text(cfg.dump())
    return ["--config-file", str(folder / "config.yaml")]


@pytest.fixture
def photos(tmp_path):
    """Three images of different sizes, two of one name."""
    random = np.random.default_rng(0)
    for name, size in {"a/1.png": (60, 80), "a/2.jpg": (50, 40), "b/1.png": (30, 30)}.items():
        path = tmp_path / "photos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), random.integers(0, 256, (*size, 3), dtype=np.uint8))
    return tmp_path / "photos"


@pytest.fixture
def clip(tmp_path):
    path = tmp_path / "clip.avi"
    with VideoWriter(path, 12) as writer:
        for i in range(6):
            writer.write(np.random.default_rng(i).integers(0, 256, (48, 64, 3), dtype=np.uint8))
    return path


def run(*flags):
    return demo.main([str(flag) for flag in flags])


def stop(capsys, *flags):
    """The message with which the demo refuses; its exit code is 2."""
    with pytest.raises(SystemExit) as refusal:
        run(*flags)
    assert refusal.value.code == 2
    return capsys.readouterr().err


def load(path):
    return json.loads(path.read_text())


def test_images_are_drawn_at_their_size_and_none_is_lost(model, photos, tmp_path):
    out = tmp_path / "out"
    flags = ["--input", photos / "a", photos / "b/*.png", "--output", out]
    assert run(*model, *flags, "--confidence-threshold", 0) == 0
    sizes = {path.name: cv2.imread(str(path)).shape[:2] for path in out.iterdir()}
    assert sizes == {"1.png": (60, 80), "2.jpg": (50, 40), "1_2.png": (30, 30)}
    original = cv2.imread(str(photos / "a/1.png"))
    assert not np.array_equal(cv2.imread(str(out / "1.png")), original)


def test_unreadable_input_is_reported_and_the_rest_is_done(model, photos, tmp_path, capsys):
    out = tmp_path / "out"
    whole = (photos / "a/2.jpg").read_bytes()
    (photos / "a/broken.jpg").write_bytes(whole[: len(whole) // 2])
    flags = ["--input", photos / "a", photos / "gone.png", "--output", out, "--save-results"]
    assert run(*model, *flags) == 1
    message = capsys.readouterr().err
    assert "broken.jpg" in message and "gone.png" in message and "2.jpg cannot" not in message
    assert sorted(p.name for p in out.iterdir()) == ["1.png", "2.jpg", "results"]
    assert len(load(out / "results/panoptic.json")["annotations"]) == 2


def test_nothing_that_can_be_read(model, photos, tmp_path, capsys):
    (photos / "a/1.png").write_bytes(b"no image")
    assert run(*model, "--input", photos / "a/1.png", "--output", tmp_path / "out") == 2
    assert "1.png cannot be read" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_one_image_into_one_file_enlarged(model, photos, tmp_path):
    picture = tmp_path / "new folder" / "picture.png"
    flags = ["--input", photos / "a/1.png", "--output", picture, "--scale", 1.5, "--save-results"]
    assert run(*model, *flags) == 0
    assert cv2.imread(str(picture)).shape == (90, 120, 3)
    results = tmp_path / "new folder" / "picture_results"
    assert cv2.imread(str(results / "panoptic/picture.png")).shape == (60, 80, 3)


def saved(folder, name):
    return load(folder / "results" / f"{name}.json")


def test_the_threshold_of_panoptic_segments(model, photos, tmp_path):
    flags = ["--input", photos / "a/1.png", "--task", "panoptic", "--save-results"]
    run(*model, *flags, "--confidence-threshold", 0, "--output", tmp_path / "all")
    run(*model, *flags, "--confidence-threshold", 1, "--output", tmp_path / "none")
    assert saved(tmp_path / "all", "panoptic")["annotations"][0]["segments_info"]
    assert saved(tmp_path / "none", "panoptic")["annotations"][0]["segments_info"] == []
    bare = cv2.imread(str(photos / "a/1.png"))
    assert np.array_equal(cv2.imread(str(tmp_path / "none/1.png")), bare)


def test_the_threshold_of_instances(model, photos, tmp_path):
    flags = ["--input", photos / "a/1.png", "--task", "instance", "--save-results"]
    run(*model, *flags, "--confidence-threshold", 0, "--output", tmp_path / "all")
    found = saved(tmp_path / "all", "instances")
    threshold = float(np.median([instance["score"] for instance in found]))
    run(*model, *flags, "--confidence-threshold", threshold, "--output", tmp_path / "some")
    expected = [instance for instance in found if instance["score"] >= threshold]
    assert 0 < len(expected) < len(found)
    assert saved(tmp_path / "some", "instances") == expected


def test_semantic_has_no_threshold(model, photos, tmp_path, capsys):
    flags = ["--input", photos, "--output", tmp_path / "out", "--task", "semantic"]
    message = stop(capsys, *model, *flags, "--confidence-threshold", 0.5)
    assert "no confidence threshold" in message
    assert not (tmp_path / "out").exists()


def test_semantic_maps(model, photos, tmp_path):
    flags = ["--input", photos / "a/1.png", "--output", tmp_path, "--task", "semantic"]
    assert run(*model, *flags, "--save-results") == 0
    labels = cv2.imread(str(tmp_path / "results/semantic/1.png"), cv2.IMREAD_UNCHANGED)
    assert labels.shape == (60, 80) and labels.max() < 10
    assert len(saved(tmp_path, "semantic")["categories"]) == 10


def test_a_video_keeps_its_frames_and_rate(model, clip, tmp_path, capsys):
    out = tmp_path / "out.mp4"
    assert run(*model, "--video-input", clip, "--output", out, "--save-results") == 0
    assert f"6 frames segmented; pictures: {out}" in capsys.readouterr().out
    with VideoReader(out) as reader:
        assert reader.fps == 12
        assert [frame.shape for frame in reader] == [(48, 64, 3)] * 6
    results = load(tmp_path / "out_results/panoptic.json")
    assert [a["file_name"] for a in results["annotations"]] == [f"{i:06d}.png" for i in range(1, 7)]


def test_a_video_into_a_folder(model, clip, tmp_path):
    assert run(*model, "--video-input", clip, "--output", tmp_path / "new") == 0
    assert (tmp_path / "new" / "clip.avi").is_file()


def test_a_video_that_breaks_off(model, clip, tmp_path, capsys):
    content = clip.read_bytes()
    clip.write_bytes(content[: len(content) // 2])
    assert run(*model, "--video-input", clip, "--output", tmp_path / "out.mp4") == 1
    assert "breaks off after" in capsys.readouterr().err
    with VideoReader(tmp_path / "out.mp4") as reader:
        assert 0 < len(list(reader)) < 6


def test_a_video_that_is_none(model, clip, tmp_path, capsys):
    clip.write_bytes(b"no video")
    message = stop(capsys, *model, "--video-input", clip, "--output", tmp_path / "out.mp4")
    assert "clip.avi" in message
    assert not (tmp_path / "out.mp4").exists()


def test_a_video_that_cannot_be_written(model, clip, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(video.CODECS, ".mp4", ("QQQQ",))
    message = stop(capsys, *model, "--video-input", clip, "--output", tmp_path / "out.mp4")
    assert "error: " in message and "none of the codecs QQQQ" in message


def test_a_camera_runs_until_it_is_interrupted(model, clip, tmp_path, monkeypatch):
    class Camera(VideoReader):
        def __init__(self, source):
            assert source == 1
            super().__init__(clip)
            self.num_frames = None

        def __iter__(self):
            frames = super().__iter__()
            yield from (next(frames) for _ in range(2))
            os.kill(os.getpid(), signal.SIGINT)
            yield next(frames)

    monkeypatch.setattr(demo, "VideoReader", Camera)
    assert run(*model, "--webcam", 1, "--output", tmp_path / "out") == 0
    with VideoReader(tmp_path / "out" / "camera_1.mp4") as reader:
        assert len(list(reader)) == 3


def interrupted_after(number):
    """`segment`, in the middle of which Ctrl-C is pressed."""
    segment = demo.Demo.segment
    calls = []

    def interrupted(self, image):
        calls.append(image.shape)
        if len(calls) == number:
            os.kill(os.getpid(), signal.SIGINT)
        return segment(self, image)

    return interrupted


def test_ctrl_c_keeps_the_images_that_are_done(model, photos, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(demo.Demo, "segment", interrupted_after(2))
    flags = ["--input", photos / "a", photos / "b", "--output", tmp_path / "out", "--save-results"]
    assert run(*model, *flags) == 130
    assert "ended by SIGINT: 2 images are done" in capsys.readouterr().err
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["1.png", "2.jpg", "results"]
    assert len(saved(tmp_path / "out", "panoptic")["annotations"]) == 2


def test_ctrl_c_keeps_the_frames_that_are_done(model, clip, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(demo.Demo, "segment", interrupted_after(4))
    out = tmp_path / "out.mp4"
    assert run(*model, "--video-input", clip, "--output", out) == 130
    assert "ended by SIGINT: 4 frames are done" in capsys.readouterr().err
    with VideoReader(out) as reader:
        assert len(list(reader)) == 4


def test_an_image_that_our_code_fails_on_is_named_and_the_rest_is_done(
    model, photos, tmp_path, monkeypatch, capsys
):
    segment = demo.Demo.segment

    def fails_on_small(self, image):
        return segment(self, image) if image.shape[0] > 30 else int("a bug")

    monkeypatch.setattr(demo.Demo, "segment", fails_on_small)
    flags = ["--input", photos / "b", photos / "a", "--output", tmp_path / "out"]
    assert run(*model, *flags) == 1
    message = capsys.readouterr().err
    assert "1 could not be segmented" in message and "b/1.png: ValueError" in message
    assert 'int("a bug")' in message  # the traceback
    assert len(list((tmp_path / "out").iterdir())) == 2


def test_q_in_the_window_quits(model, photos, tmp_path, monkeypatch):
    shown = []
    monkeypatch.setenv("DISPLAY", ":0")
    monkeypatch.setattr(cv2, "imshow", lambda _, picture: shown.append(picture.shape))
    keys = iter([ord("x"), ord("q")])
    monkeypatch.setattr(cv2, "waitKey", lambda _: next(keys))
    assert run(*model, "--input", photos / "a", photos / "b", "--show") == 0
    assert shown == [(60, 80, 3), (50, 40, 3)]


def test_no_window_without_a_display(model, photos, monkeypatch, capsys):
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    monkeypatch.setattr(demo.sys, "platform", "linux")
    assert "--show needs a display" in stop(capsys, *model, "--input", photos, "--show")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--input", "{photos}/a"], "--output FILE_OR_FOLDER or --show"),
        (["--input", "{photos}/none", "--output", "{out}"], "nothing to segment"),
        (["--input", "{photos}/a", "--output", "{out}.png"], "one file for 2 images"),
        (["--input", "{photos}/a", "--output", "{photos}/a"], "overwrite the input"),
        (["--input", "{photos}/a", "--output", "{out}", "--scale", "0"], "--scale"),
        (["--input", "{photos}/a", "--output", "{out}", "--scale", "nan"], "--scale"),
        (["--input", "{photos}/a", "--output", "{out}", "--confidence-threshold", "2"], "0..1"),
        (["--input", "{photos}/a", "--output", "{out}", "--opts", "MODEL.WIGHTS", "x"], "WEIGHTS"),
        (["--input", "{photos}/a", "--output", "{out}", "--image-ids", "names"], "--save-results"),
        (["--input", "{photos}/a", "{photos}/b", "--output", "{out}", "--save-results",
          "--image-ids", "names"], "b/1.png has the image id 1, like"),
        (["--video-input", "{photos}/no.mp4", "--output", "{out}"], "no.mp4"),
        (["--video-input", "{photos}/no.mp4", "--output", "{out}.gif"], ".mp4"),
    ],
)  # fmt: skip
def test_refusals(model, photos, tmp_path, capsys, flags, message):
    before = {path: path.read_bytes() for path in photos.rglob("*.*")}
    flags = [flag.format(photos=photos, out=tmp_path / "out") for flag in flags]
    assert message in stop(capsys, *model, *flags)
    assert not (tmp_path / "out").exists()
    assert {path: path.read_bytes() for path in photos.rglob("*.*")} == before

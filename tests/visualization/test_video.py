import numpy as np
import pytest

from mask_former.visualization import VideoReader, VideoWriter, video


def clip(count, size=(48, 64)):
    """Frames that grow brighter."""
    return [np.full((*size, 3), (40, 8 * i, 200), np.uint8) for i in range(count)]


def write(path, frames, fps=24.0):
    with VideoWriter(path, fps) as writer:
        for frame in frames:
            writer.write(frame)
    return path


@pytest.mark.parametrize("suffix", video.CODECS)
def test_what_is_written_is_read(tmp_path, suffix):
    frames = clip(12)
    path = write(tmp_path / "new folder" / f"clip{suffix}", frames, fps=29.97)
    with VideoReader(path) as reader:
        read = list(reader)
    assert reader.fps == pytest.approx(29.97, abs=0.01)
    assert reader.num_frames == len(read) == 12
    # Lossy, but the colours are in the right order and the frames too.
    assert (
        max(abs(a.mean((0, 1)) - b.mean((0, 1))).max() for a, b in zip(frames, read, strict=True))
        < 12
    )


def test_an_odd_size_is_rounded_up_not_cut(tmp_path):
    path = write(tmp_path / "clip.mp4", clip(3, size=(47, 63)))
    with VideoReader(path) as reader:
        assert next(iter(reader)).shape == (48, 64, 3)


def test_a_video_without_frames_leaves_no_file(tmp_path):
    write(tmp_path / "clip.mp4", [])
    assert not (tmp_path / "clip.mp4").exists()


def test_a_missing_or_broken_video_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="none.mp4"):
        VideoReader(tmp_path / "none.mp4")
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"no video" * 100)
    with pytest.raises(ValueError, match="broken.mp4"):
        VideoReader(broken)


def test_a_codec_that_is_not_there_is_an_error_that_lists_what_was_tried(tmp_path, monkeypatch):
    monkeypatch.setitem(video.CODECS, ".mp4", ("QQQQ", "ZZZZ"))
    with pytest.raises(OSError, match="clip.mp4.*QQQQ, ZZZZ"):
        write(tmp_path / "clip.mp4", clip(1))


def test_the_next_codec_is_tried(tmp_path, monkeypatch):
    monkeypatch.setitem(video.CODECS, ".mp4", ("QQQQ", "mp4v"))
    with VideoReader(write(tmp_path / "clip.mp4", clip(4))) as reader:
        assert len(list(reader)) == 4


def test_frames_that_got_lost_are_noticed(tmp_path):
    writer = VideoWriter(tmp_path / "clip.mp4", 24)
    with pytest.raises(OSError, match="holds 5 of 9 frames"), writer:
        for frame in clip(5):
            writer.write(frame)
        writer.num_frames = 9


def test_a_folder_that_is_a_file_is_named(tmp_path):
    (tmp_path / "notadir").touch()
    with (
        pytest.raises(OSError, match="o.mp4 cannot be written: .*notadir is not a folder"),
        VideoWriter(tmp_path / "notadir" / "o.mp4", 10) as writer,
    ):
        writer.write(np.zeros((8, 8, 3), np.uint8))


def test_wrong_suffix_and_changing_sizes(tmp_path):
    with pytest.raises(ValueError, match=r"clip.gif.*\.mp4"):
        VideoWriter(tmp_path / "clip.gif", 24)
    with pytest.raises(ValueError, match="clip.avi"):
        write(tmp_path / "clip.avi", [*clip(1), *clip(1, size=(10, 10))])

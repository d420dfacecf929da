"""Video files and cameras, read and written through OpenCV, with errors instead of silence.

Frames are uint8 (H, W, 3) in OpenCV's order, blue first.
"""

from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

import cv2
import numpy as np

from mask_former.checkpoint.atomic_write import make_folder_of
from mask_former.errors import MissingFileError, UnwritableFileError, UserError

# The codecs of OpenCV's own wheels, by suffix and in order of preference. OpenCV raises nothing
# when it lacks a codec: the writer is not open.
CODECS: dict[str, tuple[str, ...]] = {
    ".mp4": ("mp4v", "avc1"),
    ".m4v": ("mp4v", "avc1"),
    ".mov": ("mp4v", "avc1"),
    ".avi": ("MJPG", "XVID"),
    ".mkv": ("mp4v", "MJPG", "VP90"),
    ".webm": ("VP90", "VP80"),
}
# For cameras and files that do not state their frame rate.
_DEFAULT_FPS = 30.0


class VideoReader:
    """The frames of a video file or a camera, one after the other. Also a context manager.

    Args:
        source: a path, or the number of a camera.

    Attributes:
        fps: frames per second.
        num_frames: as stated in the file; None if unknown.

    Raises:
        FileNotFoundError: there is no such file.
        UserError: the file or the camera cannot be read.
    """

    def __init__(self, source: str | Path | int) -> None:
        self.name = f"camera {source}" if isinstance(source, int) else str(source)
        if not isinstance(source, int) and not Path(source).is_file():
            raise MissingFileError(f"no such video: {source}")
        self._capture = cv2.VideoCapture(source if isinstance(source, int) else str(source))
        opened, self._first = self._capture.read()
        if not opened:
            self._capture.release()
            raise UserError(f"{self.name} cannot be read as a video")
        fps = self._capture.get(cv2.CAP_PROP_FPS)
        self.fps: float = fps if 0 < fps < 1000 else _DEFAULT_FPS
        frames = 0 if isinstance(source, int) else self._capture.get(cv2.CAP_PROP_FRAME_COUNT)
        self.num_frames: int | None = int(frames) if frames > 0 else None

    def __iter__(self) -> Iterator[np.ndarray]:
        frame = self._first
        while frame is not None:
            yield frame
            read, frame = self._capture.read()
            if not read:
                return

    def __enter__(self) -> "VideoReader":
        return self

    def __exit__(self, *_: object) -> None:
        self._capture.release()


class VideoWriter:
    """Writes a video with the first codec that works for the file's suffix. A context manager:
    on exit the file is complete and checked. Frames with an odd side gain a row or a
    column.

    Args:
        path: its suffix is one of `CODECS`; its folder is made if missing.
        fps: frames per second.

    Raises:
        UserError: the suffix is unknown, or a frame has another size than the first.
        OSError: none of the codecs opens, or the file holds fewer frames than were written.
    """

    def __init__(self, path: str | Path, fps: float) -> None:
        check_suffix(path)
        self.path = Path(path)
        self.fps = fps
        self.num_frames = 0
        self._writer: cv2.VideoWriter | None = None
        self._size = (0, 0)

    def write(self, frame: np.ndarray) -> None:
        """Append a frame, uint8 (H, W, 3), BGR."""
        size = (frame.shape[1], frame.shape[0])
        if self._writer is None:
            self._writer, self._size = self._open(size), size
        if size != self._size:
            raise UserError(f"{self.path}: frames of {self._size} and of {size} pixels")
        # Video is coded in blocks of 2 x 2: OpenCV would cut an odd row or column off.
        frame = cv2.copyMakeBorder(frame, 0, size[1] % 2, 0, size[0] % 2, cv2.BORDER_REPLICATE)
        self._writer.write(frame)
        self.num_frames += 1

    def _open(self, size: tuple[int, int]) -> cv2.VideoWriter:
        make_folder_of(self.path)
        codecs = CODECS[self.path.suffix.lower()]
        for codec in codecs:
            fourcc = cv2.VideoWriter.fourcc(*codec)
            even = (size[0] + size[0] % 2, size[1] + size[1] % 2)
            writer = cv2.VideoWriter(str(self.path), fourcc, self.fps, even)
            if writer.isOpened():
                return writer
            writer.release()
        raise UnwritableFileError(
            f"{self.path}: this OpenCV opens none of the codecs {', '.join(codecs)} for a video of "
            f"{size[0]}x{size[1]} pixels; try another suffix: {', '.join(CODECS)}"
        )

    def __enter__(self) -> "VideoWriter":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._writer is None:
            return
        self._writer.release()
        if kind is None:
            self._check()

    def _check(self) -> None:
        capture = cv2.VideoCapture(str(self.path))
        found = int(capture.get(cv2.CAP_PROP_FRAME_COUNT)) if capture.isOpened() else 0
        capture.release()
        # Formats that store no number of frames give an estimate of it.
        if found < self.num_frames - 1:
            raise UnwritableFileError(
                f"{self.path} holds {found} of {self.num_frames} frames; is the disk full?"
            )


def check_suffix(path: str | Path) -> None:
    """Raise UserError unless videos can be written under the path's suffix."""
    if Path(path).suffix.lower() not in CODECS:
        raise UserError(f"{path}: a video's name ends in one of {', '.join(CODECS)}")

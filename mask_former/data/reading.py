"""Reading images and annotations. Every error names the file that is wrong."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from detectron2.data import detection_utils
from detectron2.utils.file_io import PathManager
from PIL import Image

from mask_former.data.coco_format import decode_ids
from mask_former.data.label_map import run_lengths
from mask_former.errors import MissingFileError, UserError

Record = Mapping[str, Any]


def read_image(file_name: str | Path, image_format: str | None) -> np.ndarray:
    """Read an image as uint8 (H, W, C).

    Args:
        file_name: the image file.
        image_format: a mode of PIL, such as "RGB" or "L", or "BGR"; None takes the file's own and
            gives (H, W) where that has a single channel.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is no image, or a broken one.
    """
    with explained_read_errors(file_name):
        if image_format != "BGR":
            return detection_utils.read_image(str(file_name), image_format)
        # Detectron2 would return a view that runs backwards, which slows down what comes after.
        return cv2.cvtColor(detection_utils.read_image(str(file_name), "RGB"), cv2.COLOR_RGB2BGR)


def read_ids(file_name: str | Path) -> np.ndarray:
    """Segment ids of a panoptic PNG in COCO's format, int32 (H, W). Raises as `read_image`."""
    with explained_read_errors(file_name):
        with PathManager.open(str(file_name), "rb") as file:
            data = np.frombuffer(file.read(), dtype=np.uint8)
        # Faster than PIL, and it notices damage that PIL passes over.
        image = cv2.imdecode(data, cv2.IMREAD_COLOR)
        if image is None:
            raise OSError("no PNG, or a broken one")
        return decode_ids(cv2.cvtColor(image, cv2.COLOR_BGR2RGB))


def check_image_format(image_format: str) -> None:
    """Raise ValueError unless INPUT.FORMAT is one that models take."""
    if image_format not in ("RGB", "BGR"):
        raise UserError(f"INPUT.FORMAT is {image_format!r}, but images are read as RGB or BGR.")


def read_image_size(file_name: str) -> tuple[int, int]:
    """Height and width of an image, of which only the header is read. Raises as `read_image`."""
    with explained_read_errors(file_name), Image.open(file_name) as image:
        return image.height, image.width


def read_label_map(
    record: Record, size: tuple[int, int], num_classes: int, ignore_value: int
) -> np.ndarray:
    """Read `record`'s semantic annotation: the class of each pixel, (H, W).

    It is uint8 where that holds the file's labels and the ignore value, and otherwise int32.

    Args:
        record: has `file_name` and `sem_seg_file_name`, a single-channel image.
        size: height and width of the record's image.
        num_classes: labels must lie in [0, num_classes) ...
        ignore_value: ... or be this.

    Raises:
        FileNotFoundError, ValueError: the file is missing, broken, of another size, or holds
            other labels.
    """
    file_name = required_field(record, "sem_seg_file_name")
    labels = read_image(file_name, None)
    if labels.ndim != 2 or labels.dtype.kind not in "uib":
        raise UserError(
            f"{file_name}: a label map has one channel of integers, but this image is "
            f"{labels.dtype} {labels.shape}."
        )
    bytes_suffice = labels.itemsize == 1 and 0 <= ignore_value < 256
    labels = labels.astype(np.uint8 if bytes_suffice else np.int32)
    _check_size(file_name, labels.shape, record["file_name"], size)
    wrong = (labels != ignore_value) & ((labels < 0) | (labels >= num_classes))
    if wrong.any():
        raise UserError(
            f"{file_name} holds the labels {listed(np.unique(labels[wrong]))}, but labels must "
            f"lie in 0..{num_classes - 1} (MODEL.SEM_SEG_HEAD.NUM_CLASSES is {num_classes}) or be "
            f"{ignore_value} (MODEL.SEM_SEG_HEAD.IGNORE_VALUE)."
        )
    return labels


def read_id_map(record: Record, size: tuple[int, int], num_classes: int) -> np.ndarray:
    """Read `record`'s panoptic annotation: the segment id of each pixel, int32 (H, W), 0 = none.

    Arguments and errors are those of `read_segment_map`.
    """
    numbers = read_segment_map(record, size, num_classes)
    ids = [0] + [segment["id"] for segment in record["segments_info"]]
    return np.array(ids, dtype=np.int32)[numbers]


def read_segment_map(record: Record, size: tuple[int, int], num_classes: int) -> np.ndarray:
    """Read `record`'s panoptic annotation: the number of each pixel's segment, (H, W).

    They are counted from 1 in the order of `segments_info`; 0 = none. The map is uint8 if there
    are few enough of them, and otherwise int32.

    Args:
        record: has `file_name`, `segments_info` and `pan_seg_file_name`, a PNG in COCO's format
            (id = R + 256 G + 65536 B).
        size: height and width of the record's image.
        num_classes: category ids must lie in [0, num_classes).

    Raises:
        FileNotFoundError, ValueError: the file is missing, broken, of another size, or holds ids
            that are not in `segments_info`; or an id is listed twice, or a category id is out of
            range.
    """
    file_name = required_field(record, "pan_seg_file_name")
    segments = required_field(record, "segments_info")
    check_categories(file_name, (segment["category_id"] for segment in segments), num_classes)
    id_map = read_ids(file_name)
    _check_size(file_name, id_map.shape, record["file_name"], size)
    of_image = f"segments_info of image {record.get('image_id')}"
    ids = np.array([0] + [segment["id"] for segment in segments])
    order = np.argsort(ids)
    if (np.diff(ids[order]) == 0).any():
        raise UserError(
            f"{file_name}: the {of_image} lists the segment ids {listed(ids[1:])}, but every "
            "segment has one of its own, and none is 0."
        )
    (found,), lengths = run_lengths(id_map)
    numbers = order[np.searchsorted(ids, found, sorter=order).clip(max=len(segments))]
    unknown = ids[numbers] != found
    if unknown.any():
        raise UserError(
            f"{file_name} holds the segment ids {listed(np.unique(found[unknown]))}, not in the "
            f"{of_image}. Do PNG and JSON belong together?"
        )
    numbers = numbers.astype(np.uint8 if len(ids) <= 256 else np.int32)
    return numbers.repeat(lengths).reshape(id_map.shape)


def read_annotations(record: Record, size: tuple[int, int], num_classes: int) -> list[dict]:
    """The instance annotations of `record`, checked.

    Args:
        record: has `file_name` and `annotations` in Detectron2's format.
        size: height and width of the record's image.
        num_classes: category ids must lie in [0, num_classes).

    Raises:
        ValueError: an annotation has no mask, a mask of another size, or a category id out of
            range.
    """
    annotations = required_field(record, "annotations")
    file_name = record["file_name"]
    check_categories(file_name, (a["category_id"] for a in annotations), num_classes)
    for annotation in annotations:
        segmentation = annotation.get("segmentation")
        if isinstance(segmentation, dict):
            _check_size("an instance mask", segmentation["size"], file_name, size)
        elif not segmentation or min(len(polygon) for polygon in segmentation) < 6:
            raise UserError(
                f"{file_name}: annotation {annotation.get('id', '')} has no mask. Each needs a "
                "segmentation: polygons of three or more points, or a run-length encoding."
            )
    return annotations


def check_categories(file_name: str, category_ids: Iterable[int], num_classes: int) -> None:
    """Raise ValueError unless all `category_ids` lie in [0, num_classes)."""
    wrong = sorted({id_ for id_ in category_ids if not 0 <= id_ < num_classes})
    if wrong:
        raise UserError(
            f"{file_name} is annotated with the category ids {listed(wrong)}, but contiguous ids "
            f"must lie in 0..{num_classes - 1} (MODEL.SEM_SEG_HEAD.NUM_CLASSES is {num_classes})."
        )


def required_field(record: Record, key: str) -> Any:
    """`record[key]`, or a ValueError that says which kind of data set lacks it."""
    if key not in record:
        raise UserError(
            f"{record['file_name']}: its record has no {key!r}. Choose INPUT.DATASET_MAPPER_NAME "
            "for the kind of annotation that the data set has, or another data set."
        )
    return record[key]


@contextmanager
def explained_read_errors(file_name: str | Path) -> Iterator[None]:
    """Turn whatever goes wrong in reading an image into an error that names the file.

    Raises:
        FileNotFoundError, ValueError: as `read_image`.
    """
    try:
        yield
    except FileNotFoundError as error:
        raise MissingFileError(
            f"{file_name} is missing. Is the data set complete? Its folder is looked for under "
            "the environment variable DETECTRON2_DATASETS (default: datasets)."
        ) from error
    except Exception as error:  # decoders raise anything: OSError, SyntaxError, struct.error...
        raise UserError(
            f"{file_name} cannot be read as an image ({type(error).__name__}: {error}). "
            "Is it damaged, or only partly downloaded?"
        ) from error


def _check_size(
    file_name: str, size: tuple[int, int], image_file: str, image_size: tuple[int, int]
) -> None:
    if tuple(size) != tuple(image_size):
        raise UserError(
            f"Sizes differ: {file_name} is {size[1]} x {size[0]} (width x height), but its image "
            f"{image_file} is {image_size[1]} x {image_size[0]}."
        )


def listed(items: Sequence[Any] | np.ndarray, most: int = 10) -> str:
    """The first few of the items, and how many more there are, for an error message."""
    shown = ", ".join(str(item) for item in items[:most])
    return shown + (f" and {len(items) - most} more" if len(items) > most else "")

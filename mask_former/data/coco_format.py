"""COCO's formats: segment ids as colours, masks, and the two JSON files of a data set."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
from pycocotools import mask as coco_mask

from mask_former.data.json_files import Json
from mask_former.data.writing import write_json


class AnnotatedImage(NamedTuple):
    """An image of a data set with its segments.

    Attributes:
        image: `id`, `file_name`, `height` and `width`.
        label_file: the panoptic PNG, relative to its folder.
        segments: `id`, `category_id`, `iscrowd`, `area` and `bbox` of each; instances also have
            their `segmentation`.
    """

    image: Json
    label_file: str
    segments: list[Json]


def image_entry(image_id: int | str, file_name: str, size: tuple[int, int]) -> Json:
    """An image, of a size (height, width), as COCO's formats list it."""
    return {"id": image_id, "file_name": file_name, "height": size[0], "width": size[1]}


def write_annotations(
    panoptic_json: Path,
    instances_json: Path,
    annotated_images: Sequence[AnnotatedImage],
    categories: Sequence[Json],
    **common: Any,
) -> None:
    """Write the panoptic and the instance JSON of a data set.

    Args:
        panoptic_json, instances_json: to be written.
        annotated_images: in the order of the files.
        categories: `id`, `name` and `isthing` of each class; the instance JSON has the things.
        common: further entries of both files.
    """
    panoptic, instances = [], []
    for image, label_file, segments in annotated_images:
        instances += [
            {**segment, "id": number, "image_id": image["id"]}
            for number, segment in enumerate(
                (segment for segment in segments if "segmentation" in segment), len(instances) + 1
            )
        ]
        infos = [{k: v for k, v in s.items() if k != "segmentation"} for s in segments]
        panoptic.append({"image_id": image["id"], "file_name": label_file, "segments_info": infos})
    things = [category for category in categories if category["isthing"]]
    common = {**common, "images": [annotated.image for annotated in annotated_images]}
    write_json(instances_json, {**common, "annotations": instances, "categories": things})
    write_json(panoptic_json, {**common, "annotations": panoptic, "categories": categories})


def encode_ids(ids: np.ndarray) -> np.ndarray:
    """Segment ids (H, W), in [0, 2**24), as the RGB of COCO's panoptic PNG, uint8 (H, W, 3)."""
    # The bytes of a little-endian id are red, green, blue, and a zero that is dropped.
    rgb0 = np.ascontiguousarray(ids, dtype="<i4")[..., None].view(np.uint8)
    return cv2.cvtColor(rgb0, cv2.COLOR_RGBA2RGB)


def decode_ids(image: np.ndarray) -> np.ndarray:
    """The inverse of `encode_ids`: int32 (H, W) of uint8 (H, W, 3)."""
    ids = cv2.cvtColor(image, cv2.COLOR_RGB2RGBA).view("<i4")[..., 0]
    ids &= 0xFFFFFF  # alpha
    return ids


def shape_info(mask: np.ndarray) -> Json:
    """Area (pixels) and bounding box (x, y, width, height) of a mask, bool (H, W), not empty."""
    mask = mask.view(np.uint8)
    return {"area": cv2.countNonZero(mask), "bbox": list(cv2.boundingRect(mask))}


def segmentation(mask: np.ndarray, iscrowd: bool) -> Json | list[list[int]]:
    """A mask, bool (H, W), as polygons; as compressed RLE when it is a crowd or has holes.

    Either decodes to exactly `mask` with pycocotools: the polygons run along the edges of the
    pixels, not through their centers.
    """
    # In the doubled mask every corner of a pixel has a point of its own, which is moved onto it.
    doubled = np.repeat(np.repeat(mask.astype(np.uint8), 2, axis=0), 2, axis=1)
    contours, hierarchy = cv2.findContours(doubled, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    has_holes = (hierarchy[0, :, 3] >= 0).any()
    if iscrowd or has_holes:
        return encode_mask(mask)
    return [_along_pixel_edges(contour[:, 0]).ravel().tolist() for contour in contours]


def encode_mask(mask: np.ndarray) -> Json:
    """A mask, bool (H, W), as compressed RLE of JSON types."""
    rle = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
    return {"size": rle["size"], "counts": rle["counts"].decode("ascii")}


def _along_pixel_edges(contour: np.ndarray) -> np.ndarray:
    """Corner points (n, 2) of the outline of the pixels that a doubled contour runs around."""
    points = (contour + 1) // 2
    points = points[(points != np.roll(points, 1, axis=0)).any(axis=1)]
    before = points - np.roll(points, 1, axis=0)
    after = np.roll(points, -1, axis=0) - points
    return points[before[:, 0] * after[:, 1] != before[:, 1] * after[:, 0]]

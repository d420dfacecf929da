"""A data set of two images in COCO's formats, to be spoiled."""

import json
from pathlib import Path

import numpy as np
from PIL import Image

HEIGHT, WIDTH = 40, 50
THINGS = [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}]
CATEGORIES = [{"id": 1, "name": "cat", "isthing": 1}, {"id": 2, "name": "ground", "isthing": 0}]


def rectangle(number: int, image: int, x: int, y: int, side: int, category: int) -> dict:
    """An annotation whose mask, box and area agree."""
    corners = [x, y, x + side, y, x + side, y + side, x, y + side]
    return {
        "id": number,
        "image_id": image,
        "category_id": category,
        "iscrowd": 0,
        "bbox": [x, y, side, side],
        "area": side * side,
        "segmentation": [[float(corner) for corner in corners]],
    }


def write_files(folder: Path) -> None:
    """Two images, and their panoptic PNG: segment 7 everywhere but on a square of 5."""
    for name in ("images", "labels"):
        (folder / name).mkdir()
    colors = np.zeros((HEIGHT, WIDTH, 3), dtype=np.uint8)
    colors[..., 0] = 7
    colors[10:30, 10:30, 0] = 5
    for stem in "ab":
        Image.fromarray(255 - colors).save(folder / "images" / f"{stem}.png")
        Image.fromarray(colors).save(folder / "labels" / f"{stem}.png")


def _images() -> list[dict]:
    return [
        {"id": number, "file_name": f"{stem}.png", "height": HEIGHT, "width": WIDTH}
        for number, stem in enumerate("ab", start=1)
    ]


def instances() -> dict:
    annotations = [rectangle(1, 1, 10, 10, 20, 1), rectangle(2, 2, 5, 5, 10, 2)]
    counts = [HEIGHT * 20, HEIGHT * 4, HEIGHT * (WIDTH - 24)]
    rle = {"size": [HEIGHT, WIDTH], "counts": counts}
    annotations.append(
        {**rectangle(3, 2, 20, 0, 4, 1), "bbox": [20, 0, 4, 40], "area": 160, "segmentation": rle}
    )
    return {"images": _images(), "annotations": annotations, "categories": list(THINGS)}


def panoptic() -> dict:
    annotations = [
        {
            "image_id": number,
            "file_name": f"{stem}.png",
            "segments_info": [
                {"id": 5, "category_id": 1, "iscrowd": 0},
                {"id": 7, "category_id": 2, "iscrowd": 0},
            ],
        }
        for number, stem in enumerate("ab", start=1)
    ]
    return {"images": _images(), "annotations": annotations, "categories": list(CATEGORIES)}


def write_json(path: Path, content: object) -> str:
    path.write_text(json.dumps(content))
    return str(path)

"""A user's own data set: made-up, with ids and names of its own, and no colours."""

import json
from pathlib import Path

import numpy as np

from mask_former.data.coco_format import encode_ids
from mask_former.data.writing import write_image, write_json

CATEGORIES = [
    {"id": 40, "name": "leaf", "isthing": 1, "supercategory": "plant"},
    {"id": 7, "name": "soil", "isthing": 0},
    {"id": 12, "name": "beetle", "isthing": 1, "supercategory": "animal"},
]
SIZE = 64


def write_own_data(folder: Path, count: int = 3) -> None:
    """`images/field_N.png`, annotated for panoptic, instance and semantic; image ids are texts."""
    random = np.random.default_rng(0)
    images, panoptic, instances = [], [], []
    for number in range(count):
        name, image_id = f"field_{number}", f"plot-{number}"
        labels = np.ones((SIZE, SIZE), np.uint8)  # soil
        labels[8:30, 4 + 4 * number : 40] = 0
        labels[40:60, 20:50] = 2
        labels[:2] = 255
        noise = random.integers(0, 40, (SIZE, SIZE, 3))
        write_image(folder / f"images/{name}.png", (70 * labels[..., None] + noise).astype("u1"))
        write_image(folder / f"labels/{name}.png", labels)
        ids = np.where(labels == 255, 0, 100 * labels.astype(np.int32) + 5)
        write_image(folder / f"panoptic/{name}.png", encode_ids(ids))
        images.append({"id": image_id, "file_name": f"{name}.png", "height": SIZE, "width": SIZE})
        segments = [
            {
                "id": 100 * index + 5,
                "category_id": category["id"],
                "area": int((labels == index).sum()),
                "iscrowd": 0,
            }
            for index, category in enumerate(CATEGORIES)
        ]
        panoptic.append(
            {"image_id": image_id, "file_name": f"{name}.png", "segments_info": segments}
        )
        for index in (0, 2):
            rows, columns = np.nonzero(labels == index)
            x, y = int(columns.min()), int(rows.min())
            right, bottom = int(columns.max()) + 1, int(rows.max()) + 1
            instances.append(
                {
                    "id": len(instances),
                    "image_id": image_id,
                    "category_id": CATEGORIES[index]["id"],
                    "iscrowd": 0,
                    "segmentation": [[x, y, right, y, right, bottom, x, bottom]],
                }
            )
    things = [category for category in CATEGORIES if category["isthing"]]
    write_json(
        folder / "panoptic.json",
        {"images": images, "annotations": panoptic, "categories": CATEGORIES},
    )
    write_json(
        folder / "instances.json",
        {"images": images, "annotations": instances, "categories": things},
    )


def load(path: Path):
    return json.loads(path.read_text())

"""Annotated photographs, made up: files whose decoding takes what that of real ones takes."""

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from mask_former.data.coco_format import encode_ids

# Arguments of `make_photos` for images like those of two data sets; the quality makes their JPEG
# files about as large, 50 and 160 KB.
ADE20K = {
    "size": (512, 683),
    "segments": 10,
    "classes": 150,
    "panoptic": False,
    "quality": 30,
}
COCO = {
    "size": (480, 640),
    "segments": 12,
    "classes": 133,
    "panoptic": True,
    "quality": 92,
}


def make_photos(
    folder: Path,
    *,
    images: int,
    size: tuple[int, int],
    segments: int,
    classes: int,
    panoptic: bool,
    quality: int,
) -> list[dict[str, Any]]:
    """Write images and label maps, and return their records.

    Args:
        folder: is made.
        images: how many.
        size: height and width.
        segments: of an image; each is of another class, if there are enough.
        classes: how many there are.
        panoptic: whether the annotation is COCO's panoptic PNG, or a PNG of classes, 255 = none.
        quality: of the JPEG files.
    """
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    records = []
    for image_id in range(images):
        # The amplitude of natural images falls with frequency, and their channels are alike.
        grey, *colors = _fields(rng, 4, size, falloff=1.2)
        image = 128 + 50 * (grey + 0.4 * np.stack(colors))
        file_name = folder / f"{image_id}.jpg"
        Image.fromarray(image.clip(0, 255).astype(np.uint8).transpose(1, 2, 0)).save(
            file_name, quality=quality
        )
        index = _fields(rng, segments, size, falloff=2.2).argmax(axis=0)
        labels = rng.choice(classes, segments, replace=segments > classes)
        record = {
            "file_name": str(file_name),
            "image_id": image_id,
            "height": size[0],
            "width": size[1],
        }
        records.append(record)
        annotation = file_name.with_suffix(".png")
        void = np.s_[: size[0] // 64]
        if panoptic:
            ids = rng.choice(256**3 - 1, segments, replace=False) + 1
            id_map = ids[index]
            id_map[void] = 0
            Image.fromarray(encode_ids(id_map)).save(annotation)
            record["pan_seg_file_name"] = str(annotation)
            record["segments_info"] = [
                {"id": int(id_), "category_id": int(label), "iscrowd": 0}
                for id_, label in zip(ids, labels, strict=True)
            ]
        else:
            label_map = labels[index].astype(np.uint8)
            label_map[void] = 255
            Image.fromarray(label_map).save(annotation)
            record["sem_seg_file_name"] = str(annotation)
    return records


def _fields(
    rng: np.random.Generator, count: int, size: tuple[int, int], falloff: float
) -> np.ndarray:
    """Random fields (count, H, W) of variance 1, whose spectrum falls by that power."""
    height, width = size
    frequency = np.hypot(
        np.fft.fftfreq(height)[:, None] * height, np.fft.rfftfreq(width)[None] * width
    )
    frequency[0, 0] = 1
    spectrum = np.fft.rfft2(rng.standard_normal((count, height, width))) / frequency**falloff
    fields = np.fft.irfft2(spectrum, s=size)
    return fields / fields.std(axis=(1, 2), keepdims=True)

"""Resizing: together with a crop, of which only what it keeps is computed, or by PyTorch.

`ResizeAndCrop` gives what Detectron2's `ResizeShortestEdge` and `RandomCrop` give one after the
other, bit for bit, under the same random numbers.
"""

import numpy as np
import torch
from detectron2.data import transforms as T
from PIL import Image
from torch.nn import functional as F

from mask_former.data.label_map import areas


class FastResize(T.ResizeShortestEdge):
    """Detectron2's resize with PyTorch's kernel, which takes a quarter of the time of PIL's.

    PyTorch rounds the filter's weights to 16 bits, PIL to 32: fewer than one in a hundred values
    of photographs differ, by one level of 255.
    """

    def get_transform(self, image: np.ndarray) -> T.Transform:
        resize = super().get_transform(image)
        if isinstance(resize, T.NoOpTransform):
            return resize
        return FastResizeTransform(resize.h, resize.w, resize.new_h, resize.new_w)


class FastResizeTransform(T.ResizeTransform):
    """Detectron2's, but for images."""

    def apply_image(self, img: np.ndarray, interp: int | None = None) -> np.ndarray:
        if interp is not None:  # label maps
            return super().apply_image(img, interp)
        # Channels stay last in memory if the strides of the batch say so, too: twice as fast.
        image = torch.tensor(np.ascontiguousarray(img))[None].permute(0, 3, 1, 2)
        size = (self.new_h, self.new_w)
        image = F.interpolate(image, size, mode="bilinear", align_corners=False, antialias=True)
        return image[0].permute(1, 2, 0).numpy()


class ResizeAndCrop(T.Augmentation):
    """Detectron2's resize, then its crop.

    Args:
        resize: how large the image becomes.
        crop: which part of the resized image is kept.
    """

    def __init__(
        self,
        resize: T.ResizeShortestEdge,
        crop: T.RandomCrop | T.RandomCrop_CategoryAreaConstraint,
    ) -> None:
        self.resize = resize
        self.crop = crop
        looks_at_labels = isinstance(crop, T.RandomCrop_CategoryAreaConstraint)
        self.input_args = ("image", "sem_seg") if looks_at_labels else ("image",)

    def get_transform(self, image: np.ndarray, sem_seg: np.ndarray | None = None) -> T.Transform:
        resize = self.resize.get_transform(image)
        if isinstance(resize, T.NoOpTransform):
            resize = T.ResizeTransform(*image.shape[:2], *image.shape[:2])
        size = (resize.new_h, resize.new_w)
        resized = [np.broadcast_to(image[:1, :1], (*size, image.shape[2]))]  # its size counts
        if sem_seg is not None:
            resized.append(resize_nearest(sem_seg, size))
        return ResizeAndCropTransform(resize, self.crop.get_transform(*resized))


class CategoryAreaCrop(T.RandomCrop_CategoryAreaConstraint):
    """Detectron2's crop that no class fills: the same under the same random numbers, faster."""

    def get_transform(self, image: np.ndarray, sem_seg: np.ndarray) -> T.Transform:
        for _ in range(10):
            crop = self.crop_aug.get_transform(sem_seg)
            labels, counts = areas(crop.apply_segmentation(sem_seg))
            counts = counts[labels != self.ignored_category]
            if len(counts) > 1 and counts.max() < counts.sum() * self.single_category_max_area:
                break
        return crop


class ResizeAndCropTransform(T.Transform):
    """Detectron2's `resize`, then its `crop`."""

    def __init__(self, resize: T.ResizeTransform, crop: T.CropTransform) -> None:
        super().__init__()
        self.resize = resize
        self.crop = crop

    def apply_image(self, img: np.ndarray) -> np.ndarray:
        if isinstance(self.resize, FastResizeTransform):
            return self.crop.apply_image(self.resize.apply_image(img))
        size = (self.resize.new_h, self.resize.new_w)
        return resize_window(img, size, (self.crop.y0, self.crop.x0, self.crop.h, self.crop.w))

    def apply_segmentation(self, segmentation: np.ndarray) -> np.ndarray:
        size = (self.resize.new_h, self.resize.new_w)
        window = (self.crop.y0, self.crop.x0, self.crop.h, self.crop.w)
        return resize_nearest(segmentation, size, window)

    def apply_coords(self, coords: np.ndarray) -> np.ndarray:
        return self.crop.apply_coords(self.resize.apply_coords(coords))


def resize_window(
    image: np.ndarray, size: tuple[int, int], window: tuple[int, int, int, int]
) -> np.ndarray:
    """A window of the image resized by PIL's bilinear filter.

    PIL's own `box` would be faster yet, but is rounded to float32, which changes some pixels.

    Args:
        image: uint8 (H, W, 3).
        size: height and width that the whole image would be resized to.
        window: top, left, height and width of the part of it that is returned.
    """
    top, left, height, width = window
    old_height, (new_height, new_width) = image.shape[0], size
    if new_height < old_height:  # little to save; and PIL may begin with either side
        whole = Image.fromarray(image).resize((new_width, new_height), Image.BILINEAR)
        return np.asarray(whole.crop((left, top, left + width, top + height)))
    # PIL enlarges rows first and rounds. Only some of them are looked at ...
    first, last = _source_rows(old_height, new_height, top, height)
    rows = Image.fromarray(image[first:last]).resize((new_width, last - first), Image.BILINEAR)
    # ... and some columns, which keep their place in the whole image.
    columns = Image.new(rows.mode, (width, old_height))
    columns.paste(rows.crop((left, 0, left + width, last - first)), (0, first))
    columns = columns.resize((width, new_height), Image.BILINEAR)
    return np.asarray(columns.crop((0, top, width, top + height)))


def _source_rows(old: int, new: int, top: int, height: int) -> tuple[int, int]:
    """First and last row, of `old`, that the filter reads for `height` of `new` rows from `top`."""
    scale = old / new  # at most 1: the filter reaches to one row above and below; one more is safe
    first, last = int((top + 0.5) * scale) - 2, int((top + height - 0.5) * scale) + 3
    return max(first, 0), min(last, old)


def resize_nearest(
    labels: np.ndarray, size: tuple[int, int], window: tuple[int, int, int, int] | None = None
) -> np.ndarray:
    """A window of a label map resized to the nearest pixel, as PIL does.

    Args:
        labels: (H, W, ...) of any type.
        size, window: as in `resize_window`; None: all of it.
    """
    top, left, height, width = window or (0, 0, *size)
    rows = _nearest(labels.shape[0], size[0])[top : top + height]
    columns = _nearest(labels.shape[1], size[1])[left : left + width]
    return labels.take(rows, axis=0).take(columns, axis=1)


def _nearest(old: int, new: int) -> np.ndarray:
    """Which of `old` pixels in a row PIL takes for each of `new` ones."""
    row = Image.fromarray(np.arange(old, dtype=np.int32)[None])
    return np.asarray(row.resize((new, 1), Image.NEAREST))[0]

"""Data sets in COCO's instance format, whose classes are known before the records are loaded."""

from functools import partial
from pathlib import Path
from typing import Any

from detectron2.data.datasets import load_coco_json

from mask_former.data.datasets.catalog import read_json, register_lazily
from mask_former.errors import UserError


def register_instances(
    name: str, *, image_root: str | Path, json_file: str | Path, made_by: str | None = None
) -> None:
    """Register a data set in COCO's instance format with Detectron2, without touching the disk.

    The contiguous id of a class is its position in the categories, sorted by their ids.

    Args:
        name: under which it can be named in `DATASETS.TRAIN` and `DATASETS.TEST`.
        image_root: folder of the images.
        json_file: the annotation.
        made_by: the command that makes the files, to be told to whoever lacks them.
    """
    register_lazily(
        name,
        partial(load_coco_json, str(json_file), str(image_root), name),
        partial(_read_metadata, json_file),
        evaluator_type="coco",
        image_root=image_root,
        json_file=json_file,
        **({} if made_by is None else {"made_by": made_by}),
    )


def _read_metadata(json_file: str | Path) -> dict[str, Any]:
    try:
        names = {c["id"]: c["name"] for c in read_json(json_file)["categories"]}
    except KeyError as error:
        raise UserError(
            f"{json_file} is not in COCO's instance format: something lacks the key {error}"
        ) from error
    ids = sorted(names)
    return {
        "thing_classes": [names[id_] for id_ in ids],
        "thing_dataset_id_to_contiguous_id": {id_: index for index, id_ in enumerate(ids)},
    }

"""The metadata of a data set, also where Detectron2 completes them late."""

from detectron2.data import DatasetCatalog, Metadata, MetadataCatalog

from mask_former.data.datasets import check_dataset


def read_metadata(name: str) -> Metadata:
    """The metadata of a data set, its classes included.

    Detectron2's `register_coco_instances` learns the classes when it reads the records. So the
    records of a registered data set without classes are read here.

    Raises:
        FileNotFoundError: files of the data set are missing.
    """
    metadata = MetadataCatalog.get(name)
    has_classes = metadata.get("stuff_classes") or metadata.get("thing_classes")
    if not has_classes and name in DatasetCatalog:
        check_dataset(name)
        DatasetCatalog.get(name)
    return metadata

import logging
from collections.abc import Callable, Iterator

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog


@pytest.fixture
def register() -> Iterator[Callable[..., str]]:
    """Registers data sets, `register(records, **metadata) -> name`, and removes them again."""
    names: list[str] = []

    def _register(records: list[dict], **metadata: object) -> str:
        name = f"evaluation_test_{len(names)}"
        names.append(name)
        DatasetCatalog.register(name, lambda: records)
        MetadataCatalog.get(name).set(**metadata)
        return name

    yield _register
    for name in names:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


@pytest.fixture
def log() -> Iterator[list[str]]:
    """The messages of mask_former.evaluation, whoever has set up logging before."""
    messages: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: messages.append(record.getMessage())
    logger = logging.getLogger("mask_former.evaluation")
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    yield messages
    logger.removeHandler(handler)
    logger.setLevel(level)

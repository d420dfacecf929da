import logging
import pickle
from collections.abc import Callable, Iterator

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.evaluation import DatasetEvaluator
from detectron2.utils import comm


@pytest.fixture
def register() -> Iterator[Callable[..., str]]:
    """Registers data sets, `register(records, **metadata) -> name`, and removes them again.

    In place of records, a function of the name may load them.
    """
    names: list[str] = []

    def _register(records: list[dict] | Callable[[str], list[dict]], **metadata: object) -> str:
        name = f"evaluation_test_{len(names)}"
        names.append(name)
        DatasetCatalog.register(name, lambda: records(name) if callable(records) else records)
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


@pytest.fixture
def evaluate_as_one(monkeypatch) -> Callable[[DatasetEvaluator, DatasetEvaluator], dict]:
    """Evaluates as if the second evaluator were that of another process."""

    def evaluate(main: DatasetEvaluator, other: DatasetEvaluator) -> dict:
        sent: list[bytes] = []
        monkeypatch.setattr(comm, "gather", lambda data: sent.append(pickle.dumps(data)) or [data])
        other.evaluate()
        received = iter(sent)
        monkeypatch.setattr(comm, "gather", lambda data: [data, pickle.loads(next(received))])
        return main.evaluate()

    return evaluate


@pytest.fixture
def evaluate_in_two(evaluate_as_one) -> Callable[..., tuple[dict, dict]]:
    """The metrics of two processes, the second padded with the first image; and those of one."""

    def evaluate(
        make: Callable[[], DatasetEvaluator], records: list[dict], outputs: list[dict]
    ) -> tuple[dict, dict]:
        whole, one, two = make(), make(), make()
        whole.process(records, outputs)
        expected = whole.evaluate()
        one.process(records[:3], outputs[:3])
        two.process(records[3:] + records[:1], outputs[3:] + outputs[:1])
        return evaluate_as_one(one, two), expected

    return evaluate

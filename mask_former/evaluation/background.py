"""Evaluation beside the model."""

from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from detectron2.evaluation import DatasetEvaluator, DatasetEvaluators


class BackgroundEvaluators(DatasetEvaluators):
    """Several evaluators as one, which works in a thread while the model predicts the next images.

    Reading and decoding the ground truth and comparing it take milliseconds an image, during which
    a GPU would wait. At most one batch is behind, so that predictions do not pile up. What goes
    wrong with a batch is raised by the call that follows.

    Args:
        evaluators: of outputs that are not changed once they are handed over.
    """

    def __init__(self, evaluators: list[DatasetEvaluator]) -> None:
        super().__init__(evaluators)
        self._thread: ThreadPoolExecutor | None = None
        self._batch: Future | None = None

    def reset(self) -> None:
        """Forget all images, and what went wrong with them."""
        self._stop()
        super().reset()

    def process(self, inputs: list[dict[str, Any]], outputs: list[dict[str, Any]]) -> None:
        """Begin with a batch, once the one before is done.

        Raises:
            Exception: whatever is wrong with the batch before.
        """
        self._wait()
        self._thread = self._thread or ThreadPoolExecutor(1, "evaluation")
        self._batch = self._thread.submit(super().process, inputs, outputs)

    def evaluate(self) -> dict[str, dict[str, float]]:
        """The figures of all evaluators, by task.

        Raises:
            Exception: whatever is wrong with the last batch, or with the whole.
        """
        try:
            self._wait()
        finally:
            self._stop()
        return super().evaluate()

    def _wait(self) -> None:
        batch, self._batch = self._batch, None
        if batch is not None:
            batch.result()

    def _stop(self) -> None:
        """End the thread: processes may be forked between evaluations."""
        if self._thread is not None:
            self._thread.shutdown()
        self._thread = self._batch = None

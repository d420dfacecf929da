"""Several evaluators as one, in the thread of the model or in another."""

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from detectron2.evaluation import DatasetEvaluator, DatasetEvaluators


class Evaluators(DatasetEvaluators):
    """Several evaluators as one.

    Attributes:
        evaluators: in their order.
        accepts_label_maps: whether `output["sem_seg"]` may be a label map, integers (H, W), for all
            of the evaluators, which say so by an attribute of that name. Otherwise it has to be
            the scores of all classes, (K, H, W), as Detectron2's evaluators expect.
    """

    def __init__(self, evaluators: Sequence[DatasetEvaluator]) -> None:
        super().__init__(evaluators)
        self.evaluators = tuple(evaluators)
        self.accepts_label_maps = all(getattr(e, "accepts_label_maps", False) for e in evaluators)

    def check_ground_truth(self) -> None:
        """Have all evaluators that can do so read their ground truth, so that what is wrong with
        it shows before the training.

        Raises:
            FileNotFoundError, UserError: something is wrong.
        """
        for evaluator in self.evaluators:
            if hasattr(evaluator, "check_ground_truth"):
                evaluator.check_ground_truth()


class BackgroundEvaluators(Evaluators):
    """Several evaluators as one that runs in a thread while the model predicts the next images.

    Reading and decoding the ground truth and comparing it take milliseconds an image, during which
    a GPU would wait. It is at most one batch behind, so that predictions do not pile up. An error
    in a batch is raised by the next call.

    Args:
        evaluators: of outputs that the model does not change afterwards.
    """

    def __init__(self, evaluators: Sequence[DatasetEvaluator]) -> None:
        super().__init__(evaluators)
        self._thread: ThreadPoolExecutor | None = None
        self._batch: Future | None = None

    def reset(self) -> None:
        """Forget all images and errors."""
        self._stop()
        super().reset()

    def process(self, inputs: list[dict[str, Any]], outputs: list[dict[str, Any]]) -> None:
        """Start processing a batch when the previous one is done.

        Raises:
            Exception: of the previous batch.
        """
        self._wait()
        self._thread = self._thread or ThreadPoolExecutor(1, "evaluation")
        self._batch = self._thread.submit(super().process, inputs, outputs)

    def evaluate(self) -> dict[str, dict[str, float]]:
        """The metrics of all evaluators, by task.

        Raises:
            Exception: of the last batch, or of the evaluation itself.
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

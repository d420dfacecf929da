"""The iterations of a training, and the log of what ended them."""

import logging
from collections.abc import Mapping

import numpy as np
from detectron2.engine import TrainerBase
from detectron2.utils import comm
from detectron2.utils.events import EventStorage
from torch import Tensor

from mask_former.engine.errors import is_bug, message
from mask_former.engine.interruption import EXIT_CODE, Interrupted, asked, noted_signals

logger = logging.getLogger(__name__)


class TrainLoop(TrainerBase):
    """Detectron2's `TrainerBase`, which however logs a traceback of every error, and dies of a
    signal.

    Here an error that is meant for users is logged by its message, and only others, which are bugs,
    by their traceback. A signal that asks for it ends the loop after an iteration.

    Attributes:
        stopping: the name of a signal to any of the processes, equal in all; empty without.
    """

    stopping = ""

    def train(self, start_iter: int, max_iter: int) -> None:
        """Run the iterations `start_iter`, ..., `max_iter - 1`, with the hooks around them.

        Raises:
            Interrupted: a signal has ended it before.
        """
        self.iter = self.start_iter = start_iter
        self.max_iter = max_iter
        self.stopping = ""
        # With the last evaluation, and until the last word, which another signal must not cut off.
        with noted_signals(), EventStorage(start_iter) as self.storage:
            try:
                self._iterate()
                if self.stopping:
                    self.keep()
            except Exception as error:
                logger.error(f"The training failed: {message(error)}", exc_info=is_bug(error))
                raise
            finally:
                self.after_train()
            if self.stopping:
                said = f"{self.stopping} ended the training. {self.kept()} (Exit code {EXIT_CODE}.)"
                logger.warning(said)
                raise Interrupted(said if comm.is_main_process() else "")

    def _iterate(self) -> None:
        logger.info(f"Training starts at iteration {self.start_iter}.")
        self.before_train()
        if self.stopping:  # in an evaluation that was made up for
            self.iter -= 1
            return
        # Afterwards `iter` is `max_iter`, by which hooks know that the training succeeded.
        while self.iter < self.max_iter:
            self.before_step()
            self.run_step()
            self.after_step()
            if self.stopping:
                return
            self.iter += 1

    def keep(self) -> None:
        """Save what is needed to go on after this iteration."""

    def kept(self) -> str:
        """What there is to go on from, in words."""
        return "Nothing is kept."

    def record(self, losses: Mapping[str, Tensor], data_time: float) -> None:
        """Store the averages over all processes of an iteration's losses, and its time.

        Its message between the processes also brings what they agree upon: `stopping`.

        Args:
            losses: scalars.
            data_time: how long this process waited for its batch, in seconds.
        """
        own = {name: loss.item() for name, loss in losses.items()}
        signal = asked()
        everyone = comm.all_gather((own, data_time, signal.name if signal else ""))
        self.stopping = max(name for _, _, name in everyone)
        self.storage.put_scalar("rank_data_time", data_time, cur_iter=self.iter)
        if comm.is_main_process():
            # The slowest is the one that the others wait for.
            slowest = max(seconds for _, seconds, _ in everyone)
            means = {name: np.mean([losses[name] for losses, _, _ in everyone]) for name in own}
            self.storage.put_scalar("data_time", slowest, cur_iter=self.iter)
            self.storage.put_scalar("total_loss", sum(means.values()), cur_iter=self.iter)
            if len(means) > 1:
                self.storage.put_scalars(cur_iter=self.iter, **means)

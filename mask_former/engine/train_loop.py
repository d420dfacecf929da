"""The iterations of a training, and the log of what ended them."""

import logging

from detectron2.engine import TrainerBase
from detectron2.utils.events import EventStorage

from mask_former.errors import UserError

logger = logging.getLogger(__name__)


class TrainLoop(TrainerBase):
    """Detectron2's `TrainerBase`, which however logs a traceback of every error.

    Here an error that is meant for users is logged by its message, and only others, which are bugs,
    by their traceback.
    """

    def train(self, start_iter: int, max_iter: int) -> None:
        """Run the iterations `start_iter`, ..., `max_iter - 1`, with the hooks around them."""
        logger.info(f"Training starts at iteration {start_iter}.")
        self.iter = self.start_iter = start_iter
        self.max_iter = max_iter
        with EventStorage(start_iter) as self.storage:
            try:
                self.before_train()
                # Afterwards `iter` is `max_iter`, by which hooks know that the training succeeded.
                while self.iter < max_iter:
                    self.before_step()
                    self.run_step()
                    self.after_step()
                    self.iter += 1
            except Exception as error:
                is_bug = not isinstance(error, UserError)
                logger.error(f"The training failed: {error}", exc_info=is_bug)
                raise
            finally:
                self.after_train()

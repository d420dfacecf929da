"""EoMT's queries (arXiv:2503.19108, sections 3.2 and 3.3), which pass through the encoder's last
blocks: what each becomes, where it may attend, and how that limit disappears in a training.

Shapes as in `mask_former.backbone.vit`: `T = Q + P + h * w` tokens.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mask_former.backbone import Tokens
from mask_former.errors import UserError
from mask_former.predictor.mask_head import MaskHead
from mask_former.structures import Prediction, multiply_out


@dataclass(frozen=True)
class MaskAnnealing:
    """How the masks of the blocks that have queries disappear in the course of a training.

    Attributes:
        starts, ends: of each block, the iterations before which all queries are masked, and from
            which on none is.
        power: of the polynomial between the two.

    Raises:
        UserError: a block ends before it starts.
    """

    starts: Sequence[int]
    ends: Sequence[int]
    power: float = 0.9

    def __post_init__(self) -> None:
        pairs = list(zip(self.starts, self.ends, strict=False))
        if len(self.starts) != len(self.ends) or any(start >= end for start, end in pairs):
            raise UserError(
                f"MODEL.EOMT.ANNEALING_START is {list(self.starts)} and ANNEALING_END "
                f"{list(self.ends)}; every block needs a start, and an end after it."
            )

    def probabilities(self, iteration: int) -> list[float]:
        """With which probability a query is masked in each of the blocks (section 3.3)."""
        spans = zip(self.starts, self.ends, strict=True)
        passed = [(iteration - start) / (end - start) for start, end in spans]
        return [(1 - min(max(share, 0.0), 1.0)) ** self.power for share in passed]


class EoMTPredictor(MaskHead):
    """The queries: what they are at first, what each becomes, and where it may attend.

    Args:
        channels: of the tokens.
        num_classes: K, without "no object".
        num_queries: Q.
        num_blocks: of the encoder that have queries.
    """

    attn_mask_probs: Tensor

    def __init__(
        self, *, channels: int, num_classes: int, num_queries: int, num_blocks: int
    ) -> None:
        super().__init__(
            hidden_dim=channels, mask_dim=channels, num_classes=num_classes, activation=F.gelu
        )
        if num_queries < 1:
            raise UserError(
                f"MODEL.MASK_FORMER.NUM_OBJECT_QUERIES is {num_queries}; it must be at least 1."
            )
        self.query_feat = nn.Embedding(num_queries, channels)
        # With which a query is masked in each block.
        self.register_buffer("attn_mask_probs", torch.ones(num_blocks))

    def queries(self, batch_size: int) -> Tensor:
        """The queries as they join the encoder, (B, Q, C)."""
        # Copies: PyTorch's FlopCounterMode fails on modules that are given views of parameters.
        return self.query_feat.weight.repeat(batch_size, 1, 1)

    @torch.no_grad()
    def attention_mask(self, block: int, prediction: Prediction, tokens: Tokens) -> Tensor:
        """Which tokens (columns) a token (row) may attend to: all, but for the masked queries,
        which see of the patches only those where their mask has a probability above 0.5.

        A query is masked with the block's probability, at random.

        Args:
            block: in [0, num_blocks).
            prediction: before the block.
            tokens: before the block, with the queries in front.

        Returns:
            bool (B, 1, T, T), the same for all heads.
        """
        # Resizing and multiplying out commute; of the pixels there are fewer afterwards.
        pixels = F.interpolate(
            prediction.mask_features, size=tokens.grid, mode="bilinear", align_corners=False
        )
        visible = multiply_out(prediction.mask_embeddings, pixels).flatten(2) > 0
        batch, num_queries, num_patches = visible.shape
        draws = torch.rand(batch, num_queries, 1, device=visible.device)
        visible |= draws >= self.attn_mask_probs[block]
        total = tokens.values.shape[1]
        mask = visible.new_ones(batch, 1, total, total)
        mask[:, 0, :num_queries, -num_patches:] = visible
        return mask

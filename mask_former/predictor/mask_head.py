"""What all predictors share: a query becomes a class and a mask (paper, section 3.2)."""

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor, nn

from mask_former.layers import MLP
from mask_former.structures import PixelFeatures, Prediction, multiply_kernels


class MaskHead(nn.Module):
    """Classifies queries, and multiplies their mask embeddings with the pixels' embeddings.

    Predictors derive from it and call `predict` where they want a prediction: after every layer,
    or before, in inference too.

    Args:
        hidden_dim: channels of the queries.
        mask_dim: channels of the mask embeddings and of the per-pixel embeddings.
        num_classes: K, without "no object"; None: only masks are predicted.
        activation: between the layers that make mask embeddings.
    """

    def __init__(
        self,
        *,
        hidden_dim: int,
        mask_dim: int,
        num_classes: int | None,
        activation: Callable[[Tensor], Tensor] = F.relu,
    ) -> None:
        super().__init__()
        if num_classes is not None:
            self.class_embed = nn.Linear(hidden_dim, num_classes + 1)
        self.mask_embed = MLP(hidden_dim, hidden_dim, mask_dim, num_layers=3, activation=activation)

    def predict(self, queries: Tensor, mask_features: Tensor) -> Prediction:
        """Predict from queries (B, Q, hidden_dim) and per-pixel embeddings (B, C, h, w)."""
        mask_embeddings = self.mask_embed(queries)
        # Autocast may have left the pixels in float32: a norm's output is, on a GPU.
        mask_features = mask_features.to(mask_embeddings.dtype)
        return Prediction(self.class_embed(queries), mask_features, mask_embeddings)

    def predict_by_kernels(self, queries: Tensor, pixels: PixelFeatures) -> Prediction:
        """The same of pixels with a projection, for few masks; see `multiply_kernels`."""
        masks = multiply_kernels(self.mask_embed(queries), pixels.features, pixels.projection)
        return Prediction(self.class_embed(queries), masks)

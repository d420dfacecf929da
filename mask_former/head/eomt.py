"""EoMT, the encoder-only mask transformer (arXiv:2503.19108): a plain ViT that segments by itself.

Learned queries join the tokens of the patches in the last blocks of the encoder, which treat both
alike. Each query becomes a class and, multiplied with the upscaled patches, a mask. In training
that happens before each of these blocks, too: for the loss, and since a query attends in the block
only to the patches that its mask covers. These masks are annealed away in the course of the
training, block by block, so that inference has nothing but a ViT to run.

Shapes as in `mask_former.backbone.vit`: `T = Q + P + h * w` tokens.
"""

import logging
from typing import Any

import torch
import torch.nn.functional as F
from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec
from detectron2.modeling import META_ARCH_REGISTRY, SEM_SEG_HEADS_REGISTRY
from detectron2.structures import ImageList
from torch import Tensor, nn

from mask_former.backbone import Tokens, ViTEncoder
from mask_former.errors import UserError
from mask_former.meta_arch import MaskFormer
from mask_former.predictor.eomt import EoMTPredictor, MaskAnnealing
from mask_former.structures import Prediction, to_device

logger = logging.getLogger(__name__)


class LayerNorm2d(nn.LayerNorm):
    """A layer norm over the channels of a map, (B, C, h, w)."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class Upscaling(nn.Module):
    """Doubles the sides of a map, (B, C, h, w) -> (B, C, 2h, 2w)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.ConvTranspose2d(channels, channels, kernel_size=2, stride=2)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, groups=channels, bias=False)
        self.norm = LayerNorm2d(channels, eps=1e-6)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.conv2(F.gelu(self.conv1(x))))


@SEM_SEG_HEADS_REGISTRY.register()
class EoMTHead(nn.Module):
    """From tokens, those of the queries in front, to masks and their classes; before and after
    all blocks of the encoder that have queries it is the same.

    Args:
        input_shape: the encoder's `tokens`: their channels, and the stride of patches.
        num_classes: K, without "no object".
        num_queries: Q.
        num_blocks: the encoder's last blocks, which have queries.
        annealing: of the masks; None: they stay, and are there in inference, too.

    Raises:
        UserError: there is no query, no such block, or an annealing of another number of blocks.
    """

    @configurable
    def __init__(
        self,
        *,
        input_shape: dict[str, ShapeSpec],
        num_classes: int,
        num_queries: int = 200,
        num_blocks: int = 4,
        annealing: MaskAnnealing | None = None,
    ) -> None:
        super().__init__()
        if num_blocks < 1:
            raise UserError(f"MODEL.EOMT.NUM_BLOCKS is {num_blocks}; it must be at least 1.")
        if annealing is not None and len(annealing.ends) != num_blocks:
            raise UserError(
                f"MODEL.EOMT.ANNEALING_START and ANNEALING_END have {len(annealing.ends)} numbers, "
                f"but MODEL.EOMT.NUM_BLOCKS is {num_blocks}: one for each block, or none."
            )
        shape = input_shape["tokens"]
        self.num_classes = num_classes
        self.num_blocks = num_blocks
        self.annealing = annealing
        # To a quarter of the image, of patches of 16 pixels.
        times = max(1, shape.stride.bit_length() - 3)
        self.pixel_decoder = nn.Sequential(*(Upscaling(shape.channels) for _ in range(times)))
        self.predictor = EoMTPredictor(
            channels=shape.channels,
            num_classes=num_classes,
            num_queries=num_queries,
            num_blocks=num_blocks,
        )
        self.register_load_state_dict_post_hook(_warn_of_chance)

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> dict[str, Any]:
        keys = cfg.MODEL.EOMT
        annealing = None
        if keys.ANNEALING_START or keys.ANNEALING_END:
            annealing = MaskAnnealing(
                keys.ANNEALING_START, keys.ANNEALING_END, keys.ANNEALING_POWER
            )
        return {
            "input_shape": _checked(input_shape),
            "num_classes": cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES,
            "num_queries": cfg.MODEL.MASK_FORMER.NUM_OBJECT_QUERIES,
            "num_blocks": keys.NUM_BLOCKS,
            "annealing": annealing,
        }

    @property
    def is_masked(self) -> bool:
        """Whether queries attend within masks: in training, and without annealing always."""
        return self.training or self.annealing is None

    def at_iteration(self, iteration: int) -> None:
        """Mask as many queries as in an iteration of the training; see `hooks.ModelSchedule`.

        Without annealing all, whatever the weights were trained with that the training starts from.
        """
        buffer = self.predictor.attn_mask_probs
        if self.annealing is None:
            buffer.fill_(1.0)
        else:
            probabilities = torch.tensor(self.annealing.probabilities(iteration))
            buffer.copy_(to_device(probabilities, buffer.device))

    def forward(self, tokens: Tokens) -> Prediction:
        """Predict from normalized tokens, (B, T, C)."""
        num_queries = self.predictor.query_feat.num_embeddings
        pixels = self.pixel_decoder(tokens.patches)
        return self.predictor.predict(tokens.values[:, :num_queries], pixels)


@META_ARCH_REGISTRY.register()
class EoMT(MaskFormer):
    """MaskFormer without anything between its encoder and its masks.

    It differs from `MaskFormer`, which explains the arguments, in that queries pass through the
    backbone, a `ViTEncoder`; and in that images are padded in black before they are normalized.

    Raises:
        UserError: the backbone is another one, or has too few blocks; batches are not padded to
            whole patches.
    """

    @configurable
    def __init__(self, *, deep_supervision: bool = True, **parts: Any) -> None:
        super().__init__(**parts)
        if not isinstance(self.backbone, ViTEncoder):
            raise _no_encoder(type(self.backbone).__name__)
        if self.sem_seg_head.num_blocks > self.backbone.depth:
            raise UserError(
                f"MODEL.EOMT.NUM_BLOCKS is {self.sem_seg_head.num_blocks}, but the encoder has "
                f"{self.backbone.depth} blocks."
            )
        patch_size = self.backbone.patch_size
        if self.size_divisibility == 0 or self.size_divisibility % patch_size:
            raise UserError(
                f"MODEL.MASK_FORMER.SIZE_DIVISIBILITY is {self.size_divisibility}, but the patches "
                f"of MODEL.BACKBONE are {patch_size} pixels wide: set it to a multiple of that, "
                "such as the side of the training's crops, or to -1."
            )
        self.deep_supervision = deep_supervision

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        deep_supervision = cfg.MODEL.MASK_FORMER.DEEP_SUPERVISION
        return {**super().from_config(cfg), "deep_supervision": deep_supervision}

    def predict(self, images: Tensor) -> list[Prediction]:
        """Run the encoder, (B, 3, H, W) -> the predictions before each of its last blocks, and the
        one behind, which in inference is the only one."""
        encoder, head = self.backbone, self.sem_seg_head
        first = encoder.depth - head.num_blocks
        tokens = encoder.embed(images)
        for i in range(first):
            tokens = encoder.run_block(i, tokens)
        tokens = tokens.behind(head.predictor.queries(len(images)))
        predictions, mask = [], None
        for i in range(first, encoder.depth):
            if head.is_masked:
                predictions.append(head(encoder.normalize(tokens)))
                mask = head.predictor.attention_mask(i - first, predictions[-1], tokens)
            tokens = encoder.run_block(i, tokens, mask)
        predictions.append(head(encoder.normalize(tokens)))
        return predictions if self.training and self.deep_supervision else predictions[-1:]

    def preprocess(self, batched_inputs: list[dict[str, Any]]) -> ImageList:
        """Pad the images to one size with black, and normalize them."""
        images = [to_device(x["image"], self.device) for x in batched_inputs]
        images = ImageList.from_tensors(images, self.size_divisibility)
        return ImageList((images.tensor - self.pixel_mean) / self.pixel_std, images.image_sizes)


def _warn_of_chance(head: EoMTHead, _: Any) -> None:
    """Say that inference draws lots, with weights from the middle of an annealing that the head
    does not know of."""
    probabilities = head.predictor.attn_mask_probs.tolist()
    if head.annealing is None and any(0 < p < 1 for p in probabilities):
        logger.warning(
            "These weights are of a training whose masked attention was being annealed away: in "
            f"its blocks queries are masked with the probabilities {probabilities}, at random, and "
            "without MODEL.EOMT.ANNEALING_START and ANNEALING_END in inference, too, where no two "
            "results are the same. Set these two as in that training, for inference without masks."
        )


def _checked(input_shape: dict[str, ShapeSpec]) -> dict[str, ShapeSpec]:
    if "tokens" not in input_shape:
        raise _no_encoder(f"one with the maps {', '.join(input_shape)}")
    return input_shape


def _no_encoder(backbone: str) -> UserError:
    return UserError(
        f"EoMT's queries join the blocks of a plain ViT, but the backbone is {backbone}: set "
        "MODEL.BACKBONE.NAME to ViTEncoder, and MODEL.VIT.NAME to a model."
    )

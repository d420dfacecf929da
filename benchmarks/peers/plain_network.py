"""MaskFormer's network (paper, figure 2 and section 3.4) as one writes it down with PyTorch.

A backbone of Detectron2's, and modules of `torch.nn` one after the other. The weights have the
names of ours, so that they load as they are.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.predictions import prediction_of_masks
from mask_former.structures import Prediction

DIM, HEADS, FEEDFORWARD = 256, 8, 2048


class PlainMaskFormer(nn.Module):
    """Without dropout.

    Args:
        backbone: (B, 3, H, W) -> {res2, res3, res4, res5}.
        channels: of these four.
        encoder_layers: of the transformer encoder on top of res5; with it the queries attend to
            its output instead of res5.
    """

    def __init__(
        self,
        backbone: nn.Module,
        channels: list[int],
        *,
        num_classes: int,
        num_queries: int = 100,
        encoder_layers: int = 0,
        decoder_layers: int = 6,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.sem_seg_head = nn.Module()
        self.sem_seg_head.pixel_decoder = PixelDecoder(channels, encoder_layers)
        in_dim = DIM if encoder_layers else channels[-1]
        self.sem_seg_head.predictor = Predictor(in_dim, num_classes, num_queries, decoder_layers)

    def forward(self, images: Tensor) -> list[Prediction]:
        """Normalised (B, 3, H, W) -> predictions of the layers, in inference of the last."""
        features = self.backbone(images)
        mask_features, memory = self.sem_seg_head.pixel_decoder(features)
        return self.sem_seg_head.predictor(memory, mask_features)


class ConvNorm(nn.Conv2d):
    def __init__(self, in_dim: int, kernel_size: int) -> None:
        super().__init__(in_dim, DIM, kernel_size, padding=kernel_size // 2, bias=False)
        self.norm = nn.GroupNorm(32, DIM)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(super().forward(x))


class PixelDecoder(nn.Module):
    def __init__(self, channels: list[int], encoder_layers: int) -> None:
        super().__init__()
        self.adapter_1, self.adapter_2, self.adapter_3 = (ConvNorm(c, 1) for c in channels[:3])
        self.layer_1, self.layer_2, self.layer_3 = (ConvNorm(DIM, 3) for _ in range(3))
        self.layer_4 = ConvNorm(DIM if encoder_layers else channels[3], 3)
        self.mask_features = nn.Conv2d(DIM, DIM, 3, padding=1)
        self.has_encoder = encoder_layers > 0
        if self.has_encoder:
            self.input_proj = nn.Conv2d(channels[3], DIM, 1)
            encoder = nn.Module()
            encoder.layers = nn.ModuleList(EncoderLayer() for _ in range(encoder_layers))
            self.transformer = nn.ModuleDict({"encoder": encoder})

    def forward(self, features: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Per-pixel embeddings, and the map that the queries attend to."""
        memory = features["res5"]
        if self.has_encoder:
            x = self.input_proj(memory)
            position = sequence(position_encoding(x))
            tokens = sequence(x)
            for layer in self.transformer["encoder"].layers:
                tokens = layer(tokens, position)
            memory = tokens.transpose(1, 2).reshape(x.shape)
        x = F.relu(self.layer_4(memory))
        for name, adapter, layer in (
            ("res4", self.adapter_3, self.layer_3),
            ("res3", self.adapter_2, self.layer_2),
            ("res2", self.adapter_1, self.layer_1),
        ):
            lateral = adapter(features[name])
            x = F.relu(layer(lateral + F.interpolate(x, size=lateral.shape[-2:])))
        return self.mask_features(x), memory


class EncoderLayer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.self_attn = nn.MultiheadAttention(DIM, HEADS, batch_first=True)
        self.linear1, self.linear2 = nn.Linear(DIM, FEEDFORWARD), nn.Linear(FEEDFORWARD, DIM)
        self.norm1, self.norm2 = nn.LayerNorm(DIM), nn.LayerNorm(DIM)

    def forward(self, x: Tensor, position: Tensor) -> Tensor:
        q = k = x + position
        x = self.norm1(x + self.self_attn(q, k, x, need_weights=False)[0])
        return self.norm2(x + self.linear2(F.relu(self.linear1(x))))


class DecoderLayer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.self_attn = nn.MultiheadAttention(DIM, HEADS, batch_first=True)
        self.multihead_attn = nn.MultiheadAttention(DIM, HEADS, batch_first=True)
        self.linear1, self.linear2 = nn.Linear(DIM, FEEDFORWARD), nn.Linear(FEEDFORWARD, DIM)
        self.norm1, self.norm2, self.norm3 = (nn.LayerNorm(DIM) for _ in range(3))

    def forward(self, x: Tensor, queries: Tensor, memory: Tensor, position: Tensor) -> Tensor:
        q = k = x + queries
        x = self.norm1(x + self.self_attn(q, k, x, need_weights=False)[0])
        q, k = x + queries, memory + position
        x = self.norm2(x + self.multihead_attn(q, k, memory, need_weights=False)[0])
        return self.norm3(x + self.linear2(F.relu(self.linear1(x))))


class Predictor(nn.Module):
    def __init__(self, in_dim: int, num_classes: int, num_queries: int, num_layers: int) -> None:
        super().__init__()
        self.query_embed = nn.Embedding(num_queries, DIM)
        self.input_proj = nn.Conv2d(in_dim, DIM, 1) if in_dim != DIM else nn.Identity()
        self.transformer = nn.Module()
        self.transformer.decoder = nn.Module()
        self.transformer.decoder.layers = nn.ModuleList(DecoderLayer() for _ in range(num_layers))
        self.transformer.decoder.norm = nn.LayerNorm(DIM)
        self.class_embed = nn.Linear(DIM, num_classes + 1)
        self.mask_embed = nn.Module()
        self.mask_embed.layers = nn.ModuleList(nn.Linear(DIM, DIM) for _ in range(3))

    def forward(self, memory: Tensor, mask_features: Tensor) -> list[Prediction]:
        memory = self.input_proj(memory)
        position = sequence(position_encoding(memory))
        memory = sequence(memory)
        queries = self.query_embed.weight.expand(len(memory), -1, -1)
        x = torch.zeros_like(queries)
        predictions = []
        for layer in self.transformer.decoder.layers:
            x = layer(x, queries, memory, position)
            predictions.append(self.transformer.decoder.norm(x))
        if not self.training:
            predictions = predictions[-1:]
        return [self.decode(y, mask_features) for y in predictions]

    def decode(self, x: Tensor, mask_features: Tensor) -> Prediction:
        first, second, third = self.mask_embed.layers
        embeddings = third(F.relu(second(F.relu(first(x)))))
        masks = torch.einsum("bqc,bchw->bqhw", embeddings, mask_features)
        return prediction_of_masks(self.class_embed(x), masks)


def sequence(x: Tensor) -> Tensor:
    """(B, C, h, w) -> (B, h * w, C)."""
    return x.flatten(2).transpose(1, 2)


def position_encoding(x: Tensor) -> Tensor:
    """Sines and cosines of the coordinates, (1, C, h, w) (DETR, appendix A.4)."""
    channels, height, width = x.shape[1:]
    rows = torch.arange(1, height + 1, device=x.device) / (height + 1e-6) * 2 * math.pi
    columns = torch.arange(1, width + 1, device=x.device) / (width + 1e-6) * 2 * math.pi
    period = 10000 ** (4 * torch.arange(channels // 4, device=x.device) / channels)

    def waves(position: Tensor) -> Tensor:
        angles = position[:, None] / period
        return torch.stack((angles.sin(), angles.cos()), -1).flatten(1).T  # (C / 2, size)

    y = waves(rows)[:, :, None].expand(-1, -1, width)
    x = waves(columns)[:, None, :].expand(-1, height, -1)
    return torch.cat((y, x))[None]

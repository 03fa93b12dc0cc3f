"""A model's output to few, small tokens: one summary and a coarse grid of patches."""

from typing import Any

import torch as th
from torch import nn
from torch.nn import functional as F

# Twice this many bytes in 2-byte floats. All patch tokens of a ViT-S/16 at 224 pixels take 15 times as much.
MAX_TOKEN_VALUES = 5120
MAX_GRID_SIDE = 10


class TokenReader(nn.Module):
    """
    Read a summary token and a grid of patch tokens out of a timm model's features.

    Vision transformers give their patch tokens, convolutional nets the cells of their last feature map. The grid is pooled to
    at most 10x10 cells; then the channels are projected, by a seeded random matrix with orthonormal columns, to as many as the
    budget of 5,120 values (10 KB in half precision) allows. Random projections keep distances
    (Johnson and Lindenstrauss, 1984), need no data, and are the same in every process.

    :param model: The timm model
    :param image_size: Side of its input in pixels
    :param grid: Side of the token grid, or None to choose it
    :param token_dim: Channels per token, or None to choose them
    :raises ValueError: if ``grid`` or ``token_dim`` is larger than the encoder has
    """

    projection: th.Tensor | None
    summary_projection: th.Tensor | None

    def __init__(self, model: Any, image_size: int, grid: int | None = None, token_dim: int | None = None) -> None:
        super().__init__()
        self.channels_last = getattr(model, "output_fmt", "NCHW") == "NHWC"
        self.n_prefix = getattr(model, "num_prefix_tokens", 0)
        dtype = next(model.parameters()).dtype
        with th.inference_mode():
            features = model.forward_features(th.zeros(1, _in_channels(model), image_size, image_size, dtype=dtype))
            summary, cells = self._split(model, features)
        rows, columns, width = cells.shape[2], cells.shape[3], cells.shape[1]
        if grid is not None and grid > min(rows, columns):
            raise ValueError(f"grid={grid} is finer than the encoder's own {rows}x{columns} map at {image_size} pixels.")
        side = MAX_GRID_SIDE if grid is None else grid
        self.grid = (min(rows, side), min(columns, side))
        n_tokens = 1 + self.grid[0] * self.grid[1]
        self.pools = self.grid != (rows, columns)
        if token_dim is not None and token_dim > width:
            raise ValueError(f"token_dim={token_dim} is wider than the encoder's {width} channels.")
        # A multiple of 8 keeps half-precision rows aligned.
        fitting = width if n_tokens * width <= MAX_TOKEN_VALUES else MAX_TOKEN_VALUES // n_tokens // 8 * 8
        self.token_shape = (n_tokens, token_dim or fitting)
        needs_projection = self.token_shape[1] != width
        self.register_buffer("projection", _orthonormal(width, self.token_shape[1]) if needs_projection else None, False)
        # Some nets widen their pooled vector after the last map (MobileNetV3: 576 to 1024); it has to fit beside the cells.
        widened = summary.shape[1] != width
        self.register_buffer(
            "summary_projection", _orthonormal(summary.shape[1], self.token_shape[1]) if widened else None, False
        )

    def forward(self, model: Any, images: th.Tensor) -> th.Tensor:
        """
        :param model: The timm model
        :param images: (B, C, S, S), preprocessed
        :return: (B, N, D) fp32; token 0 is the summary, the others the grid's cells row by row
        """
        summary, cells = self._split(model, model.forward_features(images))
        cells = cells.float()
        if self.pools:
            cells = F.adaptive_avg_pool2d(cells, self.grid)
        tokens = cells.flatten(2).transpose(1, 2)
        summary = summary.float()[:, None]
        if self.summary_projection is not None:
            summary = summary @ self.summary_projection
        elif self.projection is not None:
            summary = summary @ self.projection
        if self.projection is not None:
            tokens = tokens @ self.projection
        return th.cat([summary, tokens], dim=1)

    def _split(self, model: Any, features: th.Tensor) -> tuple[th.Tensor, th.Tensor]:
        """Give the summary (B, D') and the map of cells (B, D, rows, columns)."""
        summary = model.forward_head(features, pre_logits=True)
        if features.ndim == 3:
            patches = features[:, self.n_prefix :]
            grid = getattr(model.patch_embed, "grid_size", None)
            rows, columns = grid if grid is not None else (int(patches.shape[1] ** 0.5),) * 2
            return summary, patches.transpose(1, 2).unflatten(2, (rows, columns))
        return summary, features.permute(0, 3, 1, 2) if self.channels_last else features


def _in_channels(model: Any) -> int:
    return int(model.pretrained_cfg["input_size"][0])


def _orthonormal(rows: int, columns: int) -> th.Tensor:
    generator = th.Generator().manual_seed(rows * 100_003 + columns)
    matrix = th.randn(max(rows, columns), min(rows, columns), generator=generator, dtype=th.float64)
    basis = th.linalg.qr(matrix).Q.float()
    # Scaled so that a token's squared length is kept on average, whatever the number of columns.
    return (basis if rows >= columns else basis.T) * max(1.0, rows / columns) ** 0.5

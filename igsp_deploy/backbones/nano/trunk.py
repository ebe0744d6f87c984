"""The image tokeniser of `nano`: a frozen EfficientNet-Lite0 whose maps become a 4 x 4 grid of tokens.

Written from the published description of EfficientNet (Tan and Le, 2019, arXiv 1905.11946) and of its Lite variant
(no squeeze and excitation, ReLU6, stem and head not scaled). Batch normalisation is folded into the convolutions: a
`TrunkConv` has a bias and nothing else.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Stage(NamedTuple):
    """One row of the architecture table: `repeats` inverted bottlenecks, the first with `stride`."""

    repeats: int
    kernel_size: int
    stride: int
    expand_ratio: int
    num_in: int
    num_out: int


STAGES = (
    Stage(1, 3, 1, 1, 32, 16),
    Stage(2, 3, 2, 6, 16, 24),
    Stage(2, 5, 2, 6, 24, 40),
    Stage(3, 3, 2, 6, 40, 80),
    Stage(3, 5, 1, 6, 80, 112),
    Stage(4, 5, 2, 6, 112, 192),
    Stage(1, 3, 1, 6, 192, 320),
)
NUM_STEM = 32
NUM_HEAD = 1280


class TrunkConv(nn.Module):
    """A convolution with TensorFlow's "SAME" padding for inputs whose sides the stride divides.

    Args:
        num_in: input channels.
        num_out: output channels.
        kernel_size: side of the kernel, pixels.
        stride: 1 or 2; with 2 the padding is one pixel larger on the right and at the bottom.
        depthwise: one filter a channel.
    """

    def __init__(
        self, num_in: int, num_out: int, kernel_size: int = 1, stride: int = 1, depthwise: bool = False
    ) -> None:
        super().__init__()
        total = kernel_size - stride
        self.padding = (
            (total // 2, total - total // 2, total // 2, total - total // 2) if kernel_size > 1 else (0, 0, 0, 0)
        )
        symmetric = self.padding[0] == self.padding[1]
        groups = num_in if depthwise else 1
        self.pad_first = not symmetric
        self.conv = nn.Conv2d(
            num_in, num_out, kernel_size, stride, padding=self.padding[0] if symmetric else 0, groups=groups, bias=True
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map [B, num_in, H, W] to [B, num_out, H / stride, W / stride]."""
        result: Tensor = self.conv(F.pad(x, self.padding) if self.pad_first else x)
        return result


class Bottleneck(nn.Module):
    """An inverted bottleneck: expand (1 x 1), filter each channel, project (1 x 1), add the input if shapes allow."""

    def __init__(self, num_in: int, num_out: int, kernel_size: int, stride: int, expand_ratio: int) -> None:
        super().__init__()
        num_hidden = num_in * expand_ratio
        self.expand = TrunkConv(num_in, num_hidden) if expand_ratio != 1 else None
        self.depthwise = TrunkConv(num_hidden, num_hidden, kernel_size, stride, depthwise=True)
        self.project = TrunkConv(num_hidden, num_out)
        self.skip = stride == 1 and num_in == num_out

    def forward(self, x: Tensor) -> Tensor:
        """Map [B, num_in, H, W] to [B, num_out, H / stride, W / stride]."""
        hidden = x if self.expand is None else F.relu6(self.expand(x))
        hidden = F.relu6(self.depthwise(hidden))
        result: Tensor = self.project(hidden)
        return x + result if self.skip else result


class Lite0(nn.Module):
    """EfficientNet-Lite0 without its classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = TrunkConv(3, NUM_STEM, 3, 2)
        self.stages = nn.ModuleList(
            nn.Sequential(
                *(
                    Bottleneck(
                        s.num_in if i == 0 else s.num_out,
                        s.num_out,
                        s.kernel_size,
                        s.stride if i == 0 else 1,
                        s.expand_ratio,
                    )
                    for i in range(s.repeats)
                )
            )
            for s in STAGES
        )
        self.head = TrunkConv(STAGES[-1].num_out, NUM_HEAD)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Compute the maps that the tokens are made of.

        Args:
            images: [B, 3, H, W], normalised; H and W are multiples of 32.

        Returns:
            Maps [B, 40, H/8, W/8], [B, 112, H/16, W/16] and [B, 1280, H/32, W/32] (the last after its ReLU6; its mean
            over the positions is the feature that the ImageNet classifier reads).
        """
        x = F.relu6(self.stem(images))
        maps = []
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        return maps[2], maps[4], F.relu6(self.head(x))


def cells(fine: Tensor, middle: Tensor, coarse: Tensor) -> Tensor:
    """Stack three maps into one vector a cell of the coarsest grid: `[coarse, 2 x 2 of middle, 4 x 4 of fine]`.

    Returns:
        [B, 1280 + 4 * 112 + 16 * 40 = 2368, g, g].
    """
    return torch.cat([coarse, F.pixel_unshuffle(middle, 2), F.pixel_unshuffle(fine, 4)], dim=1)


NUM_CELL = NUM_HEAD + 4 * STAGES[4].num_out + 16 * STAGES[2].num_out


class TrunkTokens(nn.Module):
    """The stand-in for a ViT's patch embedding (`visual.conv1`): images to a grid of tokens.

    Args:
        width: size of a token.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.trunk = Lite0()
        self.embed = nn.Conv2d(NUM_CELL, width, 1, bias=False)

    def forward(self, images: Tensor) -> Tensor:
        """Map [B, 3, 128, 128] to [B, width, 4, 4]."""
        result: Tensor = self.embed(cells(*self.trunk(images)))
        return result

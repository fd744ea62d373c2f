"""The feature pyramid neck: P-levels from C-levels, with extra coarse levels."""

from collections.abc import Sequence
from typing import Literal

from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops.feature_pyramid_network import ExtraFPNBlock, FeaturePyramidNetwork

from distildet.ops.precision import full_precision

ExtraLevelsFrom = Literal["backbone", "neck", "subsampling"]
NeckNorm = Literal["none", "batch"]


class ExtraLevels(ExtraFPNBlock):
    """Coarser levels by 3x3 convolutions of stride 2, named after the level (p6, p7).

    torchvision's LastLevelP6P7 guesses its input from the channel counts and takes the neck's
    last map whenever they happen to coincide; here the input is said.

    Args:
        in_channels: Channels of the input map.
        out_channels: Channels of the neck.
        first: Number of the first extra level, such as 6.
        count: How many, at least 1.
        source: The coarsest map of the backbone or of the neck.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        first: int,
        count: int,
        source: Literal["backbone", "neck"],
    ) -> None:
        super().__init__()
        self.source = source
        self.level_names = [f"p{first + i}" for i in range(count)]
        for i, name in enumerate(self.level_names):
            convolution = nn.Conv2d(in_channels if i == 0 else out_channels, out_channels, 3, 2, 1)
            nn.init.kaiming_uniform_(convolution.weight, a=1)
            if convolution.bias is not None:
                nn.init.zeros_(convolution.bias)
            self.add_module(name, convolution)

    def forward(
        self, results: list[Tensor], x: list[Tensor], names: list[str]
    ) -> tuple[list[Tensor], list[str]]:
        """Append the extra levels to the neck's results."""
        feature = results[-1] if self.source == "neck" else x[-1]
        # On the CPU, torch 2.15 gives the weights of a convolution of stride 2 over a map of width
        # 1 a gradient of memory that nobody has filled, in bfloat16
        # (test_coarsest_levels_learn_in_half_precision). These maps cost next to nothing.
        with full_precision(feature.device):
            feature = feature.float()
            for i, name in enumerate(self.level_names):
                feature = self.get_submodule(name)(feature if i == 0 else F.relu(feature))
                results.append(feature)
                names.append(name)
        return results, names


class SubsampledLevels(ExtraFPNBlock):
    """Coarser levels that take every second cell of the level before, without weights.

    Args:
        first: Number of the first extra level, such as 6.
        count: How many, at least 1.
    """

    def __init__(self, first: int, count: int) -> None:
        super().__init__()
        self.level_names = [f"p{first + i}" for i in range(count)]

    def forward(
        self,
        results: list[Tensor],
        x: list[Tensor],  # noqa: ARG002 - the signature of torchvision's extra blocks
        names: list[str],
    ) -> tuple[list[Tensor], list[str]]:
        """Append the extra levels to the neck's results."""
        for name in self.level_names:
            results.append(F.max_pool2d(results[-1], kernel_size=1, stride=2))
            names.append(name)
        return results, names


class PyramidNeck(nn.Module):
    """Top-down feature pyramid (Lin et al., arXiv 1612.03144) around torchvision's module.

    Args:
        levels: Backbone levels, such as ("C3", "C4", "C5").
        in_channels: Their channels.
        channels: Channels of every P-level.
        extra_levels: Number of coarser levels added, 0 or more.
        extra_levels_from: Input of the first of them; or "subsampling", which has no weights.
        norm: Normalisation after each convolution.
    """

    def __init__(
        self,
        levels: Sequence[str],
        in_channels: Sequence[int],
        channels: int,
        extra_levels: int,
        extra_levels_from: ExtraLevelsFrom,
        *,
        norm: NeckNorm = "none",
    ) -> None:
        super().__init__()
        last = int(levels[-1][1:])
        extra = None
        if extra_levels:
            extra = _extra_blocks(
                last + 1, extra_levels, extra_levels_from, in_channels[-1], channels
            )
        norm_layer = nn.BatchNorm2d if norm == "batch" else None
        self.fpn = FeaturePyramidNetwork(
            list(in_channels), channels, extra_blocks=extra, norm_layer=norm_layer
        )
        numbers = [int(level[1:]) for level in levels]
        numbers += [last + 1 + i for i in range(extra_levels)]
        self.levels = tuple(f"P{number}" for number in numbers)
        self.strides = tuple(2**number for number in numbers)

    def forward(self, features: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return P-level name -> [b c h w]."""
        return dict(zip(self.levels, self.fpn(features).values(), strict=True))


def _extra_blocks(
    first: int, count: int, source: ExtraLevelsFrom, in_channels: int, channels: int
) -> ExtraFPNBlock:
    if source == "subsampling":
        return SubsampledLevels(first, count)
    return ExtraLevels(
        channels if source == "neck" else in_channels, channels, first, count, source
    )

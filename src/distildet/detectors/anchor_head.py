"""The anchor head: two towers with dense predictions."""

import math
from typing import Literal, cast

from torch import Tensor, nn
from torchvision.ops.misc import Conv2dNormActivation

from distildet.detectors.priors import location_major

HeadNorm = Literal["none", "group"]
MOST_GROUPS = 32  # Wu and He, arXiv 1803.08494
PRIOR_PROBABILITY = 0.01  # Lin et al., arXiv 1708.02002, section 4.1


def norm_groups(channels: int) -> int:
    """Return the number of groups of a GroupNorm, of at least two channels where there are two.

    A group of one channel on a map of one cell is a single value, which cannot be normalised.
    """
    groups = math.gcd(MOST_GROUPS, channels)
    return groups // 2 if groups == channels and channels > 1 else groups


class _Branch(nn.Module):
    """One tower and its predictor; the submodule names are those of torchvision's heads."""

    def __init__(
        self, predictor: str, channels: int, depth: int, norm: HeadNorm, outputs: int
    ) -> None:
        super().__init__()
        groups = norm_groups(channels)
        norm_layer = (lambda c: nn.GroupNorm(groups, c)) if norm == "group" else None
        self.conv = nn.Sequential(
            *[Conv2dNormActivation(channels, channels, norm_layer=norm_layer) for _ in range(depth)]
        )
        self.predictor_name = predictor
        self.add_module(predictor, nn.Conv2d(channels, outputs, 3, padding=1))
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.normal_(module.weight, std=0.01)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    @property
    def predictor(self) -> nn.Conv2d:
        module = self.get_submodule(self.predictor_name)
        return cast(nn.Conv2d, module)


class AnchorHead(nn.Module):
    """Classification and box towers shared by all levels.

    Args:
        channels: Channels of the neck.
        num_anchors: Anchors at each location.
        num_classes: Classes without background.
        depth: Convolutions in each tower, 0 or more.
        norm: Normalisation in the towers.
    """

    def __init__(
        self, channels: int, num_anchors: int, num_classes: int, *, depth: int, norm: HeadNorm
    ) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.classification_head = _Branch(
            "cls_logits", channels, depth, norm, num_anchors * num_classes
        )
        self.regression_head = _Branch("bbox_reg", channels, depth, norm, num_anchors * 4)
        bias = cast(Tensor, self.classification_head.predictor.bias)
        nn.init.constant_(bias, -math.log((1 - PRIOR_PROBABILITY) / PRIOR_PROBABILITY))

    def forward(
        self, features: dict[str, Tensor]
    ) -> tuple[dict[str, Tensor], list[Tensor], list[Tensor]]:
        """Return tower features by name, logits [b n k] and box codes [b n 4] per level."""
        towers: dict[str, Tensor] = {}
        logits, codes = [], []
        for level, feature in features.items():
            towers[f"cls.{level}"] = self.classification_head.conv(feature)
            towers[f"box.{level}"] = self.regression_head.conv(feature)
            raw = self.classification_head.predictor(towers[f"cls.{level}"])
            logits.append(location_major(raw, self.num_classes))
            raw = self.regression_head.predictor(towers[f"box.{level}"])
            codes.append(location_major(raw, 4))
        return towers, logits, codes

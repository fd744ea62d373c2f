"""The point head: two towers that predict one box at each location, with its centre-ness."""

import math
from typing import cast

from torch import Tensor, nn
from torch.nn import functional as F

from distildet.detectors.anchor_head import PRIOR_PROBABILITY, HeadNorm, norm_groups
from distildet.detectors.priors import location_major

BOX_CODES = 4


class PointHead(nn.Module):
    """Classification and box towers shared by all levels; centre-ness comes from the box tower.

    Args:
        channels: Channels of the neck.
        num_classes: Classes without background.
        depth: Convolutions in each tower, 0 or more.
        norm: Normalisation in the towers.
    """

    def __init__(self, channels: int, num_classes: int, *, depth: int, norm: HeadNorm) -> None:
        super().__init__()
        self.num_classes = num_classes
        # The names of the submodules are those of torchvision's FCOS, so that its weights fit.
        self.classification_head = nn.ModuleDict(
            {
                "conv": _tower(channels, depth, norm),
                "cls_logits": nn.Conv2d(channels, num_classes, 3, padding=1),
            }
        )
        self.regression_head = nn.ModuleDict(
            {
                "conv": _tower(channels, depth, norm),
                "bbox_reg": nn.Conv2d(channels, BOX_CODES, 3, padding=1),
                "bbox_ctrness": nn.Conv2d(channels, 1, 3, padding=1),
            }
        )
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.normal_(module.weight, std=0.01)
                nn.init.zeros_(cast(Tensor, module.bias))
        bias = cast(Tensor, self.classification_head["cls_logits"].bias)
        nn.init.constant_(bias, -math.log((1 - PRIOR_PROBABILITY) / PRIOR_PROBABILITY))
        # The paper's exp() begins at one stride. A ReLU that begins around 0, as torchvision's
        # does, may never give a side of the box a gradient.
        nn.init.ones_(cast(Tensor, self.regression_head["bbox_reg"].bias))

    def forward(
        self, features: dict[str, Tensor]
    ) -> tuple[dict[str, Tensor], list[Tensor], list[Tensor], list[Tensor]]:
        """Predict on every level.

        Args:
            features: Of the neck, level name -> [b c h w].

        Returns:
            Tower features by name; logits [b n k], box codes [b n 4] (distances to the left, top,
            right and bottom side in strides, never negative) and centre-ness logits [b n] per
            level.
        """
        towers: dict[str, Tensor] = {}
        logits, codes, quality = [], [], []
        for level, feature in features.items():
            of_class = self.classification_head["conv"](feature)
            of_box = self.regression_head["conv"](feature)
            towers |= {f"cls.{level}": of_class, f"box.{level}": of_box}
            raw = self.classification_head["cls_logits"](of_class)
            logits.append(location_major(raw, self.num_classes))
            raw = F.relu(self.regression_head["bbox_reg"](of_box))
            codes.append(location_major(raw, BOX_CODES))
            raw = self.regression_head["bbox_ctrness"](of_box)
            quality.append(location_major(raw, 1).squeeze(-1))
        return towers, logits, codes, quality


def _tower(channels: int, depth: int, norm: HeadNorm) -> nn.Sequential:
    layers: list[nn.Module] = []
    for _ in range(depth):
        layers.append(nn.Conv2d(channels, channels, 3, padding=1))
        if norm == "group":
            layers.append(nn.GroupNorm(norm_groups(channels), channels))
        layers.append(nn.ReLU())
    return nn.Sequential(*layers)

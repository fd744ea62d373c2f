"""One feature vector for each object of an image, from a feature map."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torchvision.ops import roi_align

POOLED = 7
SAMPLES = 2
"""Cells along a side of what RoIAlign pools from a box, and points along a side of a cell."""


def instance_features(feature: Tensor, boxes: Sequence[Tensor], canvas: tuple[int, int]) -> Tensor:
    """Return the mean of a feature map over each box: RoIAlign of 7 x 7 cells, averaged.

    Args:
        feature: [b c h w], of any float type.
        boxes: Of each image [n 4] xyxy, pixels of the canvas; m in all.
        canvas: (height, width) of the padded images, in pixels.

    Returns:
        [m c] float32 with gradient to the map, image after image.

    Source:
        He et al., "Mask R-CNN", ICCV 2017, arXiv 1703.06870, as torchvision computes it; what it is
        averaged for: methods of prototypes, which crop and average whole cells instead.

    Example:
        >>> ramp = torch.arange(4.0).expand(1, 1, 4, 4)  # value = column
        >>> instance_features(ramp, [torch.tensor([[8.0, 8.0, 24.0, 24.0]])], (32, 32))
        tensor([[1.5000]])
    """
    height, width = feature.shape[2:]
    # Padded size / map size: at sizes that a stride does not divide, nominal strides are off.
    scale = feature.new_tensor([width / canvas[1], height / canvas[0]] * 2, dtype=torch.float32)
    scaled = [own.float() * scale for own in boxes]
    pooled = roi_align(feature.float(), scaled, (POOLED, POOLED), 1.0, SAMPLES, aligned=True)
    return pooled.mean((2, 3))

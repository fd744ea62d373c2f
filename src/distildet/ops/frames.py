"""Conversion of boxes between the image frame and the batch frame; nothing else converts."""

import torch
from torch import Tensor
from torchvision.ops import clip_boxes_to_image

from distildet.structures import ImageBatch


def map_boxes(boxes: Tensor, matrix: Tensor) -> Tensor:
    """Map boxes by an axis-aligned homogeneous matrix.

    Args:
        boxes: [n 4], xyxy pixels.
        matrix: [3 3], takes (x, y, 1) to the new frame by scale, mirror, quarter turn and shift.

    Returns:
        [n 4] float32 xyxy on the boxes' device, with x1 <= x2 and y1 <= y2, also after a mirror;
        [0 4] on empty input.

    Raises:
        ValueError: A shape is not as stated.

    Example:
        >>> mirror = torch.tensor([[-1.0, 0, 10], [0, 1, 0], [0, 0, 1]])
        >>> map_boxes(torch.tensor([[1.0, 2, 3, 4]]), mirror).tolist()
        [[7.0, 2.0, 9.0, 4.0]]
    """
    if boxes.ndim != 2 or boxes.shape[1] != 4:
        raise ValueError(f"boxes have shape {tuple(boxes.shape)}, expected (n, 4).")
    if matrix.shape != (3, 3):
        raise ValueError(f"matrix has shape {tuple(matrix.shape)}, expected (3, 3).")
    # float64: a float32 product is off by up to 1e-3 px on large images, and errors add up
    # over a round trip. On the CPU, because MPS has no float64.
    exact = matrix.cpu().double()
    corners = boxes.cpu().double().reshape(-1, 2, 2)  # [n, corner, xy]
    mapped = corners @ exact[:2, :2].T + exact[:2, 2]
    ordered = torch.cat([mapped.amin(1), mapped.amax(1)], dim=1)  # [n, 4]
    return ordered.float().to(boxes.device)


def to_image_frame(boxes: Tensor, batch: ImageBatch, index: int) -> Tensor:
    """Bring boxes of one image of a batch back to the image frame.

    Args:
        boxes: [n 4], xyxy pixels of the batch frame.
        batch: The batch that the boxes were found in.
        index: Position of the image in the batch.

    Returns:
        [n 4] float32 xyxy pixels of the image, clipped to it; a box outside has no area.
    """
    inverse = torch.linalg.inv(batch.image_to_batch[index].cpu().double())
    return _clip(map_boxes(boxes, inverse), batch.image_sizes[index])


def _clip(boxes: Tensor, size: Tensor) -> Tensor:
    height, width = size.tolist()
    clipped: Tensor = clip_boxes_to_image(boxes, (height, width))
    return clipped

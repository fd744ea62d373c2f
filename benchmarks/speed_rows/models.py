"""Stock torchvision models, the same models of ours, and the batches that both see."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torchvision.models import detection, resnet
from torchvision.models.detection.backbone_utils import BackboneWithFPN
from torchvision.ops.feature_pyramid_network import ExtraFPNBlock, LastLevelP6P7

from distildet.classes import ClassList
from distildet.data.loader import collate
from distildet.data.transforms import fit_view
from distildet.detectors.base import Detector
from distildet.detectors.faster_rcnn import FasterRCNN
from distildet.detectors.fcos import FCOS
from distildet.detectors.retinanet import RetinaNet
from distildet.structures import DENSE, ImageBatch, Targets, move_targets

NUM_CLASSES = 20
CLASSES = ClassList(tuple(f"class {label}" for label in range(NUM_CLASSES)))
SCORE_FLOOR, MAX_DETECTIONS = 0.05, 300
# Of the logits around their prior of 0.01: some 0.2 % of them then pass the floor.
SPREAD = 0.56
_STOCK_LEVELS = {f"layer{i}": str(i) for i in (1, 2, 3, 4)}
_STOCK_CHANNELS = {"resnet18": (64, 128, 256, 512), "resnet50": (256, 512, 1024, 2048)}
_OUR_NAMES = {
    "backbone.fpn.": "neck.fpn.",
    "rpn.head.": "proposal_network.head.",
    "roi_heads.box_head.fc6.": "region_head.layers.1.",
    "roi_heads.box_head.fc7.": "region_head.layers.3.",
    "roi_heads.box_predictor.": "region_head.predictor.",
}


@dataclass(frozen=True, kw_only=True)
class Pair:
    """The same network twice, with equal weights.

    Args:
        stock: Of torchvision; it resizes nothing.
        ours: Of distildet.
        has_background: Whether the stock model counts its labels from 1.
    """

    stock: nn.Module
    ours: Detector
    has_background: bool


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """The same images and boxes in both forms.

    Args:
        batch: As our detectors take them.
        targets: One an image.
    """

    batch: ImageBatch
    targets: tuple[Targets, ...]

    def to(self, device: torch.device) -> "Inputs":
        """Return the inputs on a device."""
        return Inputs(
            batch=self.batch.to(device), targets=tuple(move_targets(self.targets, device))
        )

    def stock_images(self) -> list[Tensor]:
        """Return the images [3 h w] without padding."""
        sizes = self.batch.sizes.tolist()
        return [
            pixels[:, :height, :width].contiguous()
            for pixels, (height, width) in zip(self.batch.pixels, sizes, strict=True)
        ]

    def stock_targets(self, *, has_background: bool) -> list[dict[str, Tensor]]:
        """Return the boxes as torchvision takes them."""
        return [
            {"boxes": one.boxes, "labels": one.labels + int(has_background)} for one in self.targets
        ]


def make_pair(
    family: str, *, backbone: str, neck_channels: int, image_size: int = 224, seed: int = 0
) -> Pair:
    """Build a stock model and ours with its weights.

    Args:
        family: One of `FAMILIES`.
        backbone: "resnet18" or "resnet50".
        neck_channels: Width of neck and head.
        image_size: Longer side of the images that ours is given.
        seed: Of the weights.
    """
    torch.manual_seed(seed)
    stock = _STOCK[family](backbone, neck_channels)
    # In eval mode the transform would resize.
    stock.get_submodule("transform").register_forward_pre_hook(_train)
    ours = _OURS[family](
        CLASSES,
        backbone=f"torchvision/{backbone}",
        neck_channels=neck_channels,
        image_size=image_size,
        score_floor=SCORE_FLOOR,
        max_detections=MAX_DETECTIONS,
    )
    ours.load_state_dict({_our_name(name): value for name, value in stock.state_dict().items()})
    return Pair(stock=stock, ours=ours, has_background=family == "faster_rcnn")


def _train(module: nn.Module, _: object) -> None:
    module.train()


def _our_name(name: str) -> str:
    start = next((start for start in _OUR_NAMES if name.startswith(start)), "")
    return _OUR_NAMES.get(start, "") + name.removeprefix(start)


def _pyramid(
    backbone: str, channels: int, first: int, extra: ExtraFPNBlock | None
) -> BackboneWithFPN:
    return BackboneWithFPN(
        getattr(resnet, backbone)(weights=None),
        dict(list(_STOCK_LEVELS.items())[first:]),
        list(_STOCK_CHANNELS[backbone][first:]),
        channels,
        extra,
    )


def _stock_retinanet(backbone: str, channels: int) -> nn.Module:
    extra = LastLevelP6P7(channels, channels)
    return detection.RetinaNet(
        _pyramid(backbone, channels, 1, extra),
        NUM_CLASSES,
        score_thresh=SCORE_FLOOR,
        detections_per_img=MAX_DETECTIONS,
        _skip_resize=True,
    )


def _stock_fcos(backbone: str, channels: int) -> nn.Module:
    extra = LastLevelP6P7(channels, channels)
    return detection.FCOS(
        _pyramid(backbone, channels, 1, extra),
        NUM_CLASSES,
        score_thresh=SCORE_FLOOR,
        detections_per_img=MAX_DETECTIONS,
        _skip_resize=True,
    )


def _stock_faster_rcnn(backbone: str, channels: int) -> nn.Module:
    return detection.FasterRCNN(
        _pyramid(backbone, channels, 0, None),
        NUM_CLASSES + 1,
        box_score_thresh=SCORE_FLOOR,
        box_detections_per_img=MAX_DETECTIONS,
        _skip_resize=True,
    )


_STOCK: Mapping[str, Callable[[str, int], nn.Module]] = {
    "retinanet": _stock_retinanet,
    "fcos": _stock_fcos,
    "faster_rcnn": _stock_faster_rcnn,
}
_OURS: Mapping[str, Callable[..., Detector]] = {
    "retinanet": RetinaNet,
    "fcos": FCOS,
    "faster_rcnn": FasterRCNN,
}
FAMILIES = tuple(_STOCK)


def make_inputs(sizes: Sequence[tuple[int, int]], *, seed: int = 0) -> Inputs:
    """Draw images of noise with 1 to 8 boxes each.

    Args:
        sizes: (height, width) of each image.
        seed: Of all that is random.
    """
    generator = torch.Generator().manual_seed(seed)

    def drawn(low: float, high: float, *shape: int) -> Tensor:
        return low + (high - low) * torch.rand(*shape, generator=generator)

    views, targets = [], []
    for height, width in sizes:
        views.append(fit_view((255 * drawn(0, 1, 3, height, width)).byte(), max(height, width)))
        count = int(drawn(1, 9, 1))
        whole = torch.tensor([width, height])
        sides = drawn(0.1, 0.6, count, 2) * whole
        corners = drawn(0, 1, count, 2) * (whole - sides)
        targets.append(
            Targets(
                boxes=torch.cat([corners, corners + sides], dim=1),
                labels=torch.randint(NUM_CLASSES, (count,), generator=generator),
                weights=torch.ones(count),
                ignore=torch.zeros(0, 4),
                known_classes=torch.ones(NUM_CLASSES, dtype=torch.bool),
                origin="human",
            )
        )
    ids = [str(index) for index in range(len(views))]
    return Inputs(batch=collate(views, ids), targets=tuple(targets))


@torch.no_grad()
def spread_scores(pair: Pair, batch: ImageBatch) -> None:
    """Give an untrained RetinaNet scores that differ, so that some hundred pass its floor.

    Args:
        pair: Both models are changed alike.
        batch: On the CPU; its scores are brought to the wanted spread.
    """
    dense = pair.ours.eval()(batch, want={DENSE}).dense
    deviation = float(torch.cat(dense.logits, dim=1).std())
    for model in (pair.stock, pair.ours):
        model.get_parameter("head.classification_head.cls_logits.weight").mul_(SPREAD / deviation)

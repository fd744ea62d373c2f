import pytest
import torch

from distildet.classes import ClassList
from distildet.detectors.retinanet import RetinaNet
from distildet.structures import ImageBatch, Targets

# For comparison with stock models: mixed sizes with an elongated image first and one empty target.
SIZES = [(90, 210), (128, 128), (60, 100), (100, 64)]
BOXES = [3, 1, 0, 6]


def make_tiny(**options):
    """A detector of 39 000 weights whose untrained scores differ and pass its floor."""
    torch.manual_seed(0)
    detector = RetinaNet(
        ClassList(("car", "no")),
        **{
            "backbone": "test_efficientnet",
            "image_size": 64,
            "backbone_levels": ("C3", "C4"),
            "extra_levels": 0,
            "neck_channels": 8,
            "head_depth": 1,
            "anchor_scale": 2.0,
            "max_detections": 20,
            **options,
        },
    )
    logits = detector.head.classification_head.cls_logits
    torch.nn.init.normal_(logits.weight, std=3.0)
    torch.nn.init.constant_(logits.bias, -1.0)
    return detector


@pytest.fixture
def make_detector():
    return make_tiny


@pytest.fixture
def tiny():
    return make_tiny()


@pytest.fixture
def make_inputs():
    def make(num_classes=7):
        """Images, and targets as torchvision takes them but with labels from 0."""
        generator = torch.Generator().manual_seed(1)
        images = [torch.rand(3, h, w, generator=generator) for h, w in SIZES]
        targets = []
        for (h, w), count in zip(SIZES, BOXES, strict=True):
            corners = torch.rand(count, 2, 2, generator=generator) * torch.tensor([w / 2, h / 2])
            boxes = torch.cat([corners[:, 0], corners[:, 0] + corners[:, 1] + 4], dim=1)
            labels = torch.randint(num_classes, (count,), generator=generator)
            targets.append({"boxes": boxes, "labels": labels})
        return images, targets

    return make


@pytest.fixture
def as_batch():
    def make(images, canvas=(128, 224)):
        pixels = torch.zeros(len(images), 3, *canvas)
        for i, image in enumerate(images):
            pixels[i, :, : image.shape[1], : image.shape[2]] = image
        sizes = torch.tensor([image.shape[1:] for image in images])
        return ImageBatch(
            pixels=pixels,
            sizes=sizes,
            image_sizes=sizes,
            image_to_batch=torch.eye(3, dtype=torch.float64).repeat(len(images), 1, 1),
            image_ids=tuple(str(i) for i in range(len(images))),
        )

    return make


@pytest.fixture
def as_targets():
    def make(targets, num_classes=7, **changes):
        return [
            Targets(
                **{
                    "boxes": t["boxes"],
                    "labels": t["labels"],
                    "weights": torch.ones(len(t["labels"])),
                    "ignore": torch.zeros(0, 4),
                    "known_classes": torch.ones(num_classes, dtype=torch.bool),
                    "origin": "human",
                    **changes,
                }
            )
            for t in targets
        ]

    return make

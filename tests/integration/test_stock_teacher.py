"""A stock torchvision file as the teacher of a whole run."""

import json

import pytest
import torch
from torchvision.models.detection import RetinaNet
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
from torchvision.ops.feature_pyramid_network import LastLevelP6P7

from distildet.data.synthetic import ANNOTATIONS_FILE, make_scenes

RECIPE = f"""
name: stock
data:
  image_size: 64
  workers: 0
  labeled: {{format: coco, images: scenes, annotations: scenes/{ANNOTATIONS_FILE}, fraction: 0.5}}
  unlabeled: [labeled-rest]
  validation: {{format: coco, images: held, annotations: held/{ANNOTATIONS_FILE}}}
teachers:
  - detector: stock.pth
    classes: [round, Ellipse, square, triangle]
    image_size: 64
    class_map: {{round: circle}}
    unknown_classes: [pentagon]
student:
  detector: faster_rcnn
  backbone: test_efficientnet
  pretrained: false
  backbone_levels: [C3, C4]
  neck_channels: 8
  anchor_scale: 2
  region_channels: 8
stages:
  - {{stage: label, images: all, threshold: 0.02, keep_empty: 1}}
  - stage: train
    images: {{labeled: 1, unlabeled: 1}}
    targets: {{labeled: human, unlabeled: pseudo}}
    distill: [{{loss: feature-imitation, weight: auto}}]
    steps: 2
    batch_size: 4
    optimizer: {{name: adamw, lr: 1e-3}}
"""


@pytest.mark.slow
def test_a_file_whose_classes_are_named_in_the_recipe_teaches_a_run(tmp_path, distildet):
    make_scenes(tmp_path / "scenes", images=8, size=64, seed=0)
    make_scenes(tmp_path / "held", images=4, size=64, seed=1)
    torch.manual_seed(0)
    backbone = resnet_fpn_backbone(
        backbone_name="resnet18",
        weights=None,
        returned_layers=[2, 3, 4],
        extra_blocks=LastLevelP6P7(256, 256),
        trainable_layers=5,
    )
    model = RetinaNet(backbone, num_classes=4)
    # Untrained scores lie below its floor.
    torch.nn.init.normal_(model.head.classification_head.cls_logits.weight, std=3.0)
    torch.save(model.state_dict(), tmp_path / "stock.pth")
    (tmp_path / "recipe.yaml").write_text(RECIPE)

    done = distildet("run", tmp_path / "recipe.yaml", "--out", tmp_path / "run")

    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    # At 64 px, not at the 1067 px that stock files have when nothing is said.
    assert result["models"]["teacher"]["gflops"] < 5
    assert set(result["models"]) == {"teacher", "baseline", "student"}
    assert "circle    <-  round" in done.stdout

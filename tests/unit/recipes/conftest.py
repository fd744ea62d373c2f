"""Recipes on disk, beside the files that they name."""

import pytest

from distildet.recipes.load import load_recipe

PLAIN = """
name: plain
data:
  image_size: 64
  labeled: {format: coco, images: images, annotations: labels.json}
student: {detector: retinanet, backbone: mobilenetv2_050, pretrained: false}
stages:
  - {stage: train, epochs: 1, optimizer: {lr: 1e-3}}
"""

DISTILLED = """
name: distilled
data:
  image_size: 64
  labeled: {format: coco, images: images, annotations: labels.json, fraction: 0.5}
  unlabeled: [{format: folder, images: images}, labeled-rest]
  validation: {format: coco, images: images, annotations: labels.json}
teachers: [{detector: teacher}]
student: {detector: retinanet}
stages:
  - {stage: label}
  - {stage: train, images: {labeled: 1, unlabeled: 3}, epochs: 1, optimizer: {lr: 1e-3}}
"""

PRESET = """
name: preset
preset: pseudo-label
data:
  image_size: 64
  labeled: {format: coco, images: images, annotations: labels.json}
  unlabeled: [{format: folder, images: images}]
teachers: [{detector: teacher}]
student: {detector: retinanet}
"""


@pytest.fixture
def project(tmp_path):
    folder = tmp_path / "project"
    (folder / "images").mkdir(parents=True)
    (folder / "teacher").mkdir()
    (folder / "labels.json").write_text("{}")
    return folder


@pytest.fixture
def load_text(project):
    def load(text, *overrides, **options):
        (project / "recipe.yaml").write_bytes(text.encode() if isinstance(text, str) else text)
        return load_recipe(project / "recipe.yaml", overrides, **options)

    return load


@pytest.fixture
def load_plain(load_text):
    return lambda *overrides, **options: load_text(PLAIN, *overrides, **options)


@pytest.fixture
def load_distilled(load_text):
    return lambda *overrides, **options: load_text(DISTILLED, *overrides, **options)


@pytest.fixture
def load_preset(load_text):
    return lambda *overrides, **options: load_text(PRESET, *overrides, **options)

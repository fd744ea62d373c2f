import io

import numpy as np
import pytest
import torch
from PIL import Image

from distildet.classes import ClassList
from distildet.errors import DataError
from distildet.report.drawing import COLOURS, draw_detections
from distildet.structures import Detections

CLASSES = ClassList(("cat", "<b>dog</b>"))


def drawn_box(tmp_path):
    Image.new("RGB", (80, 60)).save(tmp_path / "black.png")
    found = Detections(
        boxes=torch.tensor([[10.0, 20.0, 50.0, 40.0]]),
        scores=torch.tensor([0.9]),
        labels=torch.tensor([1]),
    )
    png = draw_detections(tmp_path / "black.png", found, CLASSES)
    return np.asarray(Image.open(io.BytesIO(png)))


def test_the_outline_lies_on_the_box_in_the_colour_of_the_class(tmp_path):
    pixels = drawn_box(tmp_path)

    colour = tuple(bytes.fromhex(COLOURS[1][1:]))
    assert tuple(pixels[40, 30]) == colour
    assert tuple(pixels[38, 10]) == colour
    assert tuple(pixels[30, 50]) == colour


def test_the_inside_and_the_size_of_the_picture_stay(tmp_path):
    pixels = drawn_box(tmp_path)

    assert pixels.shape == (60, 80, 3)
    assert pixels[30:38, 14:48].max() == 0


def test_a_file_that_is_no_image_is_refused(tmp_path):
    (tmp_path / "page.jpg").write_text("<html></html>")
    nothing = Detections(
        boxes=torch.zeros(0, 4), scores=torch.zeros(0), labels=torch.zeros(0, dtype=torch.int64)
    )

    with pytest.raises(DataError, match=r"page\.jpg"):
        draw_detections(tmp_path / "page.jpg", nothing, CLASSES)

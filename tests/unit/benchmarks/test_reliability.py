import importlib
import math
import xml.etree.ElementTree as ET

import numpy as np
import pytest
import torch


@pytest.fixture
def step(project, monkeypatch):
    """Import a part of the script that measures reliability."""
    monkeypatch.syspath_prepend(project / "benchmarks")
    return lambda name: importlib.import_module(f"reliability_steps.{name}")


@pytest.fixture
def image():
    return torch.rand(3, 12, 16, generator=torch.Generator().manual_seed(0))


BOX = torch.tensor([2.5, 3.0, 9.0, 7.2])  # touches columns 2..8 and rows 3..7


def _inside(image):
    mask = torch.zeros(image.shape[1:], dtype=torch.bool)
    mask[3:8, 2:9] = True
    return mask


def _naive_blur(image, sigma, reach):
    """Every pixel as the weighted mean of its neighbours, pixel by pixel in float64."""
    weights = {k: math.exp(-(k**2) / (2 * sigma**2)) for k in range(-reach, reach + 1)}
    total = sum(weights.values())
    _, height, width = image.shape
    soft = torch.zeros(image.shape, dtype=torch.float64)
    for y in range(height):
        for x in range(width):
            for dy, wy in weights.items():
                for dx, wx in weights.items():
                    row, column = min(max(y + dy, 0), height - 1), min(max(x + dx, 0), width - 1)
                    soft[:, y, x] += wy * wx / total**2 * image[:, row, column].double()
    return soft


def test_a_blurred_object_is_a_naive_blur_inside_its_box_and_the_image_outside(step, image):
    # The root of the area 6.5 * 4.2 is 5.225; of it 0.2 is 1.045, and three of these round to 3.
    expected = _naive_blur(image, 0.2 * math.sqrt(6.5 * 4.2), 3)

    found = step("spoiling").blurred(image, BOX, strength=0.2)

    inside = _inside(image)
    torch.testing.assert_close(found[:, inside].double(), expected[:, inside], rtol=0, atol=1e-5)
    assert torch.equal(found[:, ~inside], image[:, ~inside])


@pytest.mark.parametrize(("half", "first", "last"), [("left", 2, 5), ("right", 5, 8)])
def test_the_covered_half_has_the_mean_colour_and_all_else_is_as_it_was(
    step, image, half, first, last
):
    # Seven columns, 2..8: that in the middle, 5, belongs to both halves.
    expected = image.clone()
    expected[:, 3:8, first : last + 1] = image.mean((1, 2))[:, None, None]

    found = step("spoiling").half_covered(image, BOX, half)

    assert torch.equal(found, expected)


def test_a_box_beyond_the_image_is_spoiled_up_to_its_border(step, image):
    rows, columns = step("spoiling").touched_pixels(image, torch.tensor([-1.0, 9.5, 20.0, 13.0]))

    assert (rows, columns) == (slice(9, 12), slice(0, 16))


def test_a_mirrored_object_has_the_same_pixels_in_its_mirrored_box(step):
    image = torch.arange(5.0).expand(3, 2, 5)

    found, box = step("spoiling").mirrored(image, torch.tensor([1.0, 0.0, 3.0, 2.0]))

    assert found[0, 0].tolist() == [4, 3, 2, 1, 0]
    assert box.tolist() == [2, 0, 4, 2]


def test_only_smaller_reliability_counts_as_a_fall(step):
    clear, spoiled = np.array([0.9, 0.5, 0.0, 0.4]), np.array([0.8, 0.6, 0.0, 0.1])

    found = step("counting").counted(clear, spoiled, [[0], [1], [2], [3]])

    # The first and the last fall, the third is equal and cannot fall.
    assert (found["falls"], found["equal"], found["lowest"]) == (0.5, 0.25, 0.25)
    assert (found["clear"], found["spoiled"]) == pytest.approx((0.45, 0.375))


def test_the_interval_draws_whole_scenes(step):
    falls = np.array([True] * 50 + [False] * 50)

    together = step("counting").share_interval(falls, [list(range(50)), list(range(50, 100))])
    apart = step("counting").share_interval(falls, [[place] for place in range(100)])

    # Of two scenes both, one or none are drawn twice, each of these with 1/4, 1/2, 1/4.
    assert together == (0.0, 1.0)
    # Of 100 single objects the share has a standard deviation of 0.05.
    assert apart == pytest.approx((0.402, 0.598), abs=0.02)


def test_the_figure_and_tables_show_what_was_counted(step):
    one = {"falls": 0.8, "low": 0.7, "high": 0.9, "equal": 0.1, "lowest": 0.05}
    one |= {"clear": 0.75, "spoiled": 0.5}
    counted = {name: {"P3": one, "mean": one} for name in ("paper", "official")}
    document = {
        "images": 5,
        "objects": 6,
        "scenes": 4,
        "goal": 0.7,
        "cases": {"paper": {"prototypes": 7.0}, "official": {"prototypes": 8.0}},
        "shown_by_level": ["blur 0.1"],
        "falls": {"blur 0.1": counted},
        "falls_below": {"mirrored": {"blur 0.1": counted}},
    }

    lines = step("page").tables(document)
    drawn = ET.fromstring(step("page").figure(document))  # noqa: S314 - our own text

    assert "| blur 0.1 | 80 % (70 to 90) | 80 % (70 to 90) |" in lines
    assert "| mirrored | blur 0.1 | 80 % (70 to 90) | 80 % (70 to 90) |" in lines
    assert "| not | 0.750 | 0.750 |" in lines
    assert "| blur 0.1 | 0.500 | 0.500 |" in lines
    assert "| paper | blur 0.1 | 80 % (10 %) | 80 % (10 %) |" in lines
    assert "| official | 8 | 0.750 (5 %) | 0.750 (5 %) |" in lines
    circles = [part for part in drawn if part.tag.endswith("circle")]
    # One dot for each of the two losses, one for each in the legend; 300 - 30 - 60 = 210 px high.
    assert [part.get("cy") for part in circles[:2]] == ["72.0", "72.0"]
    assert len(circles) == 4

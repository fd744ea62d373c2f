"""Images with boxes drawn on them."""

import io
from pathlib import Path

from PIL import Image, ImageDraw

from distildet.classes import ClassList
from distildet.data.decode import decode_image
from distildet.structures import Detections

# Okabe and Ito's palette, told apart by colour-blind readers too.
COLOURS = ("#E69F00", "#56B4E9", "#009E73", "#F0E442", "#0072B2", "#D55E00", "#CC79A7", "#FFFFFF")


def draw_detections(path: Path, detections: Detections, classes: ClassList) -> bytes:
    """Draw boxes, class names and scores on an image.

    Args:
        path: The image file.
        detections: In the image frame.
        classes: Names of the labels.

    Returns:
        A PNG file.

    Raises:
        DataError: The file cannot be decoded.
    """
    image = Image.fromarray(decode_image(path).movedim(0, -1).numpy())  # [h w 3]
    draw = ImageDraw.Draw(image)
    width = max(1, round(max(image.size) / 300))
    for box, score, label in zip(
        detections.boxes.tolist(),
        detections.scores.tolist(),
        detections.labels.tolist(),
        strict=True,
    ):
        colour = COLOURS[label % len(COLOURS)]
        draw.rectangle(box, outline=colour, width=width)
        text = f"{classes[label]} {score:.2f}"
        place = (box[0] + width, max(0, box[1] - 12))
        draw.rectangle(draw.textbbox(place, text), fill="black")
        draw.text(place, text, fill=colour)
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()

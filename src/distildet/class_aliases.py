"""Names that mean the same class in the lists of COCO, PASCAL VOC and Open Images.

Only names of these three lists that differ by more than case, spaces and punctuation, and only true
synonyms. Not here, since a recipe has to say it (`class_map`): wider and narrower terms (man,
person), and names with a second meaning (mouse, an animal in Open Images; keyboard, an instrument).
"""

from typing import Final

SYNONYMS: Final[tuple[tuple[str, ...], ...]] = (
    ("airplane", "aeroplane"),
    ("cell phone", "mobile phone"),
    ("couch", "sofa"),
    ("cow", "cattle"),
    ("dining table", "kitchen & dining room table"),
    ("donut", "doughnut"),
    ("frisbee", "flying disc"),
    ("hair drier", "hair dryer"),
    ("microwave", "microwave oven"),
    ("motorcycle", "motorbike"),
    ("potted plant", "houseplant"),
    ("remote", "remote control"),
    ("skis", "ski"),
    ("tv", "tvmonitor", "television"),
)
"""Groups of names in lower case, no name in two of them."""

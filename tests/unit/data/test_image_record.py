from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from distildet.classes import ClassList
from distildet.data.dataset import Annotations, Dataset, Sample
from distildet.data.image_record import image_records
from distildet.errors import DataError

CLASSES = ClassList(("cat", "dog"))
DRAWN = Annotations(
    boxes=np.array([[1.0, 2.0, 4.0, 8.0]]),
    labels=np.array([1]),
    areas=np.array([12.5]),
    crowd=np.array([True]),
)


@pytest.fixture
def dataset(tmp_path) -> Dataset:
    """One annotated image 20 wide and 10 high, as EXIF turns it, and one nobody looked at."""
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by 90 degrees
    Image.new("RGB", (10, 20)).save(tmp_path / "a.jpg", exif=exif)
    return Dataset(
        samples=(
            Sample(id="sub/a.jpg", path=tmp_path / "a.jpg", annotations=DRAWN),
            Sample(id="sub/b.jpg", path=tmp_path / "b.jpg"),
        ),
        classes=CLASSES,
    )


def test_annotations_come_through_with_the_size_of_the_turned_image(dataset, tmp_path):
    (record,), classes = image_records(dataset, tmp_path)

    assert (record.name, record.size) == ("sub/a.jpg", (10, 20))
    assert record.boxes.tolist() == [[1, 2, 4, 8]]
    assert record.labels.tolist() == [1]
    assert record.areas.tolist() == [12.5]
    assert record.crowd.tolist() == [True]
    assert record.scores is None
    assert classes == CLASSES


def test_all_images_that_cannot_be_read_are_told(dataset, tmp_path):
    (tmp_path / "c.jpg").write_text("no image")
    faulty = [
        Sample(id=name, path=tmp_path / name, annotations=DRAWN) for name in ("c.jpg", "d.jpg")
    ]

    with pytest.raises(DataError, match=r"(?s)must be readable \(2\).*c\.jpg: .*d\.jpg: "):
        image_records(replace(dataset, samples=(*dataset.samples, *faulty)), tmp_path)


def test_images_without_classes_are_refused(dataset, tmp_path):
    with pytest.raises(DataError, match="have no class list"):
        image_records(replace(dataset, classes=None), tmp_path)

"""Reading of COCO files: what is sound comes through exactly, faults are told all at once."""

import json

import pytest
from PIL import Image

from distildet.data.coco import read_coco
from distildet.errors import DataError

CATEGORIES = [{"id": 7, "name": "dog"}, {"id": 3, "name": "cat"}]


def image(image_id, name="a.png", width=20, height=10):
    return {"id": image_id, "file_name": name, "width": width, "height": height}


def box(annotation_id, bbox, image_id=1, category_id=7, **fields):
    return {
        "id": annotation_id,
        "image_id": image_id,
        "category_id": category_id,
        "bbox": bbox,
        **fields,
    }


@pytest.fixture
def write(tmp_path):
    """Write a COCO file beside a folder with a.png, b.png and sub/c.png of 20x10 pixels."""
    folder = tmp_path / "images"
    (folder / "sub").mkdir(parents=True)
    for name in ("a.png", "b.png", "sub/c.png"):
        Image.new("RGB", (20, 10)).save(folder / name)

    def write_file(images=(), annotations=(), categories=CATEGORIES):
        path = tmp_path / "a.json"
        document = {"images": images, "annotations": annotations, "categories": categories}
        path.write_text(json.dumps(document, default=list))
        return folder, path

    return write_file


def test_labels_follow_the_order_of_the_category_ids(write):
    boxes = [box(1, [1, 2, 3, 4]), box(2, [1, 2, 3, 4], category_id=3)]

    dataset = read_coco(*write([image(1)], boxes))

    assert dataset.classes.names == ("cat", "dog")
    assert dataset.samples[0].annotations.labels.tolist() == [1, 0]


def test_boxes_become_corners(write):
    dataset = read_coco(*write([image(1)], [box(1, [1, 2, 3, 4.5])]))

    assert dataset.samples[0].annotations.boxes.tolist() == [[1, 2, 4, 6.5]]
    assert dataset.samples[0].annotations.crowd.tolist() == [False]
    assert dataset.dropped == ()


def test_boxes_are_clipped_to_the_image(write):
    dataset = read_coco(*write([image(1)], [box(1, [-5, 2, 100, 100])]))

    assert dataset.samples[0].annotations.boxes.tolist() == [[0, 2, 20, 10]]


@pytest.mark.parametrize(
    ("fields", "expected"),
    [({"area": 5.5}, 5.5), ({}, 12.0), ({"area": 0}, 12.0), ({"area": None}, 12.0)],
)
def test_the_area_is_that_of_the_file_or_else_of_the_box(write, fields, expected):
    dataset = read_coco(*write([image(1)], [box(1, [1, 2, 3, 4], **fields)]))

    assert dataset.samples[0].annotations.areas.tolist() == [expected]


def test_crowds_are_kept_as_such(write):
    dataset = read_coco(*write([image(1)], [box(1, [1, 2, 3, 4], iscrowd=1)]))

    assert dataset.samples[0].annotations.crowd.tolist() == [True]


def test_an_image_without_annotations_is_background(write):
    dataset = read_coco(*write([image(1), image(2, "b.png")], [box(1, [1, 2, 3, 4])]))

    assert dataset.samples[1].annotations.boxes.shape == (0, 4)


DEGENERATE = [
    [1, 2, 0, 4],
    [1, 2, 3, -4],
    [20, 2, 3, 4],
    [1, -9, 3, 4],
    [1, 2, 1e-9, 4],
    [10**400, 2, 3, 4],
]


@pytest.mark.parametrize("bbox", DEGENERATE)
def test_a_box_without_area_in_the_image_is_left_out_and_noted(write, bbox):
    dataset = read_coco(*write([image(1)], [box(31, bbox), box(32, [1, 2, 3, 4])]))

    assert len(dataset.samples[0].annotations.boxes) == 1
    assert len(dataset.dropped) == 1
    assert "a.json: annotation 31 (image 'a.png'): bbox" in dataset.dropped[0]


@pytest.mark.parametrize("bbox", DEGENERATE)
def test_strict_reading_refuses_what_would_be_left_out(write, bbox):
    with pytest.raises(DataError, match=r"boxes must have an area.*annotation 31"):
        read_coco(*write([image(1)], [box(31, bbox)]), strict=True)


def test_the_sample_id_is_relative_to_the_root(write):
    folder, path = write([image(1, "sub/c.png")])

    assert read_coco(folder, path).samples[0].id == "sub/c.png"
    assert read_coco(folder, path, root=folder.parent).samples[0].id == "images/sub/c.png"


def test_a_root_elsewhere_is_refused(write):
    folder, path = write([image(1)])

    with pytest.raises(DataError, match="is not below the root"):
        read_coco(folder, path, root=folder / "sub")


def test_a_list_restricts_the_images(write, tmp_path):
    (tmp_path / "list.txt").write_text("./sub/c.png\n\nb.png\n")
    folder, path = write([image(1), image(2, "b.png"), image(3, "sub/c.png")])

    dataset = read_coco(folder, path, listed=tmp_path / "list.txt")

    assert [sample.id for sample in dataset.samples] == ["b.png", "sub/c.png"]


def test_listed_images_without_a_record_are_named(write, tmp_path):
    (tmp_path / "list.txt").write_text("a.png\nx.png\n")

    with pytest.raises(DataError, match=r"must have a record, but are missing \(1\): 'x\.png'"):
        read_coco(*write([image(1)]), listed=tmp_path / "list.txt")


@pytest.mark.parametrize(
    ("images", "annotations", "message"),
    [
        ([image(1), image(1, "b.png")], [], r"images: 'id' must be unique.*\(1\): 1"),
        ([image(1), image(2)], [], r"'file_name' must be unique.*'a\.png'"),
        ([image("1")], [], r"images: 'id' must be an integer \(1\): found '1'"),
        ([image(1, "gone.png")], [], r"missing \(1\): 'gone\.png'"),
        ([image(1, "sub")], [], r"missing \(1\): 'sub'"),
        ([image(1, "/etc/passwd")], [], r"relative to the folder.*'/etc/passwd'"),
        ([image(1, 5)], [], r"relative to the folder.*image 1 has 5"),
        ([image(1, width=0)], [], r"whole numbers above 0.*image 1 has \(10, 0\)"),
        ([image(1, width=None)], [], r"whole numbers above 0.*\(10, None\)"),
        ([image(1, width=10, height=20)], [], r"as stored.*is 20x10, stated 10x20"),
        ([image(1)], [box(1, [1, 2, 3, 4])] * 2, r"annotations: 'id' must be unique"),
        ([image(1)], [box(True, [1, 2, 3, 4])], r"'id' must be an integer \(1\): found True"),
        ([image(1)], [box(5, [1, 2, 3, 4], image_id=9)], r"id of an image.*annotation 5 has 9"),
        ([image(1)], [box(5, [1, 2, 3, 4], image_id=[1])], r"id of an image.*5 has \[1\]"),
        ([image(1)], [box(5, [1, 2, 3, 4], category_id=9)], r"id of a category.*5 has 9"),
        ([image(1)], [box(5, [1, 2, 3])], r"four numbers.*annotation 5 has \[1, 2, 3\]"),
        ([image(1)], [box(5, [1, 2, 3, "4"])], r"four numbers.*annotation 5"),
        ([image(1)], [box(5, None)], r"four numbers.*annotation 5 has None"),
        ([], [], r"'images' is an empty list"),
        ([3], [], r"images\[0\] is 3, not an object"),
    ],
)
def test_faulty_records_are_refused(write, images, annotations, message):
    with pytest.raises(DataError, match=rf"(?s)a\.json: .*{message}"):
        read_coco(*write(images, annotations))


@pytest.mark.parametrize(
    ("categories", "message"),
    [
        ([], "'categories' is an empty list"),
        ([{"id": "1", "name": "cat"}], r"categories: 'id' must be an integer.*found '1'"),
        ([{"id": 1, "name": "cat"}] * 2, r"categories: 'id' must be unique.*1"),
        ([{"id": 1, "name": "x"}, {"id": 2, "name": "x"}], r"'name' must be unique.*'x'"),
        ([{"id": 1}], r"must be a text that is not empty.*category 1 has None"),
        ([{"id": 1, "name": " "}], r"must be a text that is not empty.*category 1 has ' '"),
    ],
)
def test_faulty_categories_are_refused(write, categories, message):
    with pytest.raises(DataError, match=message):
        read_coco(*write([image(1)], [], categories))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[]", "found a list at the top level"),
        ("{}", "'images' is missing"),
        ('{"images": 3}', "'images' is not a list"),
    ],
)
def test_other_json_is_refused(tmp_path, text, message):
    (tmp_path / "a.json").write_text(text)

    with pytest.raises(DataError, match=rf"a\.json: {message}"):
        read_coco(tmp_path, tmp_path / "a.json")


def test_all_faults_are_told_at_once_with_five_examples_each(write):
    images = [image(i, f"gone{i}.png") for i in range(1, 8)]

    with pytest.raises(DataError) as caught:
        read_coco(*write(images, [box(1, [0]), box(2, [1, 2, 3, 4], category_id=99)]))

    assert "missing (7): 'gone1.png'; 'gone2.png'; 'gone3.png'; 'gone4.png'; 'gone5.png' ..." in (
        str(caught.value)
    )
    assert "four numbers" in str(caught.value)
    assert "id of a category" in str(caught.value)


def test_annotations_of_a_faulty_image_are_not_told_as_another_fault(write):
    with pytest.raises(DataError) as caught:
        read_coco(*write([image(1, "../a.png")], [box(1, [1, 2, 3, 4])]))

    assert "id of an image" not in str(caught.value)


def test_a_missing_folder_is_named(write, tmp_path):
    _, path = write([image(1)])

    with pytest.raises(DataError, match=r"nowhere: the folder of images does not exist"):
        read_coco(tmp_path / "nowhere", path)


def test_a_file_in_place_of_the_folder_is_refused(write):
    _, path = write([image(1)])

    with pytest.raises(DataError, match=r"a\.json: the folder of images is not a folder"):
        read_coco(path, path)


@pytest.mark.shared
@pytest.mark.parametrize(
    ("images", "annotations", "num_images", "num_boxes"),
    [
        ("fod/images", "fod/bright_train.json", 1177, 1232),
        ("voc/images", "voc/val.json", 600, 1760),
    ],
)
def test_real_data_sets_come_through_whole(shared_data, images, annotations, num_images, num_boxes):
    dataset = read_coco(shared_data / images, shared_data / annotations, strict=True)

    assert len(dataset) == num_images
    assert sum(len(sample.annotations.boxes) for sample in dataset.samples) == num_boxes

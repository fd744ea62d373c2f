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


@pytest.mark.parametrize(
    ("written", "crowd"), [(0, False), (1, True), (False, False), (True, True)]
)
def test_crowds_are_kept_as_such(write, written, crowd):
    dataset = read_coco(*write([image(1)], [box(1, [1, 2, 3, 4], iscrowd=written)]))

    assert dataset.samples[0].annotations.crowd.tolist() == [crowd]


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
        (
            [image(1), image(1, "b.png")],
            [],
            r"images: 'id' must be unique.*; give each record an id of its own, .*\(1\): 1",
        ),
        (
            [image(1), image(2)],
            [],
            r"'file_name' must be unique.*; keep one record of each .*'a\.png'",
        ),
        ([image("1")], [], r"images: 'id' must be an integer \(1\): found '1'"),
        ([image(1, "gone.png")], [], r"missing \(1\): 'gone\.png'"),
        ([image(1, "sub")], [], r"missing \(1\): 'sub'"),
        ([image(1, "/etc/passwd")], [], r"relative to the folder.*'/etc/passwd'"),
        ([image(1, 5)], [], r"relative to the folder.*image 1 has 5"),
        ([image(1, width=0)], [], r"whole numbers above 0.*image 1 has \(10, 0\)"),
        ([image(1, width=None)], [], r"whole numbers above 0.*\(10, None\)"),
        ([image(1, width=10**400)], [], r"whole numbers above 0.*image 1 has \(10, 1000"),
        ([image(1, width=10, height=20)], [], r"as stored.*is 20x10, stated 10x20"),
        ([image(1)], [box(1, [1, 2, 3, 4])] * 2, r"annotations: 'id' must be unique"),
        ([image(1)], [box(True, [1, 2, 3, 4])], r"'id' must be an integer \(1\): found True"),
        ([image(1)], [box(5, [1, 2, 3, 4], image_id=9)], r"id of an image.*annotation 5 has 9"),
        ([image(1)], [box(5, [1, 2, 3, 4], image_id=[1])], r"id of an image.*5 has \[1\]"),
        ([image(1)], [box(5, [1, 2, 3, 4], category_id=9)], r"id of a category.*5 has 9"),
        (
            [image(1)],
            [box(5, [1, 2, 3, 4], category_id=True)],
            r"id of a category.*5 has True",
        ),
        ([image(1)], [box(5, [1, 2, 3, 4], iscrowd="0")], r"must be 0 or 1.*annotation 5 has '0'"),
        ([image(1)], [box(5, [1, 2, 3, 4], iscrowd=2)], r"must be 0 or 1.*annotation 5 has 2"),
        ([image(1)], [box(5, [1, 2, 3, 4], iscrowd=[])], r"must be 0 or 1.*annotation 5 has \[\]"),
        ([image(1)], [box(5, [1, 2, 3, 4], iscrowd=None)], r"must be 0 or 1.* 5 has None"),
        ([image(1)], [box(5, [1, 2, 3])], r"four numbers.*annotation 5 has \[1, 2, 3\]"),
        ([image(1)], [box(5, [1, 2, 3, "4"])], r"four numbers.*annotation 5"),
        ([image(1)], [box(5, None)], r"four numbers.*annotation 5 has None"),
        ([], [], r"'images' is an empty list"),
        ([3], [], r"images\[0\] is 3, not an object"),
    ],
)
def test_faulty_records_are_refused(write, images, annotations, message):
    with pytest.raises(DataError, match=rf"(?s)a\.json: .*{message}"):
        read_coco(*write(images, annotations, [*CATEGORIES, {"id": 1, "name": "owl"}]))


@pytest.mark.parametrize(
    ("categories", "message"),
    [
        ([], "'categories' is an empty list"),
        ([{"id": "1", "name": "cat"}], r"categories: 'id' must be an integer.*found '1'"),
        ([{"id": 1, "name": "cat"}] * 2, r"categories: 'id' must be unique.*1"),
        (
            [{"id": 1, "name": "x"}, {"id": 2, "name": "x"}],
            r"'name' must be unique.*; rename one, .*'x'",
        ),
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


SQUARE = [[2, 3, 6, 3, 6, 8, 2, 8]]


@pytest.mark.parametrize("missing", [{}, {"bbox": None}, {"bbox": []}])
@pytest.mark.parametrize(
    ("polygons", "expected"),
    [
        (SQUARE, [2, 3, 6, 8]),
        ([[1, 1, 2, 1, 2, 2.5], [9, 4, 12, 4, 10, 7]], [1, 1, 12, 7]),
        ([[-3, 3, 6, 3, 30, 8]], [0, 3, 20, 8]),
    ],
    ids=["one", "two parts", "clipped"],
)
def test_without_a_bbox_the_box_encloses_the_polygons(write, missing, polygons, expected):
    record = box(1, None, segmentation=polygons)
    del record["bbox"]

    dataset = read_coco(*write([image(1)], [{**record, **missing}]))

    assert dataset.samples[0].annotations.boxes.tolist() == [expected]


def test_a_bbox_counts_more_than_polygons(write):
    dataset = read_coco(*write([image(1)], [box(1, [1, 2, 3, 4], segmentation=SQUARE)]))

    assert dataset.samples[0].annotations.boxes.tolist() == [[1, 2, 4, 6]]


def test_polygons_without_area_are_left_out_and_noted(write):
    dataset = read_coco(*write([image(1)], [box(7, None, segmentation=[[2, 3, 2, 4, 2, 8]])]))

    assert "annotation 7 (image 'a.png'): the box [2.0, 3.0, 0.0, 5.0] of its" in dataset.dropped[0]


@pytest.mark.parametrize(
    ("segmentation", "message"),
    [
        (
            {"counts": "abc", "size": [10, 20]},
            r"beside a mask in run-length.*toBbox \(1\): ann.* 5",
        ),
        ([[1, 2, 3, 4]], r"at least three points.*annotation 5 has \[\[1, 2, 3, 4\]\]"),
        ([[1, 2, 3, 4, 5, 6, 7]], "at least three points"),
        ([[1, 2, 3, 4, 5, "6"]], "at least three points"),
        ([1, 2, 3, 4, 5, 6], "at least three points"),
        ("square", "at least three points"),
    ],
)
def test_masks_that_no_box_is_made_of_are_refused(write, segmentation, message):
    with pytest.raises(DataError, match=message):
        read_coco(*write([image(1)], [box(5, None, segmentation=segmentation)]))


NORMALISED = [[0.1, 0.2, 0.5, 0.25], [0, 0, 1, 1], [0.5, 0.5, 0.6, 0.1], [0.9, 0.1, 0.1, 0.1]]


@pytest.fixture
def write_large(tmp_path, write):
    """Write boxes of one image of 640x480 pixels."""
    Image.new("RGB", (640, 480)).save(tmp_path / "images" / "large.png")

    def write_file(boxes):
        annotations = [box(10 + i, bbox) for i, bbox in enumerate(boxes)]
        return write([image(1, "large.png", 640, 480)], annotations)

    return write_file


def test_boxes_in_shares_of_the_image_are_refused_with_three_examples(write_large):
    with pytest.raises(DataError) as caught:
        read_coco(*write_large(NORMALISED))

    assert "a.json: annotations: 'bbox' must be in pixels" in str(caught.value)
    assert (
        "(1): 4 of 4 boxes, such as annotation 10 has [0.1, 0.2, 0.5, 0.25] in 'large.png' of "
        "640x480 pixels, annotation 11 has " in str(caught.value)
    )
    assert "annotation 12" in str(caught.value)
    assert "annotation 13" not in str(caught.value)


@pytest.mark.parametrize("boxes", [NORMALISED[:2], [*NORMALISED, [100, 100, 50, 50]]])
def test_few_tiny_boxes_are_no_sign_of_another_convention(write_large, boxes):
    assert len(read_coco(*write_large(boxes)).samples) == 1


def test_tiny_boxes_in_tiny_images_are_in_pixels(write):
    boxes = [box(i, [1, 1, 1, 1]) for i in range(4)]

    assert len(read_coco(*write([image(1)], boxes)).samples[0].annotations.boxes) == 4


CORNERS = [[400, 300, 640, 480], [300, 20, 400, 90], [10, 300, 90, 400], [5, 6, 7, 8]]


def test_corners_in_place_of_sizes_are_refused_with_three_examples(write_large):
    # 400 + 640 > 640, 300 + 400 > 640, 300 + 400 > 480; the fourth fits both ways.
    with pytest.raises(DataError, match=r"corners x1 y1 x2 y2.*\(1\): 3 of 4 boxes, such as ann"):
        read_coco(*write_large(CORNERS))


@pytest.mark.parametrize(
    "boxes",
    [
        CORNERS[:2],
        [*CORNERS[:3], [5, 6, 7, 8], [1, 2, 9, 9], [3, 4, 50, 60]],
        [*CORNERS[:3], [400, 300, 100, 100]],
        [[0, 0, 640, 480], [0, 0, 320, 480], [100, 0, 540, 480]],
    ],
    ids=["few", "half of them fit", "one is no corners", "all fit"],
)
def test_other_boxes_that_leave_their_image_are_clipped(write_large, boxes):
    dataset = read_coco(*write_large(boxes))

    assert len(dataset.samples[0].annotations.boxes) == len(boxes)


def test_images_of_several_frames_are_noted(tmp_path, write):
    frames = [Image.new("RGB", (20, 10), colour) for colour in ("red", "lime")]
    frames[0].save(tmp_path / "images" / "a.gif", save_all=True, append_images=frames[1:])

    dataset = read_coco(*write([image(1, "a.gif")]))

    assert dataset.notes == (
        f"{tmp_path / 'a.json'}: all frames or pages but the first of 1 images: 'a.gif'",
    )


def test_damaged_images_are_told_with_the_others(write, tmp_path):
    folder, path = write([image(1), image(2, "b.png", width=30)])
    (folder / "a.png").write_bytes(b"")

    with pytest.raises(
        DataError, match=r"(?s)must be readable.*a\.png: the file is empty.*'b\.png'"
    ):
        read_coco(folder, path)


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

"""Reading of YOLO labels: rows become boxes in pixels, bad rows are named and left out alone."""

from pathlib import Path

import pytest
from PIL import Image

from distildet.data.yolo import label_path, read_yolo
from distildet.errors import DataError

NAMES = "names: [cat, dog]\n"
ROW = "1 0.25 0.5 0.1 0.4"


@pytest.fixture
def yolo(tmp_path):
    """Give a function that writes label files beside images of 20x10 pixels and a data.yaml."""
    images = tmp_path / "data" / "images"
    for name in ("a.png", "b.JPG", "sub/c.png"):
        (images / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (20, 10)).save(images / name)

    def write(names=NAMES, **text_by_stem):
        for stem, text in text_by_stem.items():
            path = tmp_path / "data" / "labels" / f"{stem.replace('__', '/')}.txt"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(text.encode() if isinstance(text, str) else text)
        (tmp_path / "data" / "data.yaml").write_text(names)
        return images, tmp_path / "data" / "data.yaml"

    return write


def test_rows_become_corners_in_pixels(yolo):
    dataset = read_yolo(*yolo(a=f"{ROW}\n0 0.5 0.5 1 1\n"))

    annotations = dataset.samples[0].annotations
    # Centre (5, 5), 2 wide and 4 high; the whole image.
    assert annotations.boxes.tolist() == [[4, 3, 6, 7], [0, 0, 20, 10]]
    assert annotations.areas.tolist() == [8, 200]
    assert annotations.labels.tolist() == [1, 0]
    assert annotations.crowd.tolist() == [False, False]


def test_a_polygon_becomes_the_box_around_it(yolo):
    dataset = read_yolo(*yolo(a="0 0.1 0.2 0.5 0.9 0.3 0.4"))

    assert dataset.samples[0].annotations.boxes.tolist() == [[2, 2, 10, 9]]


@pytest.mark.parametrize(
    "text", [f"{ROW}\r\n", f"\n  {ROW}  \n\n", f"\ufeff{ROW}", ROW.replace(" ", "\t")]
)
def test_spaces_empty_lines_and_a_byte_order_mark_are_passed_over(yolo, text):
    dataset = read_yolo(*yolo(a=text, b="", sub__c=""))

    assert dataset.samples[0].annotations.boxes.tolist() == [[4, 3, 6, 7]]
    assert dataset.dropped == ()


def test_an_empty_label_file_is_background_and_a_missing_one_is_not(yolo):
    dataset = read_yolo(*yolo(a=ROW, b=""))

    assert [sample.id for sample in dataset.samples] == ["a.png", "b.JPG"]
    assert dataset.samples[1].annotations.boxes.shape == (0, 4)
    assert len(dataset.dropped) == 1
    assert dataset.dropped[0].endswith(
        "data.yaml: 1 images without a label file, which are unlabeled, not background: 'sub/c.png'"
    )


def test_many_unlabeled_images_take_one_line(yolo):
    images, annotations = yolo(a=ROW)
    [(images / f"{number}.png").write_bytes(b"") for number in range(5)]

    dataset = read_yolo(images, annotations)

    assert "7 images" in dataset.dropped[0]
    assert dataset.dropped[0].endswith("'0.png', '1.png', '2.png', '3.png', '4.png', ...")


@pytest.mark.parametrize(
    ("image", "label"),
    [
        ("/d/images/train/a.jpg", "/d/labels/train/a.txt"),
        ("/d/train/images/a.b.JPG", "/d/train/labels/a.b.txt"),
        ("/images/x/images/a.jpg", "/images/x/labels/a.txt"),
        ("/d/photos/a.jpg", "/d/photos/a.txt"),
        ("/d/photos/images", "/d/photos/images.txt"),
        ("/d/Images/a.jpg", "/d/Images/a.txt"),
    ],
)
def test_the_last_folder_images_becomes_labels(image, label):
    assert label_path(Path(image)) == Path(label)


def test_a_relative_path_counts_from_the_working_folder(tmp_path, monkeypatch):
    (tmp_path / "images").mkdir()
    monkeypatch.chdir(tmp_path / "images")

    assert label_path(Path("a.jpg")) == tmp_path / "labels" / "a.txt"


def test_sample_ids_are_relative_to_the_root(yolo, tmp_path):
    dataset = read_yolo(*yolo(sub__c=ROW), root=tmp_path)

    assert [sample.id for sample in dataset.samples] == ["data/images/sub/c.png"]


def test_a_list_gives_images_and_order(yolo, tmp_path):
    (tmp_path / "list.txt").write_text("./sub/c.png\na.png\n")

    dataset = read_yolo(*yolo(a=ROW, b=ROW, sub__c=""), listed=tmp_path / "list.txt")

    assert [sample.id for sample in dataset.samples] == ["sub/c.png", "a.png"]


@pytest.mark.parametrize(
    "names",
    [
        "names: [cat, dog]",
        "names: {0: cat, 1: dog}",
        "names:\n  1: dog\n  0: cat\nnc: 2\n",
        "path: ../x\ntrain: /etc\ndownload: https://x\nnames: [cat, dog]",
    ],
)
def test_class_names_are_read_and_other_keys_passed_over(yolo, names):
    dataset = read_yolo(*yolo(names, a=ROW))

    assert dataset.classes.names == ("cat", "dog")


def test_class_names_stay_texts(yolo):
    dataset = read_yolo(*yolo("names: [no, null, 12:30]", a=ROW))

    assert dataset.classes.names == ("no", "null", "12:30")


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ("nc: 2", r"'names' must be a list .* found None"),
        ("names: []", r"'names' must be a list .* found \[\]"),
        ("names: cat", r"'names' must be a list .* found 'cat'"),
        ("names: [cat, '']", r"'names' must be a list .* found \['cat', ''\]"),
        ("names: [cat, [dog]]", r"'names' must be a list "),
        ("names: [[cat], [cat]]", r"'names' must be a list .* found \[\['cat'\], \['cat'\]\]"),
        ("names: {1: cat, 2: dog}", r"'names' must be .* from 0, 1, .* found \{'1': 'cat'"),
        ("names: {0: cat, 2: dog}", r"'names' must be .* from 0, 1"),
        ("names: {0: cat, 00: dog}", r"'names' must be .* from 0, 1"),
        ("names: {cat: 0}", r"'names' must be .* from 0, 1"),
        ("names: [cat, cat]", r"'names' must be unique, .* \(1\): 'cat'"),
        ("nc: 3\nnames: [cat, dog]", r"'nc' must be the number .* found '3' and 2 names"),
        ("names: [cat]\nkpt_shape: [4, 3]", r"key points are not read; .*\['4', '3'\]"),
        ("[cat, dog]", r"this is no data\.yaml"),
        ("names: *x", r":1:8: the alias \*x is refused"),
    ],
)
def test_names_that_cannot_be_used_are_refused(yolo, names, message):
    with pytest.raises(DataError, match=rf"data\.yaml.*{message}"):
        read_yolo(*yolo(names, a=ROW))


BAD_ROWS = [
    ("1 0.25 0.5 0.1", "4 columns; accepted are 5"),
    ("1", "1 columns; accepted are 5"),
    ("1 0.25 0.5 0.1 0.4 0.97", "6 columns; the last may be a confidence"),
    ("1 0.1 0.1 0.2 0.2 0.3 0.3 0.4", "8 columns; accepted are 5"),
    ("-1 0.25 0.5 0.1 0.4", "class '-1'; accepted are 0..1"),
    ("2 0.25 0.5 0.1 0.4", "class '2'; accepted are 0..1"),
    ("0.5 0.25 0.5 0.1 0.4", "class '0.5'; accepted are 0..1"),
    ("dog 0.25 0.5 0.1 0.4", "class 'dog'; accepted are 0..1"),
    ("nan 0.25 0.5 0.1 0.4", "class 'nan'; accepted are 0..1"),
    ("1 0,25 0,5 0,1 0,4", "'0,25' is no number; accepted are digits with a decimal point"),
    ("1 0.25 nan 0.1 0.4", "a number is not finite"),
    ("1 0.25 0.5 inf 0.4", "a number is not finite"),
    ("1 0.25 0.5 0 0.4", "no area inside the image of 20x10 pixels"),
    ("1 0.25 0.5 0.1 -0.4", "no area inside the image of 20x10 pixels"),
    ("1 1.25 0.5 0.1 0.4", "no area inside the image of 20x10 pixels"),
    (
        "1 1.75 0.5 1.9 0.4",
        "has '1 1.75 0.5 1.9 0.4': far beyond 1, but fractions of the image are accepted",
    ),
]


@pytest.mark.parametrize(("row", "reason"), BAD_ROWS)
def test_only_the_row_that_cannot_be_used_is_left_out_and_named(yolo, row, reason):
    dataset = read_yolo(*yolo(a=f"{ROW}\n\n{row}\n0 0.5 0.5 1 1", b="", sub__c=""))

    assert dataset.samples[0].annotations.labels.tolist() == [1, 0]
    assert len(dataset.dropped) == 1
    assert "labels/a.txt:3" in dataset.dropped[0]
    assert reason in dataset.dropped[0]


@pytest.mark.parametrize(("row", "reason"), BAD_ROWS)
def test_strict_reading_refuses_what_would_be_left_out(yolo, row, reason):
    with pytest.raises(DataError, match=r"records must be usable.*a\.txt:2") as caught:
        read_yolo(*yolo(a=f"{ROW}\n{row}\n0 0.5 0.5 1 1"), strict=True)

    assert reason in str(caught.value)


def test_boxes_slightly_outside_are_clipped(yolo):
    dataset = read_yolo(*yolo(a="1 0.95 0.5 0.2 1.2", b="", sub__c=""))

    assert dataset.samples[0].annotations.boxes[0].tolist() == pytest.approx([17, 0, 20, 10])
    assert dataset.dropped == ()


def test_rows_that_stand_in_a_file_twice_count_once(yolo):
    dataset = read_yolo(*yolo(a=f"{ROW}\n{ROW}0\n0{ROW[1:]}\n{ROW}", b=ROW, sub__c=""))

    assert [len(sample.annotations.boxes) for sample in dataset.samples] == [2, 1, 0]
    assert len(dataset.dropped) == 1
    assert dataset.dropped[0].startswith("2 rows that stand in their file already: ")
    assert "a.txt:2, " in dataset.dropped[0]
    assert dataset.dropped[0].endswith("a.txt:4")


def test_rows_that_look_like_pixels_are_one_fault_with_three_examples(yolo):
    pixels = "".join(f"0 5 5 {side} 4\n" for side in (2, 3, 4, 6))

    with pytest.raises(DataError) as caught:
        read_yolo(*yolo(a=f"{ROW}\n{pixels}", b="0 1 2\n"))

    message = str(caught.value)
    assert "these look like pixels, since 4 of 5 rows have a number above 2" in message
    assert "a.txt:2 has '0 5 5 2 4'; " in message
    assert message.count("a.txt:") == 3


def rows_across(count):
    """Return this many rows of boxes that differ, all of them usable."""
    return "".join(f"0 0.5 0.5 {number / 100} 0.5\n" for number in range(1, count + 1))


def test_a_tenth_of_the_rows_in_pixels_is_a_fault_also_beside_good_files(yolo):
    with pytest.raises(DataError, match=r"since 1 of 10 rows have a number above 2; .*b\.txt:1"):
        read_yolo(*yolo(a=rows_across(9), b="1 5 5 2 4"))


def test_fewer_rows_in_pixels_than_a_tenth_are_left_out_and_named(yolo):
    dataset = read_yolo(*yolo(a=rows_across(10), b=f"1 5 5 2 4\n{ROW}", sub__c=""))

    assert [len(sample.annotations.boxes) for sample in dataset.samples] == [10, 1, 0]
    assert len(dataset.dropped) == 1
    assert "b.txt:1 has '1 5 5 2 4': far beyond 1, but fractions" in dataset.dropped[0]


@pytest.mark.parametrize(("row", "reason"), BAD_ROWS)
def test_an_image_without_a_usable_row_is_not_labeled(yolo, row, reason):
    dataset = read_yolo(*yolo(a=ROW, b=row, sub__c=""))

    assert [sample.id for sample in dataset.samples] == ["a.png", "sub/c.png"]
    assert (
        "labels/b.txt: none of its 1 rows can be used, so 'b.JPG' is left out as not labeled; "
        "line 1"
    ) in dataset.dropped[-1]
    assert reason in dataset.dropped[-1]


def test_rows_without_area_alone_are_no_labels(yolo):
    with pytest.raises(DataError, match=r"no row can be used; .*\(1\): .*a\.txt:1: no area inside"):
        read_yolo(*yolo(a="0 0.5 0.5 0 0.5", b=""))


def test_labels_without_a_single_usable_row_are_refused(yolo):
    with pytest.raises(DataError, match=r"no row can be used.*\(2\): .*a\.txt:1: 6 columns"):
        read_yolo(*yolo(a=f"{ROW} 0.9", b=f"{ROW} 0.8"))


def test_label_files_that_are_no_text_are_refused(yolo):
    with pytest.raises(DataError, match=r"must be UTF-8 text \(1\): .*a\.txt: byte 0 is not"):
        read_yolo(*yolo(a=b"\xff\xfe1", b=ROW))


def test_label_files_that_cannot_be_read_are_named(yolo, tmp_path):
    images, annotations = yolo(b=ROW)
    # A regular file that gives an error when it is read.
    (tmp_path / "data" / "labels" / "a.txt").symlink_to("/proc/self/mem")

    with pytest.raises(DataError, match=r"must be readable; check their rights .*a\.txt: Input"):
        read_yolo(images, annotations)


def test_images_that_cannot_be_read_are_named_together(yolo):
    images, annotations = yolo(a=ROW, b=ROW, sub__c=ROW)
    (images / "a.png").write_bytes(b"")
    (images / "b.JPG").write_bytes(b"<html>")

    with pytest.raises(DataError, match=r"images must be readable \(2\): .*a\.png.*b\.JPG"):
        read_yolo(images, annotations)


def test_images_that_would_share_a_label_file_are_refused(yolo):
    images, annotations = yolo(a=ROW)
    Image.new("RGB", (20, 10)).save(images / "a.bmp")

    with pytest.raises(DataError, match=r"differ in more than their suffix.*'a\.bmp', 'a\.png'"):
        read_yolo(images, annotations)


def test_without_any_label_file_there_is_no_dataset(yolo):
    with pytest.raises(DataError, match=r"3 images without a label file.*there is no .*labels/a\."):
        read_yolo(*yolo())


@pytest.mark.parametrize("name", ["labels.JSON", "a.xml", "labels"])
def test_annotations_of_another_format_are_told_from_a_data_yaml(yolo, tmp_path, name):
    images, _ = yolo(a=ROW)

    with pytest.raises(DataError, match=rf"{name}: .* are a data\.yaml .* coco for JSON, voc for"):
        read_yolo(images, tmp_path / "data" / name)


def test_a_missing_data_yaml_is_named(yolo, tmp_path):
    images, _ = yolo(a=ROW)

    with pytest.raises(DataError, match=r"gone\.yaml: the file cannot be read \(No such file"):
        read_yolo(images, tmp_path / "gone.yaml")

"""Reading of PASCAL VOC folders: what is sound comes through exactly, faults are told at once."""

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from distildet.data.voc import read_voc
from distildet.errors import DataError

SIZE = "<size><width>20</width><height>10</height><depth>3</depth></size>"
BOX = "<xmin>1</xmin><ymin>2</ymin><xmax>4</xmax><ymax>6.5</ymax>"


def thing(name="dog", box=BOX, more=""):
    return f"<object><name>{name}</name>{more}<bndbox>{box}</bndbox></object>"


def edges(xmin, ymin, xmax, ymax):
    return f"<xmin>{xmin}</xmin><ymin>{ymin}</ymin><xmax>{xmax}</xmax><ymax>{ymax}</ymax>"


def xml(*objects, size=SIZE):
    return f"<annotation>{size}{''.join(objects)}</annotation>"


@pytest.fixture
def voc(tmp_path):
    """Give a function that writes XML files beside a.png, b.JPG and sub/c.png of 20x10 pixels."""
    images, annotations = tmp_path / "JPEGImages", tmp_path / "Annotations"
    for name in ("a.png", "b.JPG", "sub/c.png"):
        (images / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (20, 10)).save(images / name)

    def write(**text_by_stem):
        for stem, text in text_by_stem.items():
            path = annotations / f"{stem.replace('__', '/')}.xml"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(text.encode() if isinstance(text, str) else text)
        return images, annotations

    return write


def test_edges_are_taken_as_written(voc):
    dataset = read_voc(*voc(a=xml(thing())))

    annotations = dataset.samples[0].annotations
    assert annotations.boxes.tolist() == [[1, 2, 4, 6.5]]
    assert annotations.areas.tolist() == [13.5]  # 3 * 4.5
    assert annotations.labels.tolist() == [0]


def test_an_image_and_its_file_have_the_same_name_without_suffix(voc):
    dataset = read_voc(*voc(sub__c=xml(), b=xml(), a=xml(thing())))

    assert [sample.id for sample in dataset.samples] == ["a.png", "b.JPG", "sub/c.png"]
    assert dataset.dropped == ()


def test_what_a_file_says_about_names_and_folders_is_not_followed(voc):
    head = "<folder>/etc</folder><filename>passwd</filename><path>/etc/passwd</path>"

    dataset = read_voc(*voc(a=xml(thing(), size=head + SIZE)))

    assert [sample.id for sample in dataset.samples] == ["a.png"]


def test_sample_ids_are_relative_to_the_root(voc, tmp_path):
    dataset = read_voc(*voc(a=xml(thing())), root=tmp_path)

    assert [sample.id for sample in dataset.samples] == ["JPEGImages/a.png"]


def test_a_file_without_objects_is_background(voc):
    dataset = read_voc(*voc(a=xml(thing()), b=xml()))

    assert dataset.samples[1].annotations.boxes.shape == (0, 4)


def test_an_image_without_file_is_unlabeled_and_left_out(voc):
    dataset = read_voc(*voc(a=xml(thing())))

    assert len(dataset) == 1
    assert len(dataset.dropped) == 1
    assert dataset.dropped[0].endswith(
        "Annotations: 2 images without an XML file of the same name, which are unlabeled, not "
        "background: 'b.JPG', 'sub/c.png'"
    )


def test_class_names_of_all_files_of_the_folder_count_sorted(voc, tmp_path):
    (tmp_path / "list.txt").write_text("a\n")
    folders = voc(a=xml(thing("dog")), b=xml(thing("cat"), thing("Zebra")))

    dataset = read_voc(*folders, listed=tmp_path / "list.txt")

    assert dataset.classes.names == ("Zebra", "cat", "dog")
    assert dataset.samples[0].annotations.labels.tolist() == [2]


@pytest.mark.parametrize(
    ("difficult", "crowd"),
    [("", False), ("<difficult>0</difficult>", False), ("<difficult> 1 </difficult>", True),
     ("<difficult/>", False), ("<difficult>True</difficult>", True)],
)  # fmt: skip
def test_difficult_objects_are_crowd_regions(voc, difficult, crowd):
    dataset = read_voc(*voc(a=xml(thing(more=difficult))))

    assert dataset.samples[0].annotations.crowd.tolist() == [crowd]


def test_parts_and_polygons_of_an_object_are_passed_over(voc):
    part = f"<part><name>head</name><bndbox>{edges(0, 0, 1, 1)}</bndbox></part>"
    polygon = "<polygon><x1>1</x1><y1>2</y1></polygon>"

    dataset = read_voc(*voc(a=xml(thing(more=part + polygon))))

    assert dataset.classes.names == ("dog",)
    assert dataset.samples[0].annotations.boxes.tolist() == [[1, 2, 4, 6.5]]


def test_boxes_are_clipped_to_the_image(voc):
    dataset = read_voc(*voc(a=xml(thing(box=edges("-1e1", 2, 21, "10.5")))))

    assert dataset.samples[0].annotations.boxes.tolist() == [[0, 2, 20, 10]]
    assert dataset.samples[0].annotations.areas.tolist() == [160]


WITHOUT_AREA = [
    (4, 2, 4, 6),
    (4, 2, 1, 6),
    (20, 2, 30, 6),
    ("nan", 2, 4, 6),
    (1, 2, "inf", 6),
    (1, 2, "1e400", 6),
]


@pytest.mark.parametrize("box", WITHOUT_AREA)
def test_a_box_without_area_in_the_image_is_left_out_and_noted(voc, box):
    dataset = read_voc(*voc(a=xml(thing(), thing("cat", edges(*box))), b=xml(), sub__c=xml()))

    assert len(dataset.samples[0].annotations.boxes) == 1
    assert len(dataset.dropped) == 1
    assert f"a.xml: object 2 ('cat'): bndbox xmin '{box[0]}', ymin '2'" in dataset.dropped[0]
    assert "no area inside the image of 20x10 pixels" in dataset.dropped[0]


@pytest.mark.parametrize("box", WITHOUT_AREA)
def test_strict_reading_refuses_what_would_be_left_out(voc, box):
    with pytest.raises(DataError, match=r"records must be usable.*a\.xml: object 1"):
        read_voc(*voc(a=xml(thing(box=edges(*box)))), strict=True)


def test_strict_reading_still_leaves_out_unlabeled_images(voc):
    assert len(read_voc(*voc(a=xml(thing())), strict=True)) == 1


@pytest.mark.parametrize(
    "lines",
    ["sub/c\na\n", "sub/c.png\n\na.png\n", "sub/c  1\na -1\n", "sub/c.JPG\na.png 0\nsub/c\n"],
)
def test_a_list_gives_images_and_order(voc, tmp_path, lines):
    (tmp_path / "list.txt").write_text(lines)
    folders = voc(a=xml(thing()), b=xml(), sub__c=xml())

    dataset = read_voc(*folders, listed=tmp_path / "list.txt")

    assert [sample.id for sample in dataset.samples] == ["sub/c.png", "a.png"]


def test_a_number_that_belongs_to_a_name_is_no_second_column(voc, tmp_path):
    images, annotations = voc(a=xml(thing()), **{"photo 1": xml()})
    Image.new("RGB", (20, 10)).save(images / "photo 1.png")
    (tmp_path / "list.txt").write_text("photo 1\n")

    dataset = read_voc(images, annotations, listed=tmp_path / "list.txt")

    assert [sample.id for sample in dataset.samples] == ["photo 1.png"]


def test_listed_images_without_file_are_unlabeled(voc, tmp_path):
    (tmp_path / "list.txt").write_text("a\nb\n")

    dataset = read_voc(*voc(a=xml(thing())), listed=tmp_path / "list.txt")

    assert "1 images without an XML file" in dataset.dropped[0]
    assert "'b.JPG'" in dataset.dropped[0]


def test_faults_of_files_that_are_not_listed_are_passed_over(voc, tmp_path):
    (tmp_path / "list.txt").write_text("a\n")
    folders = voc(a=xml(thing()), b=xml(thing(box="")), gone=xml())

    assert len(read_voc(*folders, listed=tmp_path / "list.txt")) == 1


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("a\nx.png\n", r"list\.txt must be those of images or XML files, .* \(1\): 'x\.png'"),
        ("../a\n", r"relative to the folder of images and stay inside.*'\.\./a'"),
        ("/a\n", r"relative to the folder of images and stay inside.*'/a'"),
        ("", r"list\.txt: the list of images is empty"),
    ],
)
def test_lists_that_cannot_be_used_are_refused(voc, tmp_path, lines, message):
    (tmp_path / "list.txt").write_text(lines)

    with pytest.raises(DataError, match=message):
        read_voc(*voc(a=xml(thing())), listed=tmp_path / "list.txt")


BOMB = '<!DOCTYPE a [<!ENTITY b "xx"><!ENTITY c "&b;&b;&b;">]>' + xml(thing("&c;"))
OUTSIDE = '<!DOCTYPE a [<!ENTITY b SYSTEM "file:///etc/passwd">]>' + xml(thing("&b;"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (BOMB, r"no entities, .* \(1\): .*a\.xml"),
        (OUTSIDE, r"no entities, .* \(1\): .*a\.xml"),
        ("", r"must be XML; repair.* \(1\): .*a\.xml: no element found: line 1"),
        (xml(thing())[:-9], r"must be XML; .*a\.xml: .*line 1, column"),
        (b"<annotation>\xff</annotation>", r"must be XML; .*a\.xml: .*invalid token"),
        ('<?xml version="1.0" encoding="latin-99"?><annotation/>', r"must be XML; .*a\.xml: "),
        ("<annotations/>", r"must be 'annotation'; .*a\.xml has 'annotations'"),
        (xml(size=""), r"'size' must have .*a\.xml has width '' and height ''"),
        (xml(size=SIZE.replace("10", "0")), r"'size' must .* width '20' and height '0'"),
        (xml(size=SIZE.replace("20", "20.5")), r"'size' must .* width '20\.5' and height '10'"),
        (xml(size=SIZE.replace("20", "nan")), r"'size' must .* width 'nan' and height '10'"),
        (xml(thing("")), r"objects must have a name.*a\.xml: object 1 \(''\)"),
        (xml(thing(more="<difficult>2</difficult>")), r"'difficult' must be 0 or 1.*has '2'"),
        (xml("<object><name>x</name></object>"), r"'bndbox' must .*object 1 \('x'\) has xmin ''"),
        (xml(thing(box=edges("1,5", 2, 4, 6))), r"decimal point .*object 1 .*xmin '1,5'"),
        (xml(thing(box=edges(1, "2_0", 4, 6))), r"decimal point .*object 1 .*ymin '2_0'"),
        (xml(thing(box=edges(1, 2, "٤", 6))), r"decimal point .*object 1 .*xmax '٤'"),
    ],
)  # fmt: skip
def test_faulty_files_are_refused(voc, text, message):
    with pytest.raises(DataError, match=rf"(?s)Annotations: .*{message}"):
        read_voc(*voc(a=text, b=xml(thing())))


def test_all_faults_are_told_at_once(voc):
    folders = voc(a="<", b=xml(thing(box="")), gone=xml(size="<filename>x.jpg</filename>" + SIZE))

    with pytest.raises(DataError) as caught:
        read_voc(*folders)

    assert "files must be XML" in str(caught.value)
    assert "'bndbox' must have" in str(caught.value)
    assert "gone.xml (its filename is 'x.jpg')" in str(caught.value)


def test_images_that_would_share_a_file_are_refused(voc):
    images, annotations = voc(a=xml(thing()))
    Image.new("RGB", (20, 10)).save(images / "a.bmp")

    with pytest.raises(DataError, match=r"differ in more than their suffix.*'a\.bmp', 'a\.png'"):
        read_voc(images, annotations)


def test_two_files_for_one_image_are_refused(voc):
    images, annotations = voc(a=xml(thing()))
    (annotations / "a.XML").write_text(xml())

    with pytest.raises(DataError, match=r"one XML file an image.*a\.xml"):
        read_voc(images, annotations)


def test_a_size_that_the_image_does_not_have_is_refused(voc):
    turned = "<size><width>10</width><height>20</height></size>"

    with pytest.raises(DataError, match=r"as stored.*'a\.png' is 20x10, stated 10x20"):
        read_voc(*voc(a=xml(thing(), size=turned)))


def test_without_any_annotated_image_there_is_no_dataset(voc, tmp_path):
    (tmp_path / "list.txt").write_text("b\n")

    with pytest.raises(DataError, match=r"1 images without an XML file .*'b\.JPG'\. Give the"):
        read_voc(*voc(a=xml(thing())), listed=tmp_path / "list.txt")


def test_without_any_object_there_are_no_classes(voc):
    with pytest.raises(DataError, match="no XML file has an object with a name"):
        read_voc(*voc(a=xml()))


def test_pipes_and_hidden_files_are_passed_over(voc):
    images, annotations = voc(a=xml(thing()), **{".hidden__b": "<", ".c": "<"})
    os.mkfifo(annotations / "pipe.xml")

    assert len(read_voc(images, annotations)) == 1


def test_a_folder_that_cannot_be_read_is_named(voc, monkeypatch):
    images, annotations = voc(a=xml(thing()))
    # Longer than a path may be, which also stops somebody who may read everything.
    monkeypatch.chdir(annotations)
    for _ in range(20):
        Path("x" * 250).mkdir()
        monkeypatch.chdir("x" * 250)

    with pytest.raises(DataError, match=r"xxx: the folder cannot be read \(File name too long\)"):
        read_voc(images, annotations)


def test_a_file_that_cannot_be_read_is_named(voc):
    images, annotations = voc(a=xml(thing()), b=xml())
    (annotations / "b.xml").unlink()
    (annotations / "b.xml").symlink_to("/proc/self/mem")  # a regular file that gives EIO

    with pytest.raises(DataError, match=r"must be readable; check their rights .*b\.xml: Input"):
        read_voc(images, annotations)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("gone", "gone: does not exist. Give the folder of XML files"),
        ("list.txt", "list.txt: is not a folder"),
        ("JPEGImages", "JPEGImages: there is no XML file in this folder"),
    ],
)
def test_a_folder_without_files_is_refused(voc, tmp_path, name, message):
    (tmp_path / "list.txt").write_text("a")
    images, _ = voc()

    with pytest.raises(DataError, match=message):
        read_voc(images, tmp_path / name)


@pytest.mark.shared
@pytest.mark.parametrize(
    ("name", "num_images", "num_dropped"), [("train", 205, 1), ("val", 87, 1), ("test", 72, 0)]
)
def test_real_lists_come_through_whole(shared_data, name, num_images, num_dropped):
    folder = shared_data / "bccd"

    dataset = read_voc(
        folder / "JPEGImages",
        folder / "Annotations",
        listed=folder / "ImageSets" / "Main" / f"{name}.txt",
    )

    assert len(dataset) == num_images
    assert len(dataset.dropped) == num_dropped
    assert dataset.classes.names == ("Platelets", "RBC", "WBC")


@pytest.mark.shared
def test_every_real_object_is_read_or_noted(shared_data):
    folder = shared_data / "bccd"
    text = "".join(path.read_text() for path in (folder / "Annotations").glob("*.xml"))

    dataset = read_voc(folder / "JPEGImages", folder / "Annotations")

    boxes = np.concatenate([sample.annotations.boxes for sample in dataset.samples])
    assert len(boxes) + len(dataset.dropped) == text.count("<object>") == 4888
    assert "BloodImage_00338.xml: object 13 ('RBC'): bndbox xmin '504'" in dataset.dropped[0]
    assert "BloodImage_00343.xml: object 4 ('RBC')" in dataset.dropped[1]

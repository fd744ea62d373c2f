import pytest
from defusedxml.ElementTree import fromstring

from distildet.classes import ClassList
from distildet.data.write_voc import write_voc
from distildet.errors import ConfigError, DataError

CLASSES = ClassList(("cat", "dog"))


def test_document_by_hand(tmp_path, record_of):
    record = record_of("sub/a.jpg", [(1, 0.1 + 0.2, 4.5, 2), (0, 0, 20, 10)], [1, 0])

    left_out = write_voc(tmp_path / "out", [record], CLASSES)

    assert left_out == ()
    assert (tmp_path / "out" / "Annotations" / "sub" / "a.xml").read_text() == (
        "<annotation>\n"
        "  <filename>a.jpg</filename>\n"
        "  <size>\n"
        "    <width>20</width>\n"
        "    <height>10</height>\n"
        "    <depth>3</depth>\n"
        "  </size>\n"
        "  <object>\n"
        "    <name>dog</name>\n"
        "    <difficult>0</difficult>\n"
        "    <bndbox>\n"
        "      <xmin>1</xmin>\n"
        "      <ymin>0.3</ymin>\n"
        "      <xmax>4.5</xmax>\n"
        "      <ymax>2</ymax>\n"
        "    </bndbox>\n"
        "  </object>\n"
        "  <object>\n"
        "    <name>cat</name>\n"
        "    <difficult>0</difficult>\n"
        "    <bndbox>\n"
        "      <xmin>0</xmin>\n"
        "      <ymin>0</ymin>\n"
        "      <xmax>20</xmax>\n"
        "      <ymax>10</ymax>\n"
        "    </bndbox>\n"
        "  </object>\n"
        "</annotation>\n"
    )


@pytest.mark.parametrize(
    ("edge", "text"),
    [
        (19.000000000000004, "19"),
        (18.9999999, "19"),
        (4.25, "4.25"),
        (1 / 3, "0.333333"),
        (1.5e-5, "0.000015"),
        (-0.0, "0"),
    ],
)
def test_edges_are_rounded_to_a_millionth_of_a_pixel(tmp_path, record_of, edge, text):
    write_voc(tmp_path / "out", [record_of("a.jpg", [(edge, 0, 20, 10)])], CLASSES)

    document = fromstring((tmp_path / "out" / "Annotations" / "a.xml").read_bytes())
    assert document.findtext("object/bndbox/xmin") == text


def test_crowd_regions_are_marked_difficult(tmp_path, record_of):
    record = record_of("a.jpg", [(0, 0, 5, 5), (0, 0, 9, 9)], [0, 1], crowd=[False, True])

    write_voc(tmp_path / "out", [record], CLASSES)

    document = fromstring((tmp_path / "out" / "Annotations" / "a.xml").read_bytes())
    assert [one.text for one in document.iter("difficult")] == ["0", "1"]


def test_the_list_has_the_names_without_suffix_in_order(tmp_path, record_of):
    records = [record_of("b.jpg"), record_of("sub/a.b.png"), record_of("\udcff.jpg")]

    write_voc(tmp_path / "out", records, CLASSES)

    listed = (tmp_path / "out" / "ImageSets" / "Main" / "all.txt").read_bytes()
    assert listed == b"b\nsub/a.b\n\xff\n"


def test_an_image_without_boxes_has_a_file_without_objects(tmp_path, record_of):
    write_voc(tmp_path / "out", [record_of("a.jpg")], CLASSES)

    document = fromstring((tmp_path / "out" / "Annotations" / "a.xml").read_bytes())
    assert document.findall("object") == []


@pytest.mark.parametrize("name", ["<a> & \"b\" 'c'", "]]>", "船", "a\tb", "a\nb"])
def test_signs_of_class_names_are_escaped(tmp_path, record_of, name):
    record = record_of("a.jpg", [(0, 0, 5, 5)])

    write_voc(tmp_path / "out", [record], ClassList((name,)))

    document = fromstring((tmp_path / "out" / "Annotations" / "a.xml").read_bytes())
    assert document.findtext("object/name") == name


@pytest.mark.parametrize("name", ["a\x01", "a\rb", " a", "\ufffe"])
def test_a_class_name_that_xml_cannot_hold_is_refused(tmp_path, name):
    with pytest.raises(DataError, match="VOC is XML, which cannot hold control characters"):
        write_voc(tmp_path / "out", [], ClassList((name,)))


def test_file_names_that_xml_cannot_hold_are_shown_without_these_characters(tmp_path, record_of):
    write_voc(tmp_path / "out", [record_of("a\udcff\x01.jpg")], CLASSES)

    text = (tmp_path / "out" / "Annotations" / "a\udcff\x01.xml").read_bytes()
    assert fromstring(text).findtext("filename") == "a\ufffd\ufffd.jpg"


def test_what_the_format_cannot_say_is_counted(tmp_path, record_of):
    records = [
        record_of("a.jpg", [(0, 0, 5, 5), (0, 0, 9, 9)], scores=[0.5, 0.25]),
        record_of("b.jpg", [(0, 0, 5, 5)], areas=[20]),
    ]

    left_out = write_voc(tmp_path / "out", records, ClassList(("car", *"abcdef")))

    assert left_out == (
        "the scores of 2 boxes: VOC has no place for them",
        "the areas of 1 objects, smaller than their boxes: VOC has only boxes",
        "6 classes without a box: 'a', 'b', 'c', 'd', 'e', ...",
    )


def test_images_that_would_share_a_file_are_refused(tmp_path, record_of):
    with pytest.raises(DataError, match=r"share a file of boxes.*'a\.jpg', 'a\.png'"):
        write_voc(tmp_path / "out", [record_of("a.jpg"), record_of("a.png")], CLASSES)


@pytest.mark.parametrize("name", ["a\nb.jpg", " a.jpg", "a .jpg"])
def test_an_image_that_cannot_be_listed_is_refused(tmp_path, record_of, name):
    with pytest.raises(DataError, match="names must stand on a line of a list"):
        write_voc(tmp_path / "out", [record_of(name)], CLASSES)


def test_a_folder_of_the_user_is_refused(tmp_path, record_of):
    (tmp_path / "Annotations").mkdir()
    (tmp_path / "Annotations" / "a.xml").write_text("mine")

    with pytest.raises(ConfigError, match=r"has 'Annotations/a\.xml', which distildet did not"):
        write_voc(tmp_path, [record_of("a.jpg")], CLASSES)

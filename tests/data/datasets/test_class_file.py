"""Files that name the classes of label maps."""

import json

import pytest

from mask_former.data.datasets.class_file import Classes, completed, read_class_file
from mask_former.errors import UserError


def write(tmp_path, text, name="classes.txt"):
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    return path


def test_names_of_lines(tmp_path):
    path = write(tmp_path, "\ufeffroad\n\n  wet sand \n")
    assert read_class_file(path) == (["road", "wet sand"], [], ())


def test_cvats_label_map(tmp_path):
    text = "# label:color_rgb:parts:actions\nbackground:0,0,0::\ncar:250,50,183:wheel,door:\n"
    found = read_class_file(write(tmp_path, text))
    assert found == (["background", "car"], [[0, 0, 0], [250, 50, 183]], ())


@pytest.mark.parametrize("wrap", [lambda found: found, lambda found: {"categories": found}])
def test_json(tmp_path, wrap):
    content = [
        {"id": 4, "name": "road", "color": [1, 2, 3]},
        {"id": 2, "name": "car", "color": [4, 5, 6]},
    ]
    path = write(tmp_path, json.dumps(wrap(content)), "classes.json")
    assert read_class_file(path) == (["road", "car"], [[1, 2, 3], [4, 5, 6]], [4, 2])


def test_json_of_names(tmp_path):
    assert read_class_file(write(tmp_path, '["a", "b"]', "x.json")) == (["a", "b"], [], [])


@pytest.mark.parametrize(
    ("text", "name", "message"),
    [
        ("road:1,2,3\ncar\n", "c.txt", "1 of 2 classes have a colour: all or none"),
        ("road:red\n", "c.txt", "c.txt: a colour is 'red,green,blue', not 'red'"),
        ('{"names": []}', "c.json", "c.json holds an object.* but must be a list of names"),
        ("[]", "c.json", "c.json holds a list.* but must be a list of names"),
        ("[1]", "c.json", "c.json: the name of a class is a number, 1"),
        ('[{"name": "a", "id": 1}, {"name": "b"}]', "c.json", "1 of 2 classes have 'id'"),
    ],
)
def test_what_is_no_list_of_classes(tmp_path, text, name, message):
    with pytest.raises(UserError, match=message):
        read_class_file(write(tmp_path, text, name))


def test_a_binary_file(tmp_path):
    path = tmp_path / "c.txt"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="c.txt is no text in UTF-8"):
        read_class_file(path)


def test_what_is_given_beside_a_file():
    read = Classes(["a", "b"], [[0, 0, 0], [1, 1, 1]], [])
    assert completed(Classes([], [], [5, 6]), read, "f") == (["a", "b"], read.colors, [5, 6])
    with pytest.raises(UserError, match=r"CLASSES is \['b'\], but CLASS_FILE f has .*'a', 'b'"):
        completed(Classes(["b"]), read, "f")

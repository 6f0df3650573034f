"""Files of class names: every form gives the order that it defines, and nothing is guessed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from vtcli.errors import DataError
from vtcli.labels import load_labels
from vtcli.labels.label_file import read_label_file

NAMES = ("walk", "run fast", "jump, high", "sit")
FORMS = {
    "plain.txt": "walk\nrun fast\njump, high\nsit\n",
    "crlf.txt": "\ufeffwalk\r\nrun fast\r\njump, high\r\nsit\r\n\r\n",
    "number_first.txt": "2 jump, high\n0 walk\n3 sit\n1 run fast\n",
    "from_1.txt": "3 jump, high\n1 walk\n4 sit\n2 run fast\n",
    "colon.txt": "2: jump, high\n0: walk\n3: sit\n1: run fast\n",
    "tab.txt": "2\tjump, high\n0\twalk\n3\tsit\n1\trun fast\n",
    "number_last.txt": "jump, high 2\nwalk 0\nsit 3\nrun fast 1\n",
    "float.txt": "2.0 jump, high\n0.0 walk\n3.0 sit\n1.0 run fast\n",
    "index_name.csv": 'index,name\n2,"jump, high"\n0,walk\n3,sit\n1,run fast\n',
    "no_header.csv": '2,"jump, high"\n0,walk\n3,sit\n1,run fast\n',
    "name_index.csv": 'name,id\n"jump, high",2\nwalk,0\nsit,3\nrun fast,1\n',
    "excel.csv": "sep=;\nid;label\n2;jump, high\n0;walk\n3;sit\n1;run fast\n",
    "pandas.csv": ',label\n2.0,"jump, high"\n0.0,walk\n3.0,sit\n1.0,run fast\n',
    "id2label.json": json.dumps({"2": NAMES[2], "0": NAMES[0], "3": NAMES[3], "1": NAMES[1]}),
    "label2id.json": json.dumps({NAMES[3]: 3, NAMES[0]: 0, NAMES[2]: 2, NAMES[1]: 1}),
    "label2id_text.json": json.dumps({NAMES[3]: "3", NAMES[0]: "0", NAMES[2]: "2", NAMES[1]: "1"}),
    "config.json": json.dumps({"model_type": "x", "id2label": dict(enumerate(NAMES))}),
    "list.json": json.dumps(NAMES),
    "records.json": json.dumps([{"id": n, "name": x} for n, x in enumerate(NAMES)][::-1]),
}


@pytest.mark.parametrize("name", FORMS)
def test_every_form_gives_the_names_in_the_order_of_their_numbers(
    name: str, tmp_path: Path
) -> None:
    path = tmp_path / name
    path.write_bytes(FORMS[name].encode())
    assert read_label_file(path).names == NAMES


def test_utf_16_is_read(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes("marcher\ncourir à\n".encode("utf-16"))
    assert read_label_file(tmp_path / "a.txt").names == ("marcher", "courir à")


def test_what_was_understood_shows_the_first_three_and_the_last(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("".join(f"{n} name {n}\n" for n in reversed(range(400))))
    said = read_label_file(path).describe()
    assert said == (
        "400 class names (lines 'N name', numbered from 0): 'name 0', 'name 1', 'name 2', ..., "
        "'name 399'"
    )


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("gap.txt", "0 a\n2 b\n3 c\n", "some are missing"),
        ("twice.txt", "0 a\n1 b\n1 c\n", "number 1 is used twice"),
        ("from_2.txt", "2 a\n3 b\n", "some are missing"),
        ("numbers.txt", "0\n1\n2\n", "only numbers"),
        ("floats.txt", "0.0\n1.0\n", "only numbers"),
        ("blank.txt", "a\n\nb\n", "empty line 2"),
        ("both.csv", "0,1\n1,0\n", "two columns of numbers"),
        ("both.json", '{"0": 1, "1": 0}', "numbers to numbers"),
        ("names.json", '{"a": "b"}', "names to names"),
        ("broken.json", '{"a": ', "not valid JSON"),
        ("empty.txt", "\n", "is empty"),
        ("names.yaml", "names:\n  0: a\n", r"\.yaml file"),
    ],
)
def test_what_is_ambiguous_is_refused(name: str, text: str, says: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(DataError, match=says):
        read_label_file(tmp_path / name)


@pytest.mark.parametrize("form", ["{}. {}", "{}) {}", "[{}] {}", "{} - {}", "{} = {}"])
def test_numbered_items_are_in_the_order_of_their_numbers(form: str, tmp_path: Path) -> None:
    path = tmp_path / "labels.txt"
    path.write_text("\n".join(form.format(n, name) for n, name in ((2, "c"), (0, "a"), (1, "b b"))))
    assert read_label_file(path).names == ("a", "b b", "c")
    path.write_text("b = 1\na = 0\n")
    assert read_label_file(path).names == ("a", "b")


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("l.json", '{"0": "a", "0": "b"}', "the key '0' twice"),
        ("l.json", '["a", ""]', "not one of names"),
        ("l.csv", "label,youtube_id\na,x\nb,y\n", "'label' and none that numbers the classes"),
        ("l.txt", "PK\x03\x04", "is not a text file"),
    ],
)
def test_what_is_not_a_list_of_classes_is_refused(
    name: str, content: str, says: str, tmp_path: Path
) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(DataError, match=says):
        read_label_file(tmp_path / name)


def test_a_repeated_name_is_said(tmp_path: Path) -> None:
    (tmp_path / "l.txt").write_text("a\nb\na\n")
    assert "warning: 'a' is there more than once" in read_label_file(tmp_path / "l.txt").describe()


def test_names_that_contain_numbers_stay_whole(tmp_path: Path) -> None:
    names = ("100m run", "3 pointer", "class 7", "walk")
    (tmp_path / "a.txt").write_text("\n".join(names))
    assert read_label_file(tmp_path / "a.txt").names == names
    (tmp_path / "b.txt").write_text("action 0\naction 1\naction 2\n")
    assert read_label_file(tmp_path / "b.txt").names == ("action 0", "action 1", "action 2")
    assert load_labels(str(tmp_path / "a.txt")) == names

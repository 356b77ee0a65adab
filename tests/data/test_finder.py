from __future__ import annotations

from pathlib import Path

import pytest

from diffmic_jax.data.finder import Finder
from diffmic_jax.errors import InputError


@pytest.fixture
def root(tmp_path):
    for name in ("train/p1/view.jpg", "train/p2/view.jpg", "a.JPG", "007.png", "train/e\u0301.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    return tmp_path


def found(root: Path, *names: str) -> list[str]:
    finder = Finder(root, names)
    paths = [finder.find(name, "row", "add it")[0] for name in names]
    return [path.relative_to(root).as_posix() for path in paths]


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("train/p1/view.jpg", "train/p1/view.jpg"),
        (r"train\p1\view.jpg", "train/p1/view.jpg"),
        (r"C:\elsewhere\train\p1\view.jpg", "train/p1/view.jpg"),
        ("/elsewhere/data/train/p1/view.jpg", "train/p1/view.jpg"),
        ("p2/view.jpg", "train/p2/view.jpg"),
        ("p2/view", "train/p2/view.jpg"),
        ("a.jpg", "a.JPG"),
        ("a", "a.JPG"),
        ("7", "007.png"),
        ("7.png", "007.png"),
        ("train/\u00e9.png", "train/e\u0301.png"),
    ],
)
def test_names_as_spreadsheets_and_other_systems_leave_them(root, name, file):
    assert found(root, name) == [file]


def test_folders_in_front_of_all_names_are_left_out(root):
    names = ["Set-v1/train/p1/view.jpg", "Set-v1/train/p2/view.jpg"]
    assert found(root, *names) == ["train/p1/view.jpg", "train/p2/view.jpg"]


@pytest.mark.parametrize("name", ["test/p1/view.jpg", "train/p3/view.jpg", "8.png", "07/view.jpg"])
def test_another_image_is_not_taken_instead(root, name):
    with pytest.raises(InputError, match="no image"):
        found(root, name, "a.jpg")


def test_a_name_of_two_images_is_refused(root):
    with pytest.raises(InputError, match=r"'view.jpg' is both .*p1/view.jpg and .*p2/view.jpg"):
        found(root, "view.jpg")


def test_what_was_done_is_told(root, caplog):
    finder = Finder(root, ["a.jpg", "7"])
    for name in ("a.jpg", "7"):
        finder.find(name, "row", "add it")
    with caplog.at_level("INFO", "diffmic_jax"):
        finder.tell(2)
    assert "1 images are found by other case" in caplog.text
    assert "1 images are found with zeros in front" in caplog.text
    assert "3 images are in no row" in caplog.text


@pytest.mark.parametrize("kind", ["absolute", "dots", "link", "linked folder"])
def test_an_image_elsewhere_is_refused_unless_it_is_allowed(root, tmp_path_factory, kind):
    other = tmp_path_factory.mktemp("other") / "secret.png"
    other.touch()
    (root / "link.png").symlink_to(other)
    (root / "linked").symlink_to(other.parent)
    name = {
        "absolute": str(other),
        "dots": f"../../../../../../../..{other}",
        "link": "link.png",
        "linked folder": "linked/secret.png",
    }[kind]
    with pytest.raises(InputError, match=r"row: .* is .*secret\.png, which is not under"):
        Finder(root, [name]).find(name, "row", "add it")
    assert (
        Finder(root, [name], allow_outside=True).find(name, "row", "add it")[1] == other.resolve()
    )


@pytest.mark.parametrize("name", ["a\0b", "x" * 5000, "/" * 3000, "~root/x"])
def test_a_name_that_can_be_none_is_not_found(root, name):
    with pytest.raises(InputError, match="row: no image"):
        Finder(root, [name]).find(name, "row", "add it")

from __future__ import annotations

import io
from pathlib import Path

import pytest

from diffmic_jax.data.named import find_images
from diffmic_jax.errors import InputError
from diffmic_jax.inference.classify import by_name


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch) -> Path:
    """A folder to be in, which is also the home folder."""
    for name in ("a/1.png", "a/b/2.jpg", "c/3.png", "odd[1].png", "scan"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    (tmp_path / "c/series").write_bytes(b"\0" * 128 + b"DICM")
    (tmp_path / "c/notes.txt").write_text("")
    (tmp_path / "c/LICENSE").write_text("")
    (tmp_path / "c/.hidden.png").write_text("")
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["a"], ["1.png", "b/2.jpg"]),  # one folder: below it
        (["a", "c/3.png"], ["a/1.png", "a/b/2.jpg", "c/3.png"]),
        (["c"], ["3.png", "series"]),  # DICOM is known by its content
        (["scan"], ["scan"]),  # a file is taken as it is named
        (["c/3.png", "a/1.png", "c/3.png"], ["c/3.png", "a/1.png"]),
        (["*/*.png"], ["a/1.png", "c/3.png"]),
        (["**/*.jpg"], ["a/b/2.jpg"]),
        (["[ac]"], ["a/1.png", "a/b/2.jpg", "c/3.png", "c/series"]),
        (["odd[1].png"], ["odd[1].png"]),  # there is such a file
    ],
)
def test_names_become_images(words, expected):
    found = find_images(words)
    assert list(found.images) == expected
    assert all(path.is_file() for path in found.images.values())


@pytest.mark.parametrize("text", ["a\nc/3.png\n", "a\0c/3.png\0"])
def test_names_may_come_on_standard_input(text):
    assert list(find_images(["-"], io.StringIO(text)).images) == [
        "a/1.png",
        "a/b/2.jpg",
        "c/3.png",
    ]


def test_the_home_folder_is_found(place):
    assert list(find_images(["~/a/1.png", "~/c/*.png"]).images) == [
        f"{place}/a/1.png",
        f"{place}/c/3.png",
    ]


def test_files_that_are_no_images_are_counted_by_their_ending():
    found = find_images(["c", "a"])
    start, endings = found.left_out.split(": ")
    assert start == "2 files left out that are no images, by ending"
    assert sorted(endings.split(", ")) == ["1 .txt", "1 without"]
    assert find_images(["a"]).left_out == ""


@pytest.mark.parametrize(
    ("words", "text", "message"),
    [
        (["no/where.png"], "", "no/where.png: no such file or folder; check the path"),
        (["a/2.png"], "", "a/2.png: no such file or folder; did you mean a/1.png?"),
        (["a/*.tif"], "", "a/*.tif: no file matches this pattern; check the path"),
        (["a", "empty"], "", "empty: no images in this folder; add some or name another"),
        (["a", ""], "", "one of the names is empty; name files, folders or patterns"),
        (["-"], "\n", "-: no names on standard input; give those of images, one a line"),
        (["-"], "a/1.png\nb\n", "b: no such file or folder; check the path"),
    ],
)
def test_a_name_of_no_image_is_one_line(words, text, message):
    with pytest.raises(InputError) as error:
        find_images(words, io.StringIO(text))
    assert str(error.value) == message


def test_an_image_itself_on_standard_input_is_no_name():
    pipe = io.TextIOWrapper(io.BytesIO(b"\xff\xd8\xff"), encoding="utf-8")
    with pytest.raises(InputError, match="^-: standard input is no text; give the names of images"):
        find_images(["-"], pipe)


def test_an_image_has_the_name_that_it_was_given_and_is_there_once(place):
    assert list(find_images(["./c/3.png", "a/../a/1.png"]).images) == ["./c/3.png", "a/../a/1.png"]
    assert list(find_images(["a", f"{place}/a/1.png", "./a/1.png"]).images) == [
        "a/1.png",
        "a/b/2.jpg",
    ]


def test_images_of_several_folders_keep_these_in_their_names(place):
    (place / "c/1.png").write_bytes(b"x")
    assert list(by_name(["a", "c"])) == ["a/1.png", "a/b/2.jpg", "c/1.png", "c/3.png", "c/series"]
    assert list(by_name("a")) == list(by_name(["a"])) == ["1.png", "b/2.jpg"]

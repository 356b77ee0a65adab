"""Which files are images, and what of a folder cannot be looked at."""

from __future__ import annotations

import errno
import os

import pytest

from diffmic_jax.data import scan
from diffmic_jax.errors import InputError


def test_images_are_sorted_and_looked_for_in_sub_folders(tmp_path):
    names = ["a.png", "b.dcm", "b.png", "c.dicom", "d.gif", "sub/a.JPG"]
    for name in [*names, ".hidden.png", "notes.txt", ".checkpoints/a.png"]:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "folder.png").mkdir()
    assert scan.images_under(tmp_path) == [tmp_path / name for name in names]


def test_a_scan_follows_a_link_to_a_folder_once(tmp_path):
    root, elsewhere = tmp_path / "root", tmp_path / "elsewhere"
    for path in (root / "b.png", elsewhere / "a.png"):
        path.parent.mkdir()
        path.touch()
    (root / "linked").symlink_to(elsewhere)
    (elsewhere / "back").symlink_to(root)  # a circle
    assert scan.images_under(root) == [root / "b.png", root / "linked/a.png"]


def test_is_image_looks_at_the_extension(tmp_path):
    for name in ("x.TIFF", "x.webp", "x.Dcm"):
        (tmp_path / name).touch()
        assert scan.is_image(tmp_path / name, tmp_path)
    assert not scan.is_image(tmp_path / "missing.png", tmp_path)
    assert all(extension == extension.lower() for extension in scan.EXTENSIONS)


def test_a_link_to_nothing_is_named(tmp_path):
    (tmp_path / "a.png").write_bytes(b"")
    (tmp_path / "b.png").symlink_to(tmp_path / "store/b.png")
    (tmp_path / "notes").symlink_to(tmp_path / "store/notes")  # no image
    with pytest.raises(InputError, match=r"b.png: is a link to .*store/b.png, which is not there"):
        scan.images_under(tmp_path)
    (tmp_path / "b.png").unlink()
    assert [path.name for path in scan.images_under(tmp_path)] == ["a.png"]


def test_a_folder_that_cannot_be_read_is_named(tmp_path, monkeypatch):
    (tmp_path / "a.png").write_bytes(b"")
    (tmp_path / "patient7").mkdir()
    real = os.scandir

    def scandir(path):
        if str(path).endswith("patient7"):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    with pytest.raises(InputError, match=r"patient7: cannot be read \(Permission denied\)"):
        scan.images_under(tmp_path)

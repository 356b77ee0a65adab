"""A folder, a table, an archive or a name becomes the fields of a configuration."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from diffmic_jax.config import Config
from diffmic_jax.data.cache import cached
from diffmic_jax.data.layouts import PARTS
from diffmic_jax.data.recognise import data_fields, name_of
from diffmic_jax.data.sources import open_source
from diffmic_jax.errors import InputError
from tests.data.written import write_image


def test_class_folders(tmp_path):
    assert data_fields(tmp_path) == {"data.name": "images", "data.root": str(tmp_path)}


def test_a_table_of_labels_beside_the_images(tmp_path):
    table = {"data.name": "images", "data.root": str(tmp_path), "data.labels": "mine.csv"}
    (tmp_path / "mine.csv").write_text("image,label\na.png,cat\nb.png,dog\n")
    assert data_fields(tmp_path) == table
    assert data_fields(tmp_path / "mine.csv") == table
    (tmp_path / "groups.csv").write_text("image,group\na.png,1\nb.png,2\n")
    assert data_fields(tmp_path) == table | {"data.groups": "groups.csv"}
    (tmp_path / "both.csv").write_text("image,label,group\nb.png,dog,2\na.png,cat,1\n")
    assert data_fields(tmp_path) == table | {"data.labels": "both.csv"}
    (tmp_path / "both.csv").unlink()
    (tmp_path / "other.csv").write_text("image,label\na.png,dog\nb.png,dog\n")
    with pytest.raises(InputError, match=r"several tables .*\(mine.csv, other.csv\); name the"):
        data_fields(tmp_path)


def test_a_table_that_lacks_labels_is_still_the_table(tmp_path):
    (tmp_path / "mine.csv").write_text("image,label\na.png,cat\nb.png,\nc.png,dog\n")
    fields = data_fields(tmp_path)
    assert fields["data.labels"] == "mine.csv"
    with pytest.raises(InputError, match=r"mine.csv row 3: no label; 1 such cells"):
        open_source(Config().changed(fields).data)


def test_a_published_data_set_by_its_own_table(tmp_path):
    (tmp_path / "HAM10000_metadata.csv").write_text("lesion_id,image_id,dx\n")
    assert data_fields(tmp_path) == {"data.name": "ham10000", "data.root": str(tmp_path)}


def test_the_lesions_of_a_published_data_set(tmp_path, caplog):
    """From either of its tables, and told where there is none."""
    rows = "".join(f"I_{i},{i % 2},{1 - i % 2},0,0,0,0,0\n" for i in range(20))
    truth = "ISIC2018_Task3_Training_GroundTruth.csv"
    write_tables(tmp_path, {truth: f"image,MEL,NV,BCC,AKIEC,BKL,DF,VASC\n{rows}"})
    for i in range(20):
        write_image(tmp_path / f"I_{i}.jpg")
    config = Config().changed(data_fields(tmp_path))
    assert not open_source(config.data).records[0].group
    assert "groups (lesions, patients) may be on both sides of the split" in caplog.text
    lesions = "".join(f"I_{i},H_{i // 2}\n" for i in range(20))
    table = "ISIC2018_Task3_Training_LesionGroupings.csv"
    write_tables(tmp_path, {table: f"image,lesion_id\n{lesions}"})
    assert len({record.group for record in open_source(config.data).records}) == 10


def test_the_archives_of_medmnist(tmp_path):
    np.savez(tmp_path / "retinamnist_64.npz", a=0)
    found = {"data.name": "retinamnist", "data.root": str(tmp_path)}
    assert data_fields(tmp_path) == data_fields(tmp_path / "retinamnist_64.npz") == found
    (tmp_path / "retinamnist_64.npz").rename(tmp_path / "own.npz")
    own = {"data.name": "images", "data.root": str(tmp_path / "own.npz")}
    assert data_fields(tmp_path) == own


def test_names(tmp_path):
    assert data_fields("phantom") == data_fields(Path("phantom")) == {"data.name": "phantom"}
    with pytest.raises(InputError, match="no such folder or CSV, and not one of the data sets"):
        data_fields(tmp_path / "absent")


@pytest.mark.parametrize(
    "text",
    [
        "image,Mass,Nodule\na.png,1,1\nb.png,0,0\n",  # several labels
        "Path,Sex,Mass,Nodule\na.png,F,1.0,\nb.png,M,-1.0,0.0\n",  # CheXpert's
        "image,Pneumonia\na.png,1\nb.png,0\n",
        "image,age\na.png,60\nb.png,50\n",
        "image,label\na.png,x\nb.png,",
    ],
)
def test_a_table_with_problems_is_still_the_table(tmp_path, text):
    (tmp_path / "images").mkdir()
    (tmp_path / "mine.csv").write_text(text)
    assert data_fields(tmp_path)["data.labels"] == "mine.csv"
    (tmp_path / "mine.csv").write_bytes(b"image,label\na.png,L\xe4sion\n")  # not UTF-8
    with pytest.raises(InputError, match="mine.csv: not a readable CSV .* save it as UTF-8 CSV"):
        open_source(Config().changed(data_fields(tmp_path)).data)


@pytest.fixture
def classes(tmp_path) -> Path:
    """A folder of two class folders with an image each."""
    for name in ("x", "y"):
        write_image(tmp_path / name / "a.png")
    return tmp_path


def test_beside_class_folders_a_table_without_labels_is_none(classes):
    (classes / "ages.csv").write_text("image,age\nx/a.png,60\ny/a.png,50\n")
    assert "data.labels" not in data_fields(classes)


def test_a_table_of_patients_beside_class_folders_is_taken(classes, caplog):
    (classes / "p.csv").write_text("image,patient_id\nx/a.png,1\ny/a.png,2\n")
    folders = {"data.name": "images", "data.root": str(classes)}
    assert data_fields(classes) == folders | {"data.groups": "p.csv"}
    (classes / "q.csv").write_text("image,lesion_id\nx/a.png,1\ny/a.png,2\n")
    assert data_fields(classes) == folders
    assert "several tables have groups (p.csv, q.csv), none is used" in caplog.text


def test_a_table_of_labels_that_replaces_class_folders_is_told(classes, caplog):
    (classes / "meta.csv").write_text("filename,level\nx/a.png,good\ny/a.png,bad\n")
    assert data_fields(classes)["data.labels"] == "meta.csv"
    assert "the folders x, y are not taken as classes, since" in caplog.text
    caplog.clear()
    (classes / "meta.csv").write_text("filename,level\nx/a.png,x\ny/a.png,y\n")
    assert data_fields(classes)["data.labels"] == "meta.csv"
    assert "not taken as classes" not in caplog.text


def test_an_archive_beside_class_folders_is_none_of_medmnist(classes):
    np.savez(classes / "embeddings.npz", a=0)
    assert data_fields(classes) == {"data.name": "images", "data.root": str(classes)}


def test_a_workdir_is_no_data(tmp_path):
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(InputError, match="is the workdir of a run; name the folder of its images"):
        data_fields(tmp_path)


def test_an_image_is_no_data(classes):
    with pytest.raises(InputError, match=r"a\.png: is an image; name the folder"):
        data_fields(classes / "x/a.png")


def test_nothing_is_no_data():
    with pytest.raises(InputError, match="no data is named"):
        data_fields("")


def test_two_columns_of_one_name_are_refused(tmp_path):
    (tmp_path / "mine.csv").write_text("image_id,Image ID,label\na.png,b.png,x\nb.png,a.png,y\n")
    with pytest.raises(InputError, match="has the columns image_id and Image ID; rename one"):
        data_fields(tmp_path)


@pytest.mark.parametrize(
    ("data", "name"), [("a/photos", "photos"), ("a/photos/..", "a"), ("/", "data")]
)
def test_a_data_set_has_the_name_of_its_folder(data, name):
    assert name_of(data) == name


def test_a_table_is_looked_at_in_silence(tmp_path, caplog):
    (tmp_path / "mine.csv").write_text(";image;label\n0;a.png;x\n1;b.png;y\n")
    with caplog.at_level("INFO", "diffmic_jax"):
        data_fields(tmp_path)
    assert caplog.messages == [f"{tmp_path}/mine.csv has the labels"]


def test_tabs_are_a_table_and_spreadsheets_are_to_be_saved_as_one(tmp_path):
    (tmp_path / "labels.tsv").write_text("image\tlabel\na.png\tx\nb.png\ty\n")
    assert data_fields(tmp_path)["data.labels"] == "labels.tsv"
    (tmp_path / "labels.tsv").rename(tmp_path / "labels.XLSX")
    with pytest.raises(
        InputError, match=r"labels\.XLSX: is a spreadsheet; save its sheet of images"
    ):
        data_fields(tmp_path)


def write_tables(root: Path, tables: dict[str, str]) -> None:
    for name, text in tables.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)


def opened(root: Path) -> dict[str, list[tuple[str, object]]]:
    """What is in each part: image below the root, and class."""
    source = open_source(Config().changed(data_fields(root)).data)
    return {
        part: [
            (Path(r.path).relative_to(root).as_posix(), source.task.name(r.label)) for r in found
        ]
        for part, found in source.splits.items()
    }


def test_a_folder_around_the_folder_is_looked_through(classes, tmp_path_factory, caplog):
    outer = tmp_path_factory.mktemp("outer")
    inner = outer / "archive" / "images"
    inner.parent.mkdir()
    classes.rename(inner)
    (outer / "__MACOSX").mkdir()
    (outer / "README.txt").write_text("Cite us.")
    with caplog.at_level("INFO", "diffmic_jax"):
        assert data_fields(outer) == {"data.name": "images", "data.root": str(inner)}
    assert f"all of {outer} is in {inner}" in caplog.text
    (outer / "labels.csv").write_text("image,label\nx/a.png,1\ny/a.png,2\n")
    assert data_fields(outer)["data.root"] == str(outer)


@pytest.mark.parametrize("inside", ["train/x/a.png", "x/a.png", "x/b/a.png"])
def test_a_part_or_a_class_is_no_folder_around_another(tmp_path, inside):
    write_image(tmp_path / inside)
    root = tmp_path / "x" if inside == "x/b/a.png" else tmp_path  # b may be the one class
    assert data_fields(tmp_path)["data.root"] == str(root)


def test_tables_of_the_parts(tmp_path, caplog):
    for part in ("train", "val", "test"):
        for name in ("1.png", "2.png"):
            write_image(tmp_path / f"{part}_images" / name)
    rows = "id_code,diagnosis\n1,0\n2,1\n"
    write_tables(tmp_path, {"train_1.csv": rows, "valid.csv": rows, "test.csv": rows})
    with caplog.at_level("INFO", "diffmic_jax"):
        found = data_fields(tmp_path)
    assert found["data.labels"] == "train_1.csv,valid.csv,test.csv"
    assert caplog.messages[0] == f"{tmp_path}/train_1.csv has the labels of its part"
    assert opened(tmp_path) == {
        part: [(f"{folder}_images/1.png", "0"), (f"{folder}_images/2.png", "1")]
        for part, folder in (("train", "train"), ("validation", "val"), ("test", "test"))
    }
    (tmp_path / "sample_submission.csv").write_text(rows)  # to be filled in
    assert data_fields(tmp_path) == found
    (tmp_path / "other.csv").write_text(rows)
    with pytest.raises(InputError, match=r"several tables .*; name the right one, as"):
        data_fields(tmp_path)


def test_tables_below_the_folder_where_no_folder_is_a_class(tmp_path):
    """As IDRiD has them."""
    rows = "".join(f"I_{i},{i % 2},,\n" for i in range(20))
    for part, letter in (("Training", "a"), ("Testing", "b")):
        folder = f"1. Original Images/{letter}. {part} Set"
        table = f"2. Groundtruths/{letter}. IDRiD_Disease Grading_{part} Labels.csv"
        write_tables(tmp_path, {table: "Image name,Retinopathy grade,,\n" + rows})
        for i in range(20):
            write_image(tmp_path / folder / f"I_{i}.png")
    parts = opened(tmp_path)
    assert parts["test"][1] == ("1. Original Images/b. Testing Set/I_1.png", "1")
    assert {path.split("/")[1] for path, _ in parts["train"]} == {"a. Training Set"}


def test_tables_that_are_not_each_of_a_part_are_refused(tmp_path):
    write_image(tmp_path / "a.png")
    rows = "image,label\na,x\n"
    write_tables(tmp_path, {"train/a.csv": rows, "b/b.csv": "image,label\na,y\n"})
    with pytest.raises(InputError, match=r"\(b/b.csv, train/a.csv\); put the right one into .*one"):
        data_fields(tmp_path)
    write_tables(tmp_path, {"train.csv": rows, "own.csv": rows})
    config = Config().changed({"data.name": "images", "data.root": str(tmp_path)})
    with pytest.raises(InputError, match=r"own.csv: each of several tables has one part, and"):
        open_source(config.changed({"data.labels": "train.csv,own.csv"}).data)
    write_tables(tmp_path, {"test.csv": "image,label,split\na,x,validation\n"})
    with pytest.raises(
        InputError, match=r"test.csv: each of several tables has one part, .* or its"
    ):
        open_source(config.changed({"data.labels": "train.csv,test.csv"}).data)
    write_tables(tmp_path, {"train.csv": "image,M,N\na,1,0\n", "test.csv": "image,M,O\na,1,0\n"})
    with pytest.raises(InputError, match=r"test.csv: has other classes than .*train.csv \(N, O\)"):
        open_source(config.changed({"data.labels": "train.csv,test.csv"}).data)


def test_folders_of_parts_are_no_classes(tmp_path):
    """As RFMiD has them."""
    for part in ("Training", "Testing"):
        rows = "".join(f"{i},{i % 2},{1 - i % 2}\n" for i in range(20))
        write_tables(tmp_path, {f"{part}_Set/RFMiD_{part}_Labels.csv": f"ID,DR,MH\n{rows}"})
        for i in range(20):
            write_image(tmp_path / f"{part}_Set" / part / f"{i}.png")
    parts = opened(tmp_path)
    assert parts["test"][1] == ("Testing_Set/Testing/1.png", "DR")
    assert {path.split("/")[0] for path, _ in parts["train"]} == {"Training_Set"}


def test_one_name_in_two_parts_is_two_images(tmp_path):
    """As in RFMiD and IDRiD, whose parts count from 1 each."""
    for part, red in (("train", 0), ("test", 200)):
        rows = "".join(f"{i},{i % 2}\n" for i in range(20))
        write_tables(tmp_path, {f"{part}/labels.csv": f"image,label\n{rows}"})
        for i in range(20):
            Image.new("RGB", (8, 8), (red, 10 * i, 0)).save(tmp_path / part / f"{i}.png")
    config = Config().changed(data_fields(tmp_path) | {"data.folds": 4})
    source = open_source(config.data)
    assert [len(source.splits[part]) for part in PARTS] == [15, 5, 20]
    for part, examples in cached(source, 8).examples.items():
        greens = [10 * int(Path(record.path).stem) for record in examples.records]
        reds = [200 * (part == "test")] * len(greens)
        found = examples.images(np.arange(len(greens)))[:, 0, 0, :2]
        np.testing.assert_array_equal(found, np.transpose([reds, greens]))


def test_a_table_by_ids_does_not_replace_class_folders(classes):
    (classes / "patients.csv").write_text("id,diagnosis\n1,good\n2,bad\n")
    assert "data.labels" not in data_fields(classes)
    (classes / "y/a.png").rename(classes / "x/b.png")
    assert data_fields(classes)["data.labels"] == "patients.csv"


@pytest.mark.parametrize("column", ["patient_id", "id"])
def test_folders_that_a_table_has_labels_of_are_no_classes(classes, column):
    (classes / "labels.csv").write_text(f"{column},label\nX,good\ny,bad\nz,bad\n")
    message = rf"labels.csv: has labels of the folders x, y, ... in {column}, so these are no class"
    with pytest.raises(InputError, match=message):
        data_fields(classes)
    (classes / "labels.csv").write_text(f"{column},label\nx,good\nz,bad\n")
    assert data_fields(classes) == {"data.name": "images", "data.root": str(classes)}


def test_class_folders_beside_a_table_without_labels_are_found(tmp_path, caplog):
    for name in ("benign", "malignant"):
        write_image(tmp_path / "BreaKHis_v1/breast" / name / "0.png")
    write_tables(tmp_path, {"Folds.csv": "fold,mag,grp,filename\n1,100,train,a/0.png\n"})
    with caplog.at_level("INFO", "diffmic_jax"):
        fields = data_fields(tmp_path)
    assert fields["data.root"] == str(tmp_path / "BreaKHis_v1/breast")
    assert "no table in" in caplog.text
    # Folders that a table names may be patients.
    write_tables(tmp_path, {"Folds.csv": "folder,outcome\nbenign,0\nmalignant,1\n"})
    assert data_fields(tmp_path)["data.labels"] == "Folds.csv"
    # Beside images that no folder gives a class, it is still the table to mend.
    shutil.rmtree(tmp_path / "BreaKHis_v1/breast/benign")
    assert data_fields(tmp_path)["data.labels"] == "Folds.csv"


@pytest.mark.parametrize("ending", ["", ".png"])
def test_the_column_of_images_is_known_by_its_files(tmp_path, caplog, ending):
    rows = [f"{i % 2},A{i}{ending},http://x/{i},{'xy'[i % 2]}" for i in range(20)]
    for i in range(20):
        write_image(tmp_path / "images" / f"a{i}.png")
    write_tables(tmp_path, {"t.csv": "\n".join(["scale,md5hash,url,label", *rows])})
    with caplog.at_level("INFO", "diffmic_jax"):
        source = open_source(Config().changed(data_fields(tmp_path)).data)
    assert len(source.records) == 20
    assert source.task.class_names == ("x", "y")
    assert "the images are in column md5hash" in caplog.text
    # Numbers may be anything, as the age.
    ages = [f"{i},{i + 30},{'xy'[i % 2]}" for i in range(20)]
    for i in range(20):
        write_image(tmp_path / "images" / f"{i + 30}.png")
    write_tables(tmp_path, {"t.csv": "\n".join(["patient,years,diagnosis", *ages])})
    with pytest.raises(InputError, match="columns patient,years,diagnosis are unknown"):
        open_source(Config().changed(data_fields(tmp_path)).data)
    # Not where two columns could be meant.
    twice = [f"a{i},a{i},{'xy'[i % 2]}" for i in range(20)]
    write_tables(tmp_path, {"t.csv": "\n".join(["one,two,label", *twice])})
    with pytest.raises(InputError, match="columns one,two,label are unknown"):
        open_source(Config().changed(data_fields(tmp_path)).data)

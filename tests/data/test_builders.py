from __future__ import annotations

import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds

from diffmic_jax.cli import main as cli
from diffmic_jax.data import archives, builders, images
from diffmic_jax.data.catalog import HAM10000
from diffmic_jax.errors import InputError
from tests.data import native
from tests.data.opened import open_source

WRITERS = {
    "ham10000": native.write_ham10000,
    "aptos2019": native.write_aptos2019,
    "chestxray14": native.write_chestxray14,
}


@pytest.mark.parametrize("name", WRITERS)
def test_a_prepared_data_set_is_the_native_one(tmp_path, name):
    WRITERS[name](tmp_path / "native")
    made = builders.prepare(name, tmp_path / "native", tmp_path / "data")
    assert made.folder == tmp_path / "data" / name / "1.0.0"
    ours, theirs = (
        open_source(name, tmp_path / d, validation_fraction=0.3) for d in ("data", "native")
    )
    assert ours.task == theirs.task
    for part, records in theirs.splits.items():
        assert [r[:2] + r[3:] for r in ours.splits[part]] == [r[:2] + r[3:] for r in records]
        for mine, other in zip(ours.splits[part][:3], records, strict=False):
            np.testing.assert_array_equal(ours.read(mine).pixels, theirs.read(other).pixels)


def test_tfds_reads_it_without_us(tmp_path):
    native.write_ham10000(tmp_path / "native", count=14)
    made = builders.prepare("ham10000", tmp_path / "native", tmp_path / "data")
    builder = tfds.builder_from_directory(made.folder)
    assert tuple(builder.info.features["label"].names) == HAM10000.class_names
    assert "Tschandl" in builder.info.citation
    rows = builder.as_data_source(split="train")
    assert len(rows) == builder.info.splits["train"].num_examples == 14
    row = rows[9]
    assert row["image"].shape == (native.SIDE, native.SIDE + 8, 3)
    assert (row["id"], row["label"], row["group"]) == (b"ISIC_0024315", 2, b"HAM_0000002")


def test_prepare_prints_the_count_and_is_done_once(tmp_path, capsys):
    native.write_aptos2019(tmp_path / "native")
    command = ["prepare", "aptos2019", f"--manual_dir={tmp_path}/native"]
    command.append(f"--data_dir={tmp_path}/data")
    assert cli.main(command) == 0
    printed = capsys.readouterr().out.splitlines()
    assert printed[0] == f"aptos2019: 40 images (40 train) in {tmp_path}/data/aptos2019/1.0.0"
    assert printed[1] == "note: the published set has 3,662 images"
    assert printed[2].startswith("note: without DiffMIC's split; for it put aptos_train.pkl and")
    (shard,) = (tmp_path / "data/aptos2019/1.0.0").glob("*.array_record*")
    before = shard.stat().st_mtime_ns
    assert cli.main(command) == 0
    assert shard.stat().st_mtime_ns == before


def test_the_authors_split_goes_with_the_data(tmp_path):
    native.write_aptos2019(tmp_path / "native")
    codes = [line.split(",")[0] for line in (tmp_path / "native/train.csv").read_text().split()[1:]]
    (tmp_path / "lists").mkdir()
    for part, names in (("train", codes[:30]), ("test", codes[30:])):
        entries = [{"img_root": f"x/{name}.png", "label": 0} for name in names]
        (tmp_path / "lists" / f"aptos_{part}.pkl").write_bytes(pickle.dumps(entries))
    made = builders.prepare(
        "aptos2019", tmp_path / "native", tmp_path / "data", lists=tmp_path / "lists"
    )
    assert made.has_authors
    source = open_source("aptos2019", tmp_path / "data", protocol="authors")
    assert [r.id for r in source.splits["test"]] == codes[30:]


@pytest.mark.parametrize("policy", ["error", "skip"])
def test_a_bad_image_stops_or_is_left_out(tmp_path, capsys, policy):
    native.write_aptos2019(tmp_path / "native")
    bad = sorted((tmp_path / "native/train_images").iterdir())[3]
    bad.write_bytes(bad.read_bytes()[:100])
    command = ["prepare", "aptos2019", f"--manual_dir={tmp_path}/native"]
    command += [f"--data_dir={tmp_path}/data", f"--on_bad_image={policy}"]
    status = cli.main(command)
    printed = capsys.readouterr()
    assert f"{bad}: cannot be read" in printed.err
    folder = archives.find_prepared(tmp_path / "data", "aptos2019")
    if policy == "error":
        assert status == 2
        assert folder is None
    else:
        assert status == 0
        assert "39 images (39 train)" in printed.out
        assert "1 images skipped" in printed.err


def test_images_are_checked_once_over_two_attempts(tmp_path, monkeypatch):
    monkeypatch.setattr(builders, "CHUNK", 10)
    native.write_aptos2019(tmp_path / "native")
    decoded: list[str] = []

    def decode(file, name, max_pixels):
        decoded.append(name)
        if len(decoded) == 25:
            raise KeyboardInterrupt
        return images.Decoded(np.zeros((2, 2, 3), np.uint8), "RGB")

    monkeypatch.setattr(images, "decode", decode)
    with pytest.raises(KeyboardInterrupt):
        builders.prepare("aptos2019", tmp_path / "native", tmp_path / "data")
    assert archives.find_prepared(tmp_path / "data", "aptos2019") is None
    before = len(decoded)
    builders.prepare("aptos2019", tmp_path / "native", tmp_path / "data")
    assert 15 <= len(decoded) - before <= 20  # of 40


def test_a_killed_attempt_leaves_nothing_that_is_taken_for_data(tmp_path):
    native.write_aptos2019(tmp_path / "native")
    script = f"""
import os, signal
from diffmic_jax.data import builders
real = builders._encoded
def encoded(path, count=[0]):
    count[0] += 1
    if count[0] == 20:
        os.kill(os.getpid(), signal.SIGKILL)
    return real(path)
builders._encoded = encoded
builders.prepare("aptos2019", {str(tmp_path / "native")!r}, {str(tmp_path / "data")!r})
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True)
    assert done.returncode == -9
    home = tmp_path / "data" / "aptos2019"
    assert archives.find_prepared(tmp_path / "data", "aptos2019") is None
    assert list(home.glob("incomplete.*"))
    made = builders.prepare("aptos2019", tmp_path / "native", tmp_path / "data")
    assert made.counts == {"train": 40}
    assert not list(home.glob("incomplete.*"))


def test_a_disk_that_fills_up_within_the_records_is_one_line(tmp_path):
    native.write_aptos2019(tmp_path / "native")
    code = (
        "import resource, sys\n"
        "from diffmic_jax.cli import main as cli\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, 30_000))\n"
        "sys.exit(cli.main(sys.argv[1:]))\n"
    )
    argv = [f"--manual_dir={tmp_path}/native", f"--data_dir={tmp_path}/data"]
    command = [sys.executable, "-c", code, "prepare", "aptos2019", *argv]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    last = done.stderr.splitlines()[-1]
    assert last.startswith(f"error: {tmp_path}/data/aptos2019: cannot be written (")
    assert archives.find_prepared(tmp_path / "data", "aptos2019") is None


def test_an_unfinished_folder_of_tfds_is_not_taken_for_data(tmp_path):
    native.write_aptos2019(tmp_path / "native")
    left = tmp_path / "data/aptos2019/incomplete.ABC_1.0.0"
    left.mkdir(parents=True)
    (left / "dataset_info.json").write_text("{}")
    assert builders.prepare("aptos2019", tmp_path / "native", tmp_path / "data").fresh
    assert not left.exists()


def test_what_prepare_would_not_do_is_refused(tmp_path):
    native.write_aptos2019(tmp_path / "aptos2019")
    with pytest.raises(InputError, match="--data_dir=.*: would write into the images"):
        builders.prepare("aptos2019", tmp_path / "aptos2019", tmp_path)
    made = builders.prepare("aptos2019", tmp_path / "aptos2019", tmp_path / "data")
    with pytest.raises(InputError, match=f"{made.folder}: prepared without --lists; delete it"):
        builders.prepare("aptos2019", tmp_path / "aptos2019", tmp_path / "data", lists=tmp_path)
    with pytest.raises(InputError, match=r"--manual_dir='/nowhere': no such folder; download"):
        builders.prepare("aptos2019", "/nowhere", tmp_path / "other")
    for path in (tmp_path / "aptos2019/train_images").iterdir():
        path.write_bytes(b"")
    with pytest.raises(InputError, match="no image can be read"):
        builders.prepare(
            "aptos2019", tmp_path / "aptos2019", tmp_path / "other", on_bad_image="skip"
        )


def test_a_missing_download_is_named(tmp_path, capsys):
    command = ["prepare", "chestxray14", f"--manual_dir={tmp_path}", f"--data_dir={tmp_path}/data"]
    assert cli.main(command) == 2
    printed = capsys.readouterr().err
    assert "has no Data_Entry_2017.csv or Data_Entry_2017_v2020.csv; download images_001" in printed
    assert cli.main(["prepare", "imagenet", f"--manual_dir={tmp_path}", "--data_dir=x"]) == 2
    assert "'imagenet' is unknown; choose one of ham10000, aptos2019" in capsys.readouterr().err


def test_a_damaged_prepared_data_set_is_named(tmp_path):
    native.write_aptos2019(tmp_path / "native")
    folder = builders.prepare("aptos2019", tmp_path / "native", tmp_path / "data").folder
    (shard,) = folder.glob("*.array_record*")
    content = shard.read_bytes()
    shard.write_bytes(content[: len(content) // 2])
    source = open_source("aptos2019", tmp_path / "data")
    with pytest.raises(InputError, match=f"{folder} image .*: cannot be read .*prepare it again"):
        source.read(source.splits["train"][0])
    (folder / "metadata.json").write_text("{}")
    with pytest.raises(InputError, match=f"{folder}.*(damaged|not JSON)"):
        open_source("aptos2019", tmp_path / "data")


def test_other_kinds_of_files_are_stored_as_png(tmp_path: Path):
    for i in range(8):
        native.picture(tmp_path / "native" / "ab"[i % 2] / f"{i}.bmp", 0, i)
    builders.prepare("pmg2000", tmp_path / "native", tmp_path / "data")
    ours, theirs = (
        open_source("pmg2000", tmp_path / d, validation_fraction=0) for d in ("data", "native")
    )
    assert ours.task.class_names == ("a", "b")
    for mine, other in zip(ours.records, theirs.records, strict=True):
        np.testing.assert_array_equal(ours.read(mine).pixels, theirs.read(other).pixels)

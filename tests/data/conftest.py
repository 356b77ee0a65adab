from __future__ import annotations

import pickle
from pathlib import Path

import pytest

from tests.data.written import write_image


@pytest.fixture
def listed(tmp_path) -> Path:
    """Images and pickled lists with paths of another machine."""
    for i in range(12):
        write_image(tmp_path / "images" / f"{i}.png")
    for name, numbers in (("train", range(8)), ("test", range(8, 12))):
        entries = [{"img_root": f"./dataset/his/{i}.png", "label": i % 2} for i in numbers]
        (tmp_path / f"{name}.pkl").write_bytes(pickle.dumps(entries))
    return tmp_path


@pytest.fixture
def pydicom():
    return pytest.importorskip("pydicom")

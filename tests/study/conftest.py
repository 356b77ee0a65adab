from __future__ import annotations

import pytest

from tests.study.specs import CONFIG, STUDY


@pytest.fixture(scope="module")
def spec(tmp_path_factory, tiny_data) -> str:
    """A study file of tiny runs."""
    folder = tmp_path_factory.mktemp("specs")
    (folder / "config.py").write_text(CONFIG.format(root=tiny_data))
    (folder / "study.py").write_text(STUDY.format(config=folder / "config.py"))
    return f"{folder}/study.py:one"

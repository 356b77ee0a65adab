"""The script that draws regions: of a run, and of networks before their first step."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytestmark = pytest.mark.whole

SCRIPTS = Path(__file__).parents[1] / "scripts"


@pytest.fixture
def draw(monkeypatch, tmp_path):
    """Function from flags to the exit status and the picture, if there is one."""
    monkeypatch.syspath_prepend(str(SCRIPTS))
    out = tmp_path / "regions.png"

    def start(*flags: str) -> tuple[int, np.ndarray | None]:
        monkeypatch.setattr(sys, "argv", ["draw_regions.py", f"--out={out}", *flags])
        status = importlib.import_module("draw_regions").main()
        return status, np.asarray(Image.open(out)) if out.exists() else None

    return start


@pytest.fixture
def config_file(tmp_path, tiny_data):
    path = tmp_path / "tiny_config.py"
    path.write_text(
        "from pathlib import Path\n"
        "from tests import tiny\n"
        f"def get_config(): return tiny.make_config(Path({str(tiny_data)!r}), "
        "guidance__pretrained='')\n"
    )
    return path


def check_picture(picture: np.ndarray, count: int) -> None:
    """Two rows of 128 px: frames of a colour that the images do not have, and a gray grid."""
    assert picture.shape == (256, 128 * count, 3)
    above, below = np.split(picture.astype(int), 2)
    strongest = (above == (255, 0, 0)).all(axis=-1)
    assert all(part.any() for part in np.split(strongest, count, axis=1))
    np.testing.assert_array_equal(below, below[..., :1].repeat(3, axis=-1))
    # Each image has its own range of saliency, down to 0 and up to 255.
    for part in np.split(below, count, axis=1):
        assert (part.min(), part.max()) == (0, 255)


def test_of_a_run(trained, draw):
    status, picture = draw(f"--workdir={trained}", "--images=3")
    assert status == 0
    check_picture(picture, 3)


def test_of_networks_before_their_first_step_on_a_finer_grid(config_file, draw):
    flags = (f"--config={config_file}", "--images=2", "--split=validation")
    status, picture = draw(*flags, "--set=guidance.saliency_stride=1")
    assert status == 0
    check_picture(picture, 2)
    # Cells of 1 px, which is 4 px in the picture; those of the last features have 2.
    rows = np.diff(picture[128:, :, 0].astype(int), axis=0).any(axis=1)
    assert np.gcd.reduce(np.flatnonzero(rows) + 1) == 4


def test_what_has_no_regions_is_refused(config_file, draw, capsys):
    assert draw() == (2, None)
    assert "give --workdir or --config, one of them" in capsys.readouterr().err
    flags = (f"--config={config_file}", "--set=guidance.network=classifier")
    assert draw(*flags) == (2, None)
    assert "has no regions; give guidance.network=dcg" in capsys.readouterr().err

from __future__ import annotations

import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import jax
import numpy as np
import pytest

from diffmic_jax.training import parallel
from diffmic_jax.types import Batch, InputError
from tests import tiny

EIGHT_DEVICES = """
import sys
from pathlib import Path

import jax
from diffmic_jax import cli, command, experiment
from tests import tiny

assert jax.device_count() == 8
data, folder = Path(sys.argv[1]), Path(sys.argv[2])
config = tiny.make_config(data)
assert command.run_command(lambda: experiment.run(config, folder / "run", "train")) == 0
uneven = tiny.make_config(data, train__batch_size=12)
assert command.run_command(lambda: experiment.run(uneven, folder / "uneven", "train")) == 2
"""


@pytest.fixture(scope="module")
def eight_devices(tmp_path_factory, tiny_data) -> tuple[Path, str]:
    """The folder of a tiny run on eight devices, and what was said on standard error."""
    folder = tmp_path_factory.mktemp("eight")
    forced = {"XLA_FLAGS": "--xla_force_host_platform_device_count=8"}
    done = subprocess.run(
        [sys.executable, "-c", EIGHT_DEVICES, tiny_data, folder],
        cwd=Path(__file__).parents[2],
        env=os.environ | forced,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return folder, done.stderr


def test_eight_devices_equal_one(tiny_data, trained, eight_devices):
    config, (folder, _) = tiny.make_config(tiny_data), eight_devices
    ours, theirs = (tiny.latest_state(config, w) for w in (trained, folder / "run"))
    assert int(ours.step) == int(theirs.step) == tiny.TOTAL
    # A bias before a normalisation has no gradient but rounding noise, of which Adam makes steps.
    for state in (ours, theirs):
        del state.params["denoiser"]["embed"]["linear"]["bias"]
        del state.batch_stats["denoiser"]["embed_norm"]["mean"]
    for kind in ("params", "batch_stats"):
        left, right = (getattr(state, kind) for state in (ours, theirs))
        # A step is about 1e-3 long.
        jax.tree.map(partial(np.testing.assert_allclose, rtol=0, atol=5e-5), left, right)


def test_eight_devices_predict_the_same_in_batches_that_do_not_divide(trained, eight_devices):
    folder, _ = eight_devices
    ours, theirs = (tiny.read_predictions(w / "eval/test") for w in (trained, folder / "run"))
    assert list(ours) == list(theirs)
    np.testing.assert_allclose(list(ours.values()), list(theirs.values()), atol=1e-4)


def test_a_batch_that_the_devices_cannot_share_is_refused_before_anything_is_written(eight_devices):
    folder, said = eight_devices
    assert said.strip().splitlines()[-1] == (
        "error: config.train.batch_size=12 is not divisible by the 8 devices; "
        "choose a multiple of 8"
    )
    assert not (folder / "uneven").exists()


@pytest.mark.parametrize("size", [0, -8])
def test_a_batch_needs_images(size):
    with pytest.raises(InputError, match=f"config.train.batch_size={size} is not divisible"):
        parallel.check_batch_size(parallel.make_mesh(), size, "train.batch_size")


def test_a_batch_reaches_the_devices_as_it_is():
    mesh = parallel.make_mesh()
    image = np.arange(2 * 4 * 4 * 3, dtype=np.float32).reshape(2, 4, 4, 3)
    batch = Batch(image, np.array([1, 0], np.int32), np.ones(2, np.float32))
    for place in (parallel.from_local_rows, parallel.from_all_rows):
        placed = place(mesh, batch)
        assert placed.image.sharding == parallel.split_rows(mesh)
        jax.tree.map(np.testing.assert_array_equal, placed, batch)

from __future__ import annotations

import os
import socket
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
        "error: config.train.batch_size=12 is not divisible by the 8 devices that share it; "
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


BATCHES = """
import sys
from pathlib import Path

import jax
import numpy as np

address, count, process, images, out = sys.argv[1:]
if int(count) > 1:
    jax.distributed.initialize(address, int(count), int(process))

from diffmic_jax.data import loader, transforms
from diffmic_jax.data.cache import CachedPixels, Examples
from diffmic_jax.training import parallel

number = np.arange(22, dtype=np.int32)
examples = Examples(("x",) * 22, number, CachedPixels(Path(images)), number)
batches = loader.train_batches(
    examples, batch_size=4, seed=0, num_steps=7, start_step=3,
    shard_index=jax.process_index(), shard_count=jax.process_count(),
)
mesh = parallel.make_mesh()
stream = parallel.augmented(mesh, batches, transforms.augment, jax.random.key(1), 3)
whole = [
    jax.tree.map(lambda x: np.concatenate([s.data for s in x.addressable_shards]), batch)
    for batch in stream
]
np.savez(out, images=[b.image for b in whole], labels=[b.label for b in whole])
"""


def test_two_processes_make_the_batches_of_one(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (22, 16, 16, 3), np.uint8)
    np.save(tmp_path / "images.npy", pixels)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"

    def start(count: int, process: int) -> subprocess.Popen:
        arguments = [address, str(count), str(process), tmp_path / "images.npy"]
        command = [sys.executable, "-c", BATCHES, *arguments, tmp_path / f"{count}{process}.npz"]
        return subprocess.Popen(command, cwd=Path(__file__).parents[2], stderr=subprocess.PIPE)

    running = [start(1, 0), start(2, 0), start(2, 1)]
    for each in running:
        _, said = each.communicate(timeout=120)
        assert each.returncode == 0, said.decode()
    one, first, second = (np.load(tmp_path / f"{name}.npz") for name in ("10", "20", "21"))
    assert one["images"].shape == (4, 4, 16, 16, 3)
    for name in ("images", "labels"):
        joined = np.concatenate([first[name], second[name]], axis=1)
        np.testing.assert_array_equal(joined, one[name])

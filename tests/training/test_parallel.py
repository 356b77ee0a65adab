from __future__ import annotations

import csv
import os
import shutil
import signal
import socket
import subprocess
import sys
from functools import partial
from pathlib import Path

import jax
import numpy as np
import pytest

from diffmic_jax import api
from diffmic_jax.errors import InputError
from diffmic_jax.training import parallel
from diffmic_jax.types import Batch
from tests import tiny
from tests.processes import PROJECT, finish_all, start, start_together, write_config

FOUR_DEVICES = """
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
from diffmic_jax.cli import process as command
from diffmic_jax import api
from diffmic_jax.training.checksum import checksums
from diffmic_jax.training.parallel import make_mesh, replicated, state_shardings
from tests import tiny

assert jax.device_count() == 4
data, folder = Path(sys.argv[1]), Path(sys.argv[2])


def run(name, status, recipe="v1", **changes):
    config = tiny.make_config(data, recipe, **tiny.TWENTY_STEPS | changes)
    assert command.run_command(lambda: api.train(config, folder / name)) == status


if "v2" in sys.argv:
    run("v2", 0, "v2", train__model_shards=2)
    sys.exit()

run("data", 0)
run("uneven", 2, train__batch_size=10)
run("odd", 2, train__model_shards=3)

mesh = make_mesh(4)
wide = {"denoiser": {"w": jnp.arange(64.0).reshape(4, 16)}}
pieces = jax.device_put(wide, state_shardings(mesh, wide, 16))
assert pieces["denoiser"]["w"].addressable_shards[0].data.shape == (4, 4)
assert checksums(pieces) == checksums(wide)
"""


@pytest.fixture(scope="module")
def one_device(tmp_path_factory, tiny_data) -> Path:
    """Workdir of twenty steps on one device."""
    workdir = tmp_path_factory.mktemp("one") / "run"
    api.train(tiny.make_config(tiny_data, **tiny.TWENTY_STEPS), workdir)
    return workdir


def on_four_devices(*argv: str | Path) -> str:
    """Make such runs, or that of v2, in a process with four devices; its standard error."""
    done = subprocess.run(
        [sys.executable, "-c", FOUR_DEVICES, *argv],
        cwd=PROJECT,
        env=os.environ | {"JAX_NUM_CPU_DEVICES": "4"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stderr


@pytest.fixture(scope="module")
def four_devices(tmp_path_factory, tiny_data) -> tuple[Path, str]:
    """The folder of the runs on four devices, and its standard error."""
    folder = tmp_path_factory.mktemp("four")
    return folder, on_four_devices(tiny_data, folder)


def logged(workdir: Path, *words: str) -> list[list[float]]:
    """The columns with one of the words in their name, for every step."""
    with (workdir / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    names = [name for name in rows[0] if any(word in name for word in words)]
    return [[float(row[name] or 0) for name in names] for row in rows]


def predicted(workdir: Path) -> dict[str, str]:
    """The predicted class of every test image."""
    with (workdir / "eval/test/predictions.csv").open(newline="") as file:
        return {row["id"]: row["prediction"] for row in csv.DictReader(file)}


def assert_same_run(data: Path, workdir: Path, reference: Path, recipe: str = "v1") -> None:
    """Twenty steps that went the same way, but for rounding."""
    # A gradient is a difference of nearly equal sums, which the devices add in another order.
    for words, bound in ((("loss", "mmd"), 1e-4), (("norm",), 5e-4)):
        found, expected = (logged(each, *words) for each in (workdir, reference))
        np.testing.assert_allclose(found, expected, rtol=bound, atol=1e-5)
    config = tiny.make_config(data, recipe, **tiny.TWENTY_STEPS)
    ours, theirs = (tiny.latest_state(config, each) for each in (workdir, reference))
    assert int(ours.step) == int(theirs.step) == 20
    close = partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-5)
    # A few of the denoiser's numbers leave that range: Adam makes full steps of small gradients.
    near = partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-4)

    def near_where_it_learns(left: jax.Array, right: jax.Array, squares: jax.Array) -> None:
        # Where gradients are rounding noise, as those of a bias before a normalisation are, Adam
        # makes full steps of it.
        near(np.where(np.sqrt(squares) < 1e-6, right, left), right)

    squares = theirs.opt_state["denoiser"][1][0].nu
    params = (each.params["denoiser"] for each in (ours, theirs))
    jax.tree.map(near_where_it_learns, *params, squares)
    jax.tree.map(close, ours.params["guidance"], theirs.params["guidance"])
    for state in (ours, theirs):
        for name in {"embed_norm", "local_norm"} & set(state.batch_stats["denoiser"]):
            del state.batch_stats["denoiser"][name]["mean"]  # which that bias moves
    jax.tree.map(close, ours.batch_stats["guidance"], theirs.batch_stats["guidance"])
    jax.tree.map(near, ours.batch_stats["denoiser"], theirs.batch_stats["denoiser"])
    assert predicted(workdir) == predicted(reference)


@pytest.mark.whole
def test_four_devices_equal_one(tiny_data, one_device, four_devices):
    folder, _ = four_devices
    assert_same_run(tiny_data, folder / "data", one_device)


@pytest.mark.whole
def test_four_devices_equal_one_for_maps_of_labels(tmp_path, tiny_data):
    on_four_devices(tiny_data, tmp_path, "v2")
    config = tiny.make_config(tiny_data, "v2", **tiny.TWENTY_STEPS)
    api.train(config, tmp_path / "run")
    assert_same_run(tiny_data, tmp_path / "v2", tmp_path / "run", "v2")


@pytest.mark.whole
def test_four_devices_predict_the_same_in_batches_that_do_not_divide(one_device, four_devices):
    folder, _ = four_devices
    ours, theirs = (tiny.read_predictions(w / "eval/test") for w in (one_device, folder / "data"))
    assert list(ours) == list(theirs)
    np.testing.assert_allclose(list(ours.values()), list(theirs.values()), atol=1e-4)


@pytest.mark.whole
def test_what_the_devices_cannot_share_is_refused_before_anything_is_written(four_devices):
    folder, shown = four_devices
    batch, shards = [line for line in shown.splitlines() if line.startswith("error: ")]
    assert batch == (
        "error: config.train.batch_size=10 is not divisible by the 4 devices that share it; "
        "choose a multiple of 4"
    )
    assert shards.startswith("error: config.train.model_shards=3 does not divide the 4 devices")
    assert not (folder / "uneven").exists()
    assert not (folder / "odd").exists()


# Several processes.


@pytest.fixture(scope="module")
def stopped(tmp_path_factory, tiny_data) -> tuple[Path, Path, list[str]]:
    """Config, workdir and both standard errors of a run in two processes; one got SIGTERM."""
    folder = tmp_path_factory.mktemp("two")
    config = write_config(folder / "config.py", tiny_data, **tiny.TWENTY_STEPS)
    argv = (f"--config={config}", f"--workdir={folder / 'run'}")
    first, second = start_together(2, *argv, "--config.train.model_shards=2", devices=2)
    assert first.stderr is not None
    for line in first.stderr:
        if "joint step 7:" in line:
            second.send_signal(signal.SIGTERM)
            break
    return config, folder / "run", finish_all([first, second], 75)


@pytest.mark.whole
def test_two_processes_stop_after_the_same_step_when_one_is_asked(stopped):
    _, workdir, shown = stopped
    ends = [text.splitlines()[-1] for text in shown]
    step = max(int(path.name) for path in (workdir / "checkpoints").iterdir())
    assert step < 20
    assert (
        ends
        == [f"stopped after step {step} of 20 and saved; run the same command again to go on"] * 2
    )


@pytest.mark.whole
@pytest.mark.parametrize("count", [1, 2])
def test_what_two_processes_began_ends_as_on_one_device(
    tmp_path, tiny_data, one_device, stopped, count
):
    config, workdir, _ = stopped
    shutil.copytree(workdir, tmp_path / "run")
    argv = (f"--config={config}", f"--workdir={tmp_path / 'run'}")
    split = [*argv, "--config.train.model_shards=2"]  # the programs that they began with
    running = start_together(count, *split, devices=2) if count > 1 else [start(*argv)]
    finish_all(running)
    assert_same_run(tiny_data, tmp_path / "run", one_device)


@pytest.mark.parametrize("size", [0, -8])
def test_a_batch_needs_images(size):
    with pytest.raises(InputError, match=f"config.train.batch_size={size} is not divisible"):
        parallel.check_batch_size(parallel.make_mesh(), size, "train.batch_size")


@pytest.mark.parametrize(
    ("count", "size"), [(1, 1), (2, 2), (3, 4), (33, 64), (64, 64), (65, 100), (9999, 100)]
)
def test_few_images_go_into_a_small_batch_of_few_sizes(count, size):
    assert parallel.bucket(parallel.make_mesh(), count, most=100) == size


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
from functools import partial
from pathlib import Path

import jax
import numpy as np

address, count, process, images, out = sys.argv[1:]
if int(count) > 1:
    jax.distributed.initialize(address, int(count), int(process))

from diffmic_jax.config import Data
from diffmic_jax.data import loader, transforms
from diffmic_jax.data.cache import Examples
from diffmic_jax.data.store import CachedPixels
from diffmic_jax.training import parallel

number = np.arange(22, dtype=np.int32)
examples = Examples(("x",) * 22, number, CachedPixels(Path(images)), number)
batching = loader.Batching(
    batch_size=4, shard_index=jax.process_index(), shard_count=jax.process_count()
)
batches = loader.train_batches(examples, batching, seed=0, num_steps=7, start_step=3)
mesh = parallel.make_mesh()
augment = partial(transforms.augment, own=Data())
stream = parallel.augmented(mesh, batches, augment, jax.random.key(1), 3)
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
        return subprocess.Popen(command, cwd=PROJECT, stderr=subprocess.PIPE)

    running = [start(1, 0), start(2, 0), start(2, 1)]
    for each in running:
        _, shown = each.communicate(timeout=120)
        assert each.returncode == 0, shown.decode()
    one, first, second = (np.load(tmp_path / f"{name}.npz") for name in ("10", "20", "21"))
    assert one["images"].shape == (4, 4, 16, 16, 3)
    for name in ("images", "labels"):
        joined = np.concatenate([first[name], second[name]], axis=1)
        np.testing.assert_array_equal(joined, one[name])

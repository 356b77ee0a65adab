"""Checkpoints that something happened to: found, named, and done without."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffmic_jax.errors import DamagedCheckpointError, InputError
from diffmic_jax.method.state import TrainState
from diffmic_jax.training import parallel
from diffmic_jax.training.checkpoint import Checkpoints
from tests.helpers import replicated

META = {"class_names": ["cat", "dog"], "config": {"seed": 1}}


def state(step: int, width: int = 64) -> TrainState:
    """A state whose arrays depend on its step."""
    rng = np.random.default_rng(step)
    weights = {"w": jnp.asarray(rng.standard_normal((width, width)), jnp.float32)}
    count, zero = {"count": jnp.int32(step)}, jnp.int32(0)
    return TrainState(jnp.int32(step), {"denoiser": weights}, {}, count, {}, zero, zero)


def abstract(width: int = 64) -> TrainState:
    return replicated(jax.eval_shape(lambda: state(0, width)))


def save(workdir: Path, **metrics: float | None) -> Path:
    """Checkpoints of steps s1, s2, ... with these accuracies; the folder of the last one."""
    with Checkpoints(workdir, "accuracy") as checkpoints:
        for name, value in metrics.items():
            step = int(name[1:])
            checkpoints.save(step, state(step), META, value and {"accuracy": value})
    return workdir / "checkpoints" / str(step)


def resumed(workdir: Path) -> int | None:
    """The step that training goes on from."""
    with Checkpoints(workdir, "accuracy") as checkpoints:
        found = checkpoints.resume(lambda step: checkpoints.restore(step, abstract()))
        if found is None:
            return None
        jax.tree.map(np.testing.assert_array_equal, found, state(int(found.step)))
        return int(found.step)


def everything(workdir: Path) -> str:
    """What a reader gets of checkpoint 2: state, facts and rank; 'damaged' if it is refused."""
    try:
        with Checkpoints(workdir, "accuracy", read_only=True) as checkpoints:
            found = checkpoints.restore(2, abstract())
            jax.tree.map(np.testing.assert_array_equal, found, state(2))
            assert checkpoints.meta(2) == META
            assert checkpoints.best_step == 1
            return "equal"
    except DamagedCheckpointError as error:
        assert str(error).startswith(str(workdir / "checkpoints" / "2"))
        return "damaged"


def flip(path: Path, place: int) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 1 << (place % 8)
    path.write_bytes(content)


# Orbax leaves coroutines behind where reading fails.
left_behind = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


@left_behind
def test_a_flipped_byte_in_any_file_is_found_or_harmless(tmp_path):
    folder = save(tmp_path / "run", s1=0.9, s2=0.5)
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.stat().st_size)
    assert len(files) > 3
    found = {}
    for path in files:
        whole = path.read_bytes()
        for place in {0, len(whole) // 3, len(whole) // 2, len(whole) - 1}:
            flip(path, place)
            found.setdefault(path.relative_to(folder).as_posix(), set()).add(
                everything(tmp_path / "run")
            )
            path.write_bytes(whole)
    assert everything(tmp_path / "run") == "equal"
    assert found["record/metadata"] == {"damaged"}
    # What holds the arrays is never silently wrong, and `everything` checks every value.
    assert any("damaged" in states for name, states in found.items() if "/d/" in name)


@left_behind
def test_a_missing_or_cut_file_is_found(tmp_path):
    folder = save(tmp_path / "run", s1=0.9, s2=0.5)
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    for path in sorted(copy.rglob("manifest.ocdbt")) + [copy / "record/metadata"]:
        own = folder / path.relative_to(copy)
        if own.parent.name.startswith("ocdbt.process"):
            continue  # merged into the one above it
        own.unlink()
        assert everything(tmp_path / "run") == "damaged", path
        own.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        assert everything(tmp_path / "run") == "damaged", path
        shutil.copy(path, own)


def test_another_checkpoints_arrays_are_not_taken_for_its_own(tmp_path):
    folder = save(tmp_path, s1=0.9, s2=0.5)
    shutil.rmtree(folder / "state")
    shutil.copytree(folder.parent / "1" / "state", folder / "state")
    with (
        Checkpoints(tmp_path, "accuracy", read_only=True) as checkpoints,
        pytest.raises(
            DamagedCheckpointError,
            match=r"2 is damaged \(step, params.denoiser.w, opt_state.count is",
        ),
    ):
        checkpoints.restore(2, abstract())


def test_training_goes_on_from_the_one_before_and_keeps_the_damaged_one_aside(tmp_path):
    folder = save(tmp_path, s1=0.1, s2=0.9, s3=0.5)
    flip(folder / "record" / "metadata", 40)
    assert resumed(tmp_path) == 2
    assert {path.name for path in folder.parent.iterdir()} == {"2"}
    assert (tmp_path / "damaged" / "3" / "record").is_dir()
    save(tmp_path, s3=0.5)
    assert resumed(tmp_path) == 3


def test_every_process_waits_until_a_damaged_one_is_set_aside(tmp_path, monkeypatch):
    save(tmp_path, s1=0.1, s2=0.9)
    met = []

    def meet(where: str) -> None:
        met.append((where, (tmp_path / "damaged" / "2").is_dir()))

    monkeypatch.setattr(parallel, "meet", meet)
    with Checkpoints(tmp_path, "accuracy") as checkpoints:
        checkpoints._set_aside(2)
        assert checkpoints.latest_step == 1
    assert met == [("set aside", True)]


def test_when_all_are_damaged_training_refuses_and_moves_nothing(tmp_path):
    folder = save(tmp_path, s1=0.1, s2=0.9)
    for each in folder.parent.iterdir():
        (each / "record" / "metadata").unlink()
    with pytest.raises(InputError, match="holds no checkpoint that is not damaged; put back a"):
        resumed(tmp_path)
    assert {path.name for path in folder.parent.iterdir()} == {"1", "2"}
    assert resumed(tmp_path / "new") is None


def test_a_damaged_best_is_neither_deleted_nor_replaced_silently(tmp_path):
    folder = save(tmp_path, s1=0.9, s2=0.5).parent / "1"
    flip(folder / "record" / "metadata", 40)
    save(tmp_path, s3=0.4, s4=0.3)
    with Checkpoints(tmp_path, "accuracy", read_only=True) as checkpoints:
        assert checkpoints.steps == [1, 2, 3, 4]
        with pytest.raises(DamagedCheckpointError, match=r"checkpoints/1 is damaged \("):
            checkpoints.best_step  # noqa: B018
    shutil.rmtree(folder)
    with Checkpoints(tmp_path, "accuracy", read_only=True) as checkpoints:
        assert checkpoints.best_step == 2


def test_other_networks_are_refused_with_the_difference(tmp_path):
    save(tmp_path, s1=0.9)
    with (
        Checkpoints(tmp_path, "accuracy", read_only=True) as checkpoints,
        pytest.raises(InputError) as caught,
    ):
        checkpoints.restore(1, abstract(width=4))
    assert "params.denoiser.w is float32[64,64], not float32[4,4]" in str(caught.value)
    assert not isinstance(caught.value, DamagedCheckpointError)


# A disk that is full, or cannot be written.


@pytest.fixture
def own_mounts() -> Callable[[str], str]:
    """Function that runs shell commands, which may mount file systems; gives what they print."""

    def run(script: str) -> str:
        done = subprocess.run(
            ["unshare", "--map-root-user", "--mount", "sh", "-ec", script],
            cwd=Path(__file__).parents[2],
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    try:
        run("mount -t tmpfs tmpfs /mnt")
    except (OSError, AssertionError):
        pytest.skip("needs unshare and mount")
    return run


FULL = """
import os
from pathlib import Path

import pytest
from diffmic_jax.errors import StorageError
from tests.training import test_damage as damage

workdir, other = Path("/mnt/run"), Path("/mnt/other")
damage.save(workdir, s1=0.5)
disk = os.statvfs("/mnt")
other.write_bytes(bytes(disk.f_bavail * disk.f_bsize - 12_000))
with pytest.raises(StorageError) as caught:
    damage.save(workdir, s2=0.9)
print(caught.value)
assert damage.resumed(workdir) == 1
other.unlink()
damage.save(workdir, s2=0.9)
assert damage.resumed(workdir) == 2
assert sorted(path.name for path in (workdir / "checkpoints").iterdir()) == ["1", "2"]
"""


def test_a_full_disk_is_reported_and_leaves_the_checkpoint_before(own_mounts):
    shown = own_mounts(
        f"mount -t tmpfs -o size=600k tmpfs /mnt; {sys.executable} - <<'EOF'\n{FULL}\nEOF\n"
    )
    assert shown == "/mnt/run/checkpoints/2: cannot be written (No space left on device)\n"


def test_a_folder_that_cannot_be_written_is_refused_before_anything_else(own_mounts):
    check = (
        "from diffmic_jax.training.workdir import check_writable as check; from pathlib import Path"
    )
    shown = own_mounts(
        "mount -t tmpfs -o ro tmpfs /mnt; "
        f"{sys.executable} -c '{check}; check(Path(\"/mnt/a/b\"))' 2>&1 | tail -n 1"
    )
    assert shown.endswith(
        "InputError: /mnt cannot be written; change its permissions or choose another --workdir\n"
    )

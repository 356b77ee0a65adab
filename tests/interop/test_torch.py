"""Checkpoints that PyTorch itself has written; `scripts/test torch` has it."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest

from diffmic_jax.errors import InputError
from diffmic_jax.nn import state_dict

torch = pytest.importorskip("torch")


class Evil:
    """A pickle of it leaves a file behind when it is loaded."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_torch_files_are_read_in_their_containers(tmp_path):
    state = {"a.weight": torch.arange(6.0).reshape(2, 3), "a.counter": torch.tensor(3)}
    for name, content in {
        "plain": state,
        "diffmic": [state, {"state": {}}, 7, 100],
        "lightning": {"state_dict": {f"model.{k}": v for k, v in state.items()}, "epoch": 3},
        "sam": {"model": state},
    }.items():
        path = tmp_path / f"{name}.pth"
        torch.save(content, path)
        found = state_dict.read(path, "model." if name == "lightning" else "")
        np.testing.assert_array_equal(found["a.weight"], np.arange(6.0).reshape(2, 3))
        assert found["a.counter"].dtype == np.int64
    state_dict.write(tmp_path / "back.pth", found)
    assert state_dict.read(tmp_path / "back.pth").keys() == found.keys()


def test_a_pickle_that_wants_to_run_code_is_refused(tmp_path):
    torch.save({"state_dict": Evil(tmp_path / "ran")}, tmp_path / "evil.pth")
    (tmp_path / "plain.pth").write_bytes(pickle.dumps(Evil(tmp_path / "ran"), protocol=2))
    for name in ("evil", "plain"):
        with pytest.raises(InputError, match=rf"{name}\.pth: holds more than weights, and what it"):
            state_dict.read(tmp_path / f"{name}.pth")
    assert not (tmp_path / "ran").exists()

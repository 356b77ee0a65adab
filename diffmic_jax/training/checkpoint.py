"""Checkpoints with Orbax: the latest and the best, each complete on its own.

A checkpoint holds the training state and, as JSON, what is needed to use it elsewhere: class
names and configuration. Orbax commits a checkpoint by a rename, so a killed save leaves none.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import jax
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers as policies

from diffmic_jax.training.state import TrainState
from diffmic_jax.types import InputError

LOWER_IS_BETTER = ("nll", "brier", "ece")


class Checkpoints:
    """The `checkpoints` folder of a workdir; a context manager that waits for open saves."""

    def __init__(self, workdir: Path, metric: str, *, read_only: bool = False) -> None:
        """Open or make the folder.

        Args:
          workdir: the run's folder.
          metric: key of the validation metrics that ranks checkpoints.
          read_only: never write, not even the folder.

        Raises:
          InputError: if it is read-only and there is no checkpoint.
        """
        self.folder = workdir.absolute() / "checkpoints"
        lower = metric in LOWER_IS_BETTER

        def rank(metrics: Mapping[str, float]) -> float:
            # A metric that is undefined on the validation part loses to every defined one.
            return metrics.get(metric, math.inf if lower else -math.inf)

        if read_only and not self.folder.is_dir():
            raise InputError(f"{workdir} holds no checkpoint; train there first, or check the path")
        keep = [
            policies.LatestN(1),
            policies.BestN(
                get_metric_fn=rank, reverse=lower, n=1, keep_checkpoints_without_metrics=False
            ),
        ]
        self._manager = ocp.CheckpointManager(
            self.folder,
            options=ocp.CheckpointManagerOptions(
                preservation_policy=policies.AnyPreservationPolicy(keep),
                best_fn=rank,
                best_mode="min" if lower else "max",
                read_only=read_only,
                create=not read_only,
            ),
        )

    @property
    def latest_step(self) -> int | None:
        """Step of the newest checkpoint."""
        return self._manager.latest_step()

    @property
    def best_step(self) -> int:
        """Step of the best checkpoint on validation; the newest if none was validated.

        Raises:
          InputError: if there is no checkpoint.
        """
        best = self._manager.best_step()
        best = self.latest_step if best is None else best
        if best is None:
            raise InputError(f"{self.folder} holds no complete checkpoint; train there first")
        return best

    def save(
        self,
        step: int,
        state: TrainState,
        meta: Mapping[str, Any],
        metrics: Mapping[str, float] | None = None,
    ) -> None:
        """Save in the background; metrics rank the checkpoint, None leaves it unranked."""
        self._manager.save(
            step,
            args=ocp.args.Composite(
                state=ocp.args.StandardSave(state), meta=ocp.args.JsonSave(dict(meta))
            ),
            metrics=metrics,
            force=True,
        )

    def restore(self, step: int, target: TrainState) -> TrainState:
        """The state at a step.

        Args:
          step: one of the steps kept.
          target: abstract state with shardings, as `jax.eval_shape` gives and `placed` completes.
        """
        args = ocp.args.Composite(state=ocp.args.StandardRestore(target))
        return self._manager.restore(step, args=args)["state"]

    def meta(self, step: int) -> dict[str, Any]:
        """Class names and configuration at a step."""
        args = ocp.args.Composite(meta=ocp.args.JsonRestore())
        return self._manager.restore(step, args=args)["meta"]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._manager.wait_until_finished()
        self._manager.close()


def placed(abstract: TrainState, sharding: jax.sharding.Sharding) -> TrainState:
    """The abstract state with a sharding on every leaf.

    Without one, Orbax restores the devices of the run that saved, which may be others.
    """
    return jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), abstract
    )

"""What a classifier could go by without looking at the disease: form and edges, and a few pixels.

Two questions are asked of the views of an audit:

- Can a class be told by the size, the stored form or the border of its images alone? A small tree
  on these numbers answers, cross-validated over all images.
- How far does a plain classifier get on the very split? A tree on all these numbers and extremely
  randomised trees (Geurts et al. 2006) on 32 x 32 pixels learn from the training part and are
  measured on the test part. A network that is no better has learned nothing that is hard to see.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from sklearn.ensemble import ExtraTreesClassifier
from sklearn.metrics import accuracy_score, f1_score, roc_auc_score
from sklearn.model_selection import StratifiedKFold, cross_val_predict
from sklearn.tree import DecisionTreeClassifier

from diffmic_jax.data.duplicates import split_of
from diffmic_jax.data.layouts import label_array
from diffmic_jax.data.sources import Source
from diffmic_jax.data.views import View, Views
from diffmic_jax.method.task import Task

GROUPS = ("size", "form", "border")
"""Of the numbers about an image: width and height; stored mode and file ending; even borders."""
TOLD = 0.5
"""Sensitivity plus specificity minus 1 from which a class can be told, if two thirds of what is
taken for it are of it; 0 is chance."""
_FOLDS, _FEWEST = 5, 5  # parts of a cross-validation; images that a class needs for it
_MOST = 10_000  # images that trees learn from
_TREES = 200


def tells(source: Source, views: Views) -> dict[str, Any] | None:
    """Which classes can be told by what is no part of the picture; None with several labels.

    Args:
      source: of the images.
      views: of those that can be read.

    Returns:
      `majority`, the share of the largest class; for each of `GROUPS`, and `together`, that differs
      between images: the `accuracy` of a tree, and `classes`: name -> `found` of its `images`, and
      `others`, images of other classes taken for it, of each class that can be told.
      None if no two classes have five images.
    """
    if source.task.multi_label:
        return None
    label = label_array([source.records[at] for at in views], source.task)
    counts = np.bincount(label, minlength=source.task.num_classes)
    enough = np.isin(label, np.flatnonzero(counts >= _FEWEST))
    label = label[enough]
    if len(np.unique(label)) < 2:
        return None
    columns = {group: x[enough] for group, x in _numbers([*views.values()]).items()}
    columns["together"] = np.concatenate([*columns.values()], axis=1)
    found: dict[str, Any] = {"majority": float(counts.max() / counts.sum())}
    for group, x in columns.items():
        if len(np.unique(x, axis=0)) > 1:
            found[group] = _told(x, label, source.task.class_names)
    return found


def forms(source: Source, views: Views) -> dict[str, dict[str, Any]] | None:
    """How the images of each class are stored; None with several labels.

    Returns:
      Class -> the commonest `size` and `mode`, `size_share` and `mode_share` of its images that
      have them, and `border`, the mean of the side's largest even border as a share of it.
    """
    if source.task.multi_label:
        return None
    of_class: dict[str, list[View]] = {}
    for at, view in views.items():
        of_class.setdefault(source.task.name(source.records[at].label), []).append(view)
    found = {}
    for name in filter(of_class.get, source.task.class_names):
        own = of_class[name]
        size, sizes = Counter(f"{v.width}x{v.height}" for v in own).most_common(1)[0]
        mode, modes = Counter(v.mode for v in own).most_common(1)[0]
        border = float(np.mean([max(view.border[:4]) for view in own]))
        shares = {"size_share": sizes / len(own), "mode_share": modes / len(own)}
        found[name] = {"size": size, "mode": mode, **shares, "border": border}
    return found


def _told(x: np.ndarray, label: np.ndarray, names: Sequence[str]) -> dict[str, Any]:
    folds = StratifiedKFold(_FOLDS, shuffle=True, random_state=0)
    guessed = cross_val_predict(_tree(), x, label, cv=folds)
    classes = {}
    for c in np.unique(label):
        own, as_own = label == c, guessed == c
        found, others = int((own & as_own).sum()), int((~own & as_own).sum())
        if found > 2 * others and found / own.sum() - others / (~own).sum() >= TOLD:
            classes[names[c]] = {"found": found, "images": int(own.sum()), "others": others}
    return {"accuracy": float((guessed == label).mean()), "classes": classes}


def _tree() -> DecisionTreeClassifier:
    return DecisionTreeClassifier(max_leaf_nodes=32, min_samples_leaf=2, random_state=0)


def _numbers(views: Sequence[View]) -> dict[str, np.ndarray]:
    """For each of `GROUPS` the numbers [N, M] of N images."""
    texts = [[view.mode for view in views], [view.ending for view in views]]
    codes = [np.unique(np.array(each, str), return_inverse=True)[1] for each in texts]
    return {
        "size": np.array([(v.width, v.height, v.width / v.height) for v in views], float),
        "form": np.stack(codes, axis=1).astype(float),
        "border": np.array([view.border for view in views], float),
    }


def baselines(source: Source, views: Views, learned: Sequence[str] = ("train",)) -> dict[str, Any]:
    """How plain classifiers do on the split.

    Args:
      source: of the images.
      views: of those that can be read.
      learned: the parts that they learn from.

    Returns:
      `trained_on`, how many images; then for `majority` (the commonest class), `metadata` (a tree
      on size, form and border) and `pixels` (extremely randomised trees): `accuracy`, `f1_macro`,
      `auroc_macro` on the test part, None where undefined, and `predictions`, the class of each
      test image by its id. With several labels only `pixels` has numbers, without an accuracy, and
      no predictions. None in place of all if a part has no readable image.
    """
    split, rng = np.array(split_of(source)), np.random.default_rng(0)
    at = np.array([*views], int)
    train, test = (at[np.isin(split[at], parts)] for parts in (learned, ("test",)))
    if not len(train) or not len(test):
        return dict.fromkeys(("trained_on", "majority", "metadata", "pixels"))
    if len(train) > _MOST:
        train = np.sort(rng.choice(train, _MOST, replace=False))
    run = _Split(source, views, train, test)
    found: dict[str, Any] = {"trained_on": len(train), "majority": None, "metadata": None}
    if not source.task.multi_label:
        numbers = np.concatenate([*_numbers([*views.values()]).values()], axis=1)
        rows = dict(zip(views, numbers, strict=True))
        inputs = {i: rows[i] for i in (*train.tolist(), *test.tolist())}
        found["majority"] = run.measured(_tree(), {i: np.zeros(1) for i in inputs})
        found["metadata"] = run.measured(_tree(), inputs)
    forest = ExtraTreesClassifier(_TREES, random_state=0, n_jobs=-1)
    small = {i: _pixels(views[i]) for i in (*train.tolist(), *test.tolist())}
    return found | {"pixels": run.measured(forest, small)}


def _pixels(view: View) -> np.ndarray:
    return view.thumbnail.reshape(-1)


class _Split:
    """Labels of the training and test images that trees see."""

    def __init__(self, source: Source, views: Views, train: np.ndarray, test: np.ndarray) -> None:
        records = source.records
        self.task = source.task
        self.train, self.test = train, test
        self.ids = [records[i].id for i in test]
        self.label = {
            name: label_array([records[i] for i in rows], source.task)
            for name, rows in (("train", train), ("test", test))
        }

    def measured(self, model: Any, inputs: Mapping[int, np.ndarray]) -> dict[str, Any]:
        """A model with scikit-learn's methods, fitted and measured; see `baselines`."""
        x, y = ([inputs[i] for i in rows] for rows in (self.train, self.test))
        label, actual = self.label["train"], self.label["test"]
        wanted = np.maximum(label, 0)
        model.fit(np.stack(x), wanted[:, 0] if wanted.shape[1:] == (1,) else wanted)
        p = _probabilities(model, np.stack(y), self.task)
        if self.task.multi_label:
            return {"accuracy": None, "f1_macro": None, "auroc_macro": _auroc(p, actual, self.task)}
        guessed = p.argmax(axis=1)
        return {
            "accuracy": float(accuracy_score(actual, guessed)),
            "f1_macro": float(f1_score(actual, guessed, average="macro")),
            "auroc_macro": _auroc(p, actual, self.task),
            "predictions": {
                name: self.task.name(c) for name, c in zip(self.ids, guessed, strict=True)
            },
        }


def _probabilities(model: Any, x: np.ndarray, task: Task) -> np.ndarray:
    """[N, C], 0 for classes that the training part lacks."""
    found = model.predict_proba(x)
    p = np.zeros((len(x), task.num_classes))
    if task.multi_label and task.num_classes > 1:
        for c, (own, values) in enumerate(zip(found, model.classes_, strict=True)):
            p[:, c] = own[:, values == 1].sum(axis=1)
    elif task.multi_label:
        p[:, 0] = found[:, model.classes_ == 1].sum(axis=1)
    else:
        p[:, model.classes_] = found
    return p


def _auroc(p: np.ndarray, label: np.ndarray, task: Task) -> float | None:
    """The mean over the classes that some of the known images belong to, and not all."""
    actual, known = task.multi_hot(label), task.known(label)
    found = [
        roc_auc_score(actual[k, c], p[k, c])
        for c, k in enumerate(known.T)
        if 0 < actual[k, c].sum() < k.sum()
    ]
    return float(np.mean(found)) if found else None

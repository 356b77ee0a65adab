"""A folder of images for each class, in the root or in each of its parts, or around the parts."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Mapping, Sequence
from fnmatch import fnmatch
from itertools import groupby
from pathlib import Path

from diffmic_jax.data import labels, masks, mistaken, scan
from diffmic_jax.data.columns import PART_NAMES, holds_validation, part_of
from diffmic_jax.data.csvfile import nfc, normal
from diffmic_jax.data.finder import Inside
from diffmic_jax.data.layouts import PARTS, Layout, Parts, Record, reader
from diffmic_jax.data.options import Options
from diffmic_jax.errors import InputError
from diffmic_jax.method.task import Task

log = logging.getLogger("diffmic_jax")


def open_folders(options: Options) -> Layout:
    """The images in class folders; what lies elsewhere is refused, or left out and told.

    Raises:
      InputError: naming the field or the folder at fault.
    """
    root, known = options.root, options.known
    if options.multi_label:
        raise InputError(
            "config.data.multi_label: class folders give one label; name a CSV in "
            "config.data.labels"
        )
    bases = _folders_of_parts(root)
    folders = _class_folders(bases, options)
    own = labels.unified({normal(folder.name) for folder in folders})
    if not options.testing:
        mistaken.check_parts(folders, own, options.class_names)
    names = options.class_names or labels.class_names(set(own.values()), gaps=True)
    found = scan.scan(root)
    everywhere = _by_folder(
        found,
        list(folders),
        known.ignored if known else "",
        Inside(root, options.data.allow_outside),
    )
    left_out = [each for base in bases for each in folders_in(base) if each not in folders]
    _check_unlabelled(everywhere.pop(None, []), bases, left_out, options)
    files = {each: masks.without(each, inside) for each, inside in everywhere.items() if each}
    if options.class_names and len(names) < 2:
        raise InputError(f"config.data.class_names={names}: give two classes or more")
    lacking = len(classes_in(root)) < 2 and not options.class_names
    deeper = _with_class_folders(root) if lacking else None
    if len(names) < 2 or not folders or deeper:
        fix = "give each class a folder of images, or name a CSV in config.data.labels"
        fix = known.where if known else fix
        if deeper:
            fix = f"{deeper[0]} has {deeper[1]}: name that folder"
        raise InputError(f"config.data.root: fewer than two class folders in {root}; {fix}")
    mistaken.check_copies(list(folders), {each: classes_in(each) for each in folders})
    found.tell(root)
    cut = not options.testing and not {"validation", "test"} <= {*bases.values()}
    if cut and not (options.data.groups or options.data.group_regex):
        masks.check_twins(files)
    inner = mistaken.parts_inside(files) if [*bases] == [root] else None
    if inner:
        log.info("%s: the parts are the folders inside the class folders", root)
    else:
        mistaken.check_inner(files, options.class_names)
    known_labels = labels.lookup(names)
    parts: Parts = {part: [] for part in PARTS}
    for folder, part in folders.items():
        label = labels.find(own[normal(folder.name)], known_labels, str(folder))
        if not files.get(folder):
            raise InputError(f"{folder}: no images in this folder{found.formats}")
        for path in files[folder]:
            record = Record(nfc(path.relative_to(root).as_posix()), label, str(path))
            parts[inner[path] if inner else part].append(record)
    _check_ids([record for listed in parts.values() for record in listed])
    return Layout(Task(class_names=names), parts, reader(options))


def _class_folders(bases: Mapping[Path, str], options: Options) -> dict[Path, str]:
    """The folders of classes, and the part of each.

    Raises:
      InputError: one is named as something else.
    """
    folders = {
        each: part
        for base, part in bases.items()
        for each in masks.without_folders(folders_in(base), options.class_names)
    }
    if [*bases] == [options.root] and not options.testing:
        mistaken.check_names(folders, options.class_names)
    return folders


def _with_class_folders(root: Path) -> tuple[Path, str] | None:
    """The first folder below the root that has class folders itself, and what it has."""
    for folder in folders_in(root):
        inside = [each.name for each in classes_in(folder)]
        if len(inside) > 1:
            more = ", ..." if len(inside) > 3 else ""
            return folder, f"the class folders {', '.join(inside[:3])}{more}"
    return None


def classes_in(root: Path) -> list[Path]:
    """The folders of the root, or of its training part if it has one, with images, not masks."""
    bases = [folder for folder in folders_in(root) if part_of(folder.name) == "train"] or [root]
    found = [each for base in bases for each in folders_in(base) if scan.has_images(each)]
    return masks.without_folders(found)


def _folders_of_parts(root: Path) -> dict[Path, str]:
    """The folders in which the class folders lie, and their parts: `train` and so on, or the root.

    Raises:
      InputError: a folder beside `train` is not the folder of a part.
    """
    given = {folder: part_of(folder.name) for folder in folders_in(root)}
    if "train" not in given.values():
        if alone := next((folder for folder, part in given.items() if part), None):
            raise InputError(
                f"{alone}: has the name of a part, but no folder train is beside it; put the class "
                f"folders to learn from into {root / 'train'}, or rename it if it is a class"
            )
        return {root: "train"}
    for folder, part in given.items():
        if holds_validation(folder.name) and {*given.values()} != {"train", "test"}:
            part = ""  # the others have its images too
        if not part:
            names = ", ".join(PART_NAMES)
            raise InputError(
                f"{folder}: is not one of {names}, as the folders beside it are; move it away"
            )
    return given


def folders_in(root: Path) -> list[Path]:
    """The folders that are not hidden, sorted."""
    return sorted(f for f in root.iterdir() if f.is_dir() and not scan.is_hidden(f.name))


def _by_folder(
    found: scan.Found, folders: Sequence[Path], ignored: str, inside: Inside
) -> dict[Path | None, list[Path]]:
    """The images of each class folder; under None those in none of them.

    Args:
      found: all images.
      folders: of the classes.
      ignored: pattern of names that are none.
      inside: where their files have to be.
    """
    files: dict[Path | None, list[Path]] = defaultdict(list)
    known = set(folders)
    for place, together in groupby(found.images, key=lambda path: path.parent):
        folder = next((each for each in (place, *place.parents) if each in known), None)
        for path in together:
            if not fnmatch(path.name, ignored):
                inside.real(path, str(path))
                files[folder].append(path)
    return files


def _check_unlabelled(
    stray: Sequence[Path], bases: Mapping[Path, str], left_out: Sequence[Path], options: Options
) -> None:
    """Refuse or leave out images that are in no class folder: their class is not known.

    Args:
      stray: the images.
      bases: in which the class folders are, and their parts.
      left_out: folders of masks beside those of the classes; that they are left out is told.
      options: what to do.
    """
    for folder in left_out:
        log.warning("%s is left out, since it is named as masks; else rename it", folder)
    stray = [path for path in stray if not {*path.parents} & {*left_out}]
    if not stray:
        return
    folder = stray[0].parent
    told = f"{folder}: {len(stray)} images, as {stray[0].name}, are not in a folder of a class"
    if options.data.unlabelled == "error":
        raise InputError(
            f"{told}; put them into one, move them away to classify them with `diffmic predict`, "
            "or set config.data.unlabelled=skip"
        )
    log.warning("%s and are left out", told)
    if bases.get(folder, "train") != "train":
        log.warning("%s: another %s part is cut if no class folder is in it", folder, bases[folder])


def _check_ids(records: Sequence[Record]) -> None:
    """Refuse images whose names look the same."""
    seen: dict[str, Record] = {}
    for record in records:
        first = seen.setdefault(record.id, record)
        if first is not record:
            raise InputError(
                f"{record.path!a}: its name looks the same as that of {first.path!a}; rename one"
            )

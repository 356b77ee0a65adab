"""A folder of images for each class, in the root or in each of its parts, or around the parts."""

from __future__ import annotations

import logging
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from fnmatch import fnmatch
from itertools import groupby
from pathlib import Path

from diffmic_jax.data import labels, scan
from diffmic_jax.data.columns import PART_NAMES, part_of, part_of_file
from diffmic_jax.data.csvfile import nfc, normal
from diffmic_jax.data.finder import Inside
from diffmic_jax.data.layouts import PARTS, Layout, Parts, Record, reader
from diffmic_jax.data.options import Options
from diffmic_jax.errors import InputError
from diffmic_jax.method.task import Task

log = logging.getLogger("diffmic_jax")

_MASK = re.compile(r"(.+?)[ _-]+(?:mask|seg|segmentation)(?:[ _-]*\d+)?", re.IGNORECASE)
_MASKS = re.compile(r"(?:.+[ _-])?(?:masks?|segmentations?|annotations?)", re.IGNORECASE)


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
    folders = {folder: part for base, part in bases.items() for folder in folders_in(base)}
    own = labels.unified({normal(folder.name) for folder in folders})
    _check_parts(folders, own)
    names = options.class_names or labels.class_names(set(own.values()), gaps=True)
    found = scan.scan(root)
    everywhere = _by_folder(
        found,
        list(folders),
        known.ignored if known else "",
        Inside(root, options.data.allow_outside),
    )
    _check_unlabelled(everywhere.pop(None, []), bases, options)
    files = {each: _without_masks(each, inside) for each, inside in everywhere.items() if each}
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
    _check_copies(list(folders))
    found.tell(root)
    _tell_masks(files)
    inner = {path: part_of_file(path.relative_to(f)) for f in files for path in files[f]}
    by_class = [*bases] == [root] and all(inner.values()) and "train" in inner.values()
    if by_class:
        _check_parts_inside(files)
        log.info("%s: the parts are the folders inside the class folders", root)
    else:
        _tell_inner_classes(files)
    known_labels = labels.lookup(names)
    parts: Parts = {part: [] for part in PARTS}
    for folder, part in folders.items():
        label = labels.find(own[normal(folder.name)], known_labels, str(folder))
        if not files.get(folder):
            raise InputError(f"{folder}: no images in this folder{found.formats}")
        for path in files[folder]:
            record = Record(nfc(path.relative_to(root).as_posix()), label, str(path))
            parts[inner[path] if by_class else part].append(record)
    _check_ids([record for listed in parts.values() for record in listed])
    return Layout(Task(class_names=names), parts, reader(options))


def _with_class_folders(root: Path) -> tuple[Path, str] | None:
    """The first folder below the root that has class folders itself, and what it has."""
    for folder in folders_in(root):
        inside = [each.name for each in classes_in(folder)]
        if len(inside) > 1:
            more = ", ..." if len(inside) > 3 else ""
            return folder, f"the class folders {', '.join(inside[:3])}{more}"
    return None


def classes_in(root: Path) -> list[Path]:
    """The folders of the root, or of its training part if it has one, in which images are."""
    bases = [folder for folder in folders_in(root) if part_of(folder.name) == "train"] or [root]
    return [each for base in bases for each in folders_in(base) if scan.has_images(each)]


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
        if not part:
            names = ", ".join(PART_NAMES)
            raise InputError(
                f"{folder}: is not one of {names}, as the folders beside it are; move it away"
            )
    return given


def folders_in(root: Path) -> list[Path]:
    """The folders that are not hidden, sorted."""
    return sorted(f for f in root.iterdir() if f.is_dir() and not scan.is_hidden(f.name))


def _check_parts(folders: Mapping[Path, str], own: Mapping[str, str]) -> None:
    """Refuse a part with folders of which none is a class of training: they are no classes."""
    names: dict[str, dict[str, Path]] = defaultdict(dict)
    for folder, part in folders.items():
        names[part][own[normal(folder.name)].casefold()] = folder
    for part, inside in names.items():
        if not inside.keys() & names["train"].keys():
            raise InputError(
                f"{next(iter(inside.values()))}: is no class of training, nor is another folder of "
                f"the {part} part; put its images into class folders, or move them away to "
                "classify them with `diffmic predict`"
            )


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


def _check_unlabelled(stray: Sequence[Path], bases: Mapping[Path, str], options: Options) -> None:
    """Refuse or leave out images that are in no class folder: their class is not known."""
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


def _without_masks(folder: Path, inside: Sequence[Path]) -> list[Path]:
    """The images of a class folder that has others but those in folders of masks; told."""

    def is_mask(path: Path) -> bool:
        return any(map(_MASKS.fullmatch, path.relative_to(folder).parts[:-1]))

    kept = [path for path in inside if not is_mask(path)]
    if not kept or len(kept) == len(inside):
        return list(inside)
    log.warning(
        "%s: %d images are left out, since their folders are named as those of masks, as %s; if "
        "they are images, rename the folder",
        *(folder, len(inside) - len(kept), next(filter(is_mask, inside)).parent),
    )
    return kept


def _check_copies(folders: Sequence[Path]) -> None:
    """Refuse a class folder that holds the classes again, as a copy of the data set in itself."""
    names = {normal(folder.name).casefold() for folder in folders}
    for folder in folders:
        again = [each.name for each in classes_in(folder)]
        if len([name for name in again if normal(name).casefold() in names]) > 1:
            raise InputError(
                f"{folder}: holds the class folders {', '.join(again[:3])} again; move it away, or "
                "name it alone"
            )


def _check_parts_inside(files: Mapping[Path, Sequence[Path]]) -> None:
    """Refuse parts inside class folders that hold folders again: these are the classes."""
    below: dict[str, set[str]] = defaultdict(set)
    for folder, inside in files.items():
        for path in inside:
            names = path.relative_to(folder).parts[:-1]
            at = next(i for i, name in enumerate(names) if part_of(name))
            below[names[at + 1] if len(names) > at + 1 else ""].add(part_of(names[at]))
    shared = sorted(name for name, parts in below.items() if len(parts) > 1)
    if "" not in below and len(shared) > 1:
        first = next(iter(files))
        raise InputError(
            f"{first}: its parts have the class folders {', '.join(shared[:3])}; name the folder "
            "that holds the parts"
        )


def _tell_masks(files: Mapping[Path, Sequence[Path]]) -> None:
    """Warn of images that are named as the mask of another one beside them, or lie among masks."""
    for folder in files:
        if _MASKS.fullmatch(folder.name):
            log.warning("%s is a class by its place; if it holds masks, move it away", folder)
    masks = []
    for inside in files.values():
        stems = {path.stem for path in inside}
        masks += [p for p in inside if (named := _MASK.fullmatch(p.stem)) and named[1] in stems]
    if masks:
        log.warning(
            "%d images, as %s, are named as masks of others, and are images of their class as "
            "these are; if they are masks, move them away",
            *(len(masks), masks[0]),
        )


def _tell_inner_classes(files: Mapping[Path, Sequence[Path]]) -> None:
    """Warn of class folders that hold nothing but folders, as sites or organs with their classes.

    Not where these are numbered and differ, as patients are.
    """
    inner = [
        {path.relative_to(folder).parts[:-1][:1] for path in inside}
        for folder, inside in files.items()
    ]
    if any(len(each) < 2 or () in each for each in inner):
        return
    names = sorted({name for each in inner for (name,) in each})
    numbered = any(character.isdigit() for name in names for character in name)
    if all(each == inner[0] for each in inner) or not numbered:
        log.warning(
            "each class folder holds folders, as %s; if these are the classes, give a CSV of "
            "images and labels, or put each of them first",
            ", ".join(names[:8]),
        )


def _check_ids(records: Sequence[Record]) -> None:
    """Refuse images whose names look the same."""
    seen: dict[str, Record] = {}
    for record in records:
        first = seen.setdefault(record.id, record)
        if first is not record:
            raise InputError(
                f"{record.path!a}: its name looks the same as that of {first.path!a}; rename one"
            )

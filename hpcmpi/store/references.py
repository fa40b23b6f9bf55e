"""What an HDF5 dataset is made of beyond its own file: links, virtual sources, raw files; and whether all of it exists.

HDF5 reads the parts of a virtual dataset whose source is missing as its fill value, and the end of a raw file that is
too short as zeros, without an error. So each piece is looked up here, in the order in which HDF5 looks for files.
"""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hpcmpi.errors import InputError
from hpcmpi.store.hdf5 import (
    DAMAGE,
    attribute,
    is_column,
    load_filters,
    member,
    open_hdf5,
    shown,
    walk,
    written_by_hpcmpi,
)
from hpcmpi.store.kind import kind

_UNLIMITED = 2**64 - 1
_DEEPEST = 16  # virtual datasets of virtual datasets


def find(file: Any, name: str, path: Path) -> Any:
    """The object ``name`` of the open ``file``; InputError that tells which link on the way to it leads nowhere.

    ``path`` is what the user calls the file.
    """
    name = f"/{name.lstrip('/')}"
    try:
        return file[name]
    except DAMAGE as error:
        reason = _broken_link(file, name) or _missing(file, name) or f"cannot be opened: {error}"
        raise InputError(f"{path}:{name}: {reason}") from error


def _broken_link(group: Any, name: str, followed: frozenset[tuple[str, str]] = frozenset()) -> str:
    """Which link on the way from ``group`` to ``name`` leads nowhere, and why; empty if none does.

    ``followed`` are the soft links on the way here, each as its group and its name.
    """
    import h5py

    for part in name.strip("/").split("/"):
        link = group.get(part, getlink=True) if isinstance(group, h5py.Group) else None
        try:
            group = group[part]
        except DAMAGE:
            if isinstance(link, h5py.SoftLink):
                origin = group.file if link.path.startswith("/") else group
                if (group.name, part) in followed:
                    return "a link that leads back to itself"
                reason = _broken_link(origin, link.path, followed | {(group.name, part)}) or "there is no such object"
                return f"links to {link.path}: {reason}"
            if isinstance(link, h5py.ExternalLink):
                return f"links to {link.filename}:{link.path}: {_broken_external(group, link)}"
            return ""
    return ""


def _broken_external(group: Any, link: Any) -> str:
    target = _located(link.filename, Path(group.file.filename), "HDF5_EXT_PREFIX")
    if target is None:
        return f"there is no HDF5 file {link.filename}"
    try:
        with open_hdf5(target) as other:
            find(other, link.path, target)
    except InputError as error:
        return str(error)
    return f"{target} cannot be opened from here: if its file system cannot lock files, set HDF5_USE_FILE_LOCKING=FALSE"


def _missing(file: Any, name: str) -> str:
    """That ``name`` does not exist, and what does; empty if it does exist."""
    import h5py

    group: Any = file
    for part in name.strip("/").split("/"):
        if not isinstance(group, h5py.Group) or part not in group:
            return f"no such dataset; there are: {listed(datasets(file)[0])}"
        if member(group, part) is None:
            return ""
        group = group[part]
    return ""


def datasets(group: Any) -> tuple[dict[str, Any], list[str]]:
    """Datasets below ``group`` by path, and paths of what cannot be opened.

    Without empty datasets, dimension scales and the columns of tables that a run of hpcmpi leaves.
    """
    import h5py

    broken = list[str]()
    found = {
        path: item
        for path, item in walk(group, broken)
        if isinstance(item, h5py.Dataset) and item.shape is not None and not item.is_scale and not is_column(item)
    }
    return found, broken


def listed(found: dict[str, Any]) -> str:
    """Names and shapes."""
    return shown([f"{name} {item.shape}" for name, item in found.items()])


def check_whole(item: Any, depth: int = 0) -> None:
    """Raise InputError unless all bytes of the dataset ``item`` exist, and the run that wrote them was completed."""
    path = Path(item.file.filename)
    where = f"{path}:{item.name}"
    load_filters(item)
    group = item
    while group.name != "/":
        group = group.parent
        if written_by_hpcmpi(group) and not attribute(group, "complete"):
            raise InputError(f"{where}: was left incomplete by the run that wrote it")
    if depth > _DEEPEST:
        raise InputError(f"{where}: virtual datasets refer to one another more than {_DEEPEST} deep")
    if item.is_virtual:
        _check_sources(item, where, depth)
        return
    if item.external:
        _check_raw_files(item, where)
        return
    offset = item.id.get_offset()  # from the beginning of the file, a block of the user's included
    end = 0 if offset is None else offset + item.id.get_storage_size()
    if end > path.stat().st_size:
        raise InputError(
            f"{where}: truncated: {path.stat().st_size} bytes found, {end} bytes expected by its HDF5 header"
        )


def _check_raw_files(item: Any, where: str) -> None:
    """Of a dataset whose bytes lie in raw files: that these are long enough."""
    path = Path(item.file.filename)
    prefix = os.environ.get("HDF5_EXTFILE_PREFIX", "").replace("${ORIGIN}", str(path.parent.resolve()))
    left = item.size * item.id.get_type().get_size()
    for name, offset, size in item.external:
        raw, needed = Path(prefix, name), left if size == _UNLIMITED else min(size, left)
        try:
            found = raw.stat().st_size
        except OSError as error:
            raise InputError(f"{where}: its raw file {raw} cannot be read: {error.strerror}") from None
        if found < offset + needed:
            raise InputError(
                f"{where}: truncated: its raw file {raw} has {found} bytes; {offset + needed} bytes are expected"
            )
        left -= needed


def _check_sources(item: Any, where: str, depth: int) -> None:
    """Of a virtual dataset: that each source exists and is whole, and that no numbered one is missing among them."""
    path, wanted = Path(item.file.filename), dict[str, dict[str, None]]()
    for mapping in item.virtual_sources():
        for file_name, name in _numbered(mapping.file_name, mapping.dset_name, path, where):
            wanted.setdefault(file_name, {})[name] = None
    for file_name, names in wanted.items():
        source = path if file_name == "." else _located(file_name, path, "HDF5_VDS_PREFIX")
        if source is None:
            raise InputError(f"{where}: is a virtual dataset whose source {file_name} is missing or no HDF5 file")
        with open_hdf5(source) as file:
            for name in names:
                try:
                    found = find(file, name, source)
                    if not hasattr(found, "is_virtual"):
                        raise InputError(f"{source}:{name}: is no dataset")
                    check_whole(found, depth + 1)
                except InputError as error:
                    raise InputError(f"{where}: is a virtual dataset whose source is not whole: {error}") from error


def _numbered(file_name: str, name: str, path: Path, where: str) -> Iterator[tuple[str, str]]:
    """Names of the sources that one mapping stands for: with ``%b``, those of blocks 0, 1, 2 ... up to the last one.

    HDF5 takes the blocks before the first missing one, so that a gap would cut off all that follow.
    """
    if not _PLACE.search(file_name) and not _PLACE.search(name):
        yield _filled(file_name, 0), _filled(name, 0)
        return
    numbers = (
        _numbers_of_files(file_name, path) if _PLACE.search(file_name) else _numbers_of_names(file_name, name, path)
    )
    last = max(numbers, default=-1)
    for number in range(max(1, last + 1)):
        if number not in numbers:
            lacking = f"{_filled(file_name, number)}:{_filled(name, number)}"
            beyond = f", though number {last} exists" if last > number else ""
            raise InputError(f"{where}: is a virtual dataset whose source {lacking} is missing{beyond}")
        yield _filled(file_name, number), _filled(name, number)


_PLACE = re.compile(r"(?<!%)(?:%%)*%b")


def _filled(pattern: str, number: int) -> str:
    return re.sub("%[b%]", lambda match: str(number) if match[0] == "%b" else "%", pattern)


def _numbers_of_files(pattern: str, path: Path) -> set[int]:
    """Block numbers of existing files whose names are ``pattern`` with its ``%b`` filled in."""
    first = _located(_filled(pattern, 0), path, "HDF5_VDS_PREFIX")
    if first is None:
        return set()
    if _PLACE.search(str(Path(pattern).parent)):  # numbered folders: those before the first gap
        exist = (_located(_filled(pattern, number), path, "HDF5_VDS_PREFIX") for number in itertools.count())
        return {number for number, _ in enumerate(itertools.takewhile(bool, exist))}
    expression = _expression(Path(pattern).name)
    return {int(found[1]) for entry in first.parent.iterdir() if (found := expression.fullmatch(entry.name))}


def _numbers_of_names(file_name: str, pattern: str, path: Path) -> set[int]:
    """Block numbers of existing datasets of one file whose names are ``pattern`` with its ``%b`` filled in."""
    source = path if file_name == "." else _located(_filled(file_name, 0), path, "HDF5_VDS_PREFIX")
    if source is None:
        return set()
    expression = _expression("/" + pattern.lstrip("/"))
    with open_hdf5(source) as file:
        return {int(found[1]) for name, _ in walk(file, []) if (found := expression.fullmatch(name))}


def _expression(pattern: str) -> re.Pattern[str]:
    """What matches ``pattern`` with the same number, its group 1, in all places of ``%b``."""
    first, *others = re.split(r"%b", pattern.replace("%%", "\0"))
    parts = [re.escape(part.replace("\0", "%")) for part in (first, *others)]
    return re.compile(parts[0] + "(0|[1-9][0-9]*)" + r"\1".join(parts[1:]))


def _located(name: str, referrer: Path, variable: str) -> Path | None:
    """The HDF5 file that ``name`` means in the file ``referrer``, where HDF5 finds it; None if it finds none.

    In this order: an absolute name as it is; its last part, or a relative name, in the folders of the environment
    ``variable``, beside the referring file, in the working folder, and beside the file that ``referrer`` links to.
    """
    import h5py

    given = Path(name)
    candidates = [given] if given.is_absolute() else []
    last = Path(given.name) if given.is_absolute() else given
    origin = str(referrer.parent.absolute())
    prefixes = [part.replace("${ORIGIN}", origin) for part in os.environ.get(variable, "").split(":") if part]
    candidates += [Path(prefix, last) for prefix in prefixes]
    candidates += [referrer.parent / last, last, referrer.resolve().parent / last]
    return next((path for path in candidates if kind(path) == "file" and h5py.is_hdf5(path)), None)

"""What reading and writing share. No MPI, so that a command that only looks at a file does not start it."""

from __future__ import annotations

import errno
import re
import warnings
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hpcmpi.errors import HpcmpiError, HpcmpiWarning, InputError
from hpcmpi.store.kind import kind

ZSTD_FILTER = 32015  # its number with The HDF Group
_PLUGINS = {  # filters that the package hdf5plugin has, by their numbers with The HDF Group
    307: "bzip2",
    32001: "blosc",
    32004: "lz4",
    32008: "bitshuffle",
    32013: "zfp",
    32015: "zstd",
    32017: "sz",
    32018: "fcidecomp",
    32024: "sz3",
    32026: "blosc2",
    32028: "sperr",
    32033: "htj2k",
}
TABLE = "hpcmpi_table"
"""Attribute of a group that is a table of a run, whose columns are none of its arrays."""
_STRIP_BYTES = 1 << 20  # what is copied at once of an array that is not contiguous
_SHOWN = 20  # names in a listing
MARK = "written_by"  # attribute of every group that hpcmpi writes
MARK_VALUE = "hpcmpi"


# What h5py, and whoever takes its word, raises where the bytes that describe arrays are damaged.
DAMAGE = (ArithmeticError, AttributeError, LookupError, OSError, RuntimeError, TypeError, ValueError)


@contextmanager
def open_hdf5(path: Path, *, lock: bool = True, warn: bool = True, **options: Any) -> Iterator[Any]:
    """The open HDF5 file; InputError if it is damaged, also where the body stumbles over it.

    ``options`` are those of h5py. The body should do nothing but read. A file that another program has open for writing
    is refused, unless ``lock`` is False; where the file system cannot lock, HpcmpiWarning is issued if ``warn`` is set.
    """
    with _opened(path, options, lock=lock, warn=warn) as file:
        try:
            yield file
        except (HpcmpiError, BrokenPipeError):  # the second is of someone who prints what was read
            raise
        except BlockingIOError as error:  # of a file that this one refers to
            raise InputError(f"{path}: refers to a file that another program is writing: {error}") from error
        except DAMAGE as error:
            raise InputError(f"{path}: damaged HDF5 file: {type(error).__name__}: {error}") from error


def _opened(path: Path, options: dict[str, Any], *, lock: bool, warn: bool) -> Any:
    import h5py

    try:
        return h5py.File(path, "r", locking=lock, **options)
    except DAMAGE as error:
        text = str(error)
        refused = re.search(r"unable to lock file, errno = (\d+)", text)
        if refused and int(refused[1]) in (errno.EAGAIN, errno.EACCES):
            raise InputError(
                f"{path}: another program has locked it, which is writing it: wait until it has closed the file "
                f"(HDF5_USE_FILE_LOCKING=FALSE reads it regardless)"
            ) from error
        if refused:  # network file systems often cannot lock
            if warn:
                warnings.warn(
                    f"{path}: its file system cannot lock files: if another program is writing it, "
                    "what is read may be incomplete",
                    HpcmpiWarning,
                    stacklevel=1,  # one place, so that a file is named once
                )
            return _opened(path, options, lock=False, warn=False)
        if "file is already open for" in text:
            raise InputError(
                f"{path}: another program is writing it, or ended without closing it: close it there, or, "
                f"if no program has it open, reset its flag by: h5clear -s {path}"
            ) from error
        if "truncated file" in text:
            expected = text.rpartition("stored_eof = ")[2].rstrip(")] ")
            raise InputError(
                f"{path}: truncated: {path.stat().st_size} bytes found, {expected} bytes expected by its HDF5 header"
            ) from error
        raise InputError(f"{path}: not a readable HDF5 file: {error}") from error


def load_filters(dataset: Any) -> Any:
    """``dataset``, after the package hdf5plugin is loaded if HDF5 itself lacks a filter that the dataset needs.

    Raises InputError that names the filter and its package if it is missing.
    """
    import h5py

    if dataset.is_virtual:  # its sources may need them
        with suppress(ImportError):
            import hdf5plugin
        return dataset
    properties = dataset.id.get_create_plist()
    used = [properties.get_filter(index) for index in range(properties.get_nfilters())]
    if all(h5py.h5z.filter_avail(number) for number, *_ in used):
        return dataset
    try:
        import hdf5plugin  # noqa: F401 - registers filters with HDF5
    except ImportError:
        installed = False
    else:
        installed = True
    missing = [(number, about[-1]) for number, *about in used if not h5py.h5z.filter_avail(number)]
    if not missing:
        return dataset
    number, about = missing[0]
    name = _PLUGINS.get(number, "")
    if name and not installed:
        remedy = f"by {name} (HDF5 filter {number}), which the package hdf5plugin provides: pip install hdf5plugin"
    else:
        label = name or about.decode("utf-8", "replace").rstrip("\0")
        remedy = f"by HDF5 filter {number}" + f" ({label})" * bool(label)
        remedy += ", which is not available: HDF5 looks for its plugin in the folders of HDF5_PLUGIN_PATH"
    raise InputError(f"{dataset.file.filename}:{dataset.name}: is compressed {remedy}")


def written_by_hpcmpi(group: Any) -> bool:
    """Whether hpcmpi wrote ``group``, so that its attributes and datasets mean what hpcmpi means by them.

    Files written before the mark existed are recognised by ``complete``, a boolean, together with ``job`` and
    ``attempt``; in an interrupted file, which lacks these, by the table of checksums or the name of a partial file.
    """
    mark = attribute(group, MARK)
    if mark is not None:
        return isinstance(mark, str) and mark == MARK_VALUE
    if not isinstance(attribute(group, "complete"), np.bool_):
        return False
    finished = isinstance(attribute(group, "job"), str) and isinstance(attribute(group, "attempt"), np.integer)
    return finished or "checksums" in group or group.file.filename.endswith(".partial")


def attribute(item: Any, name: str) -> Any:
    """The attribute ``name`` of a group or dataset; None if it is missing or of a type that h5py cannot read."""
    try:
        return item.attrs.get(name)
    except (OSError, TypeError, ValueError):
        return None


def described(dtype: np.dtype[Any]) -> str:
    """What elements of ``dtype``, as h5py or NumPy gives it, are called: ``int32``, ``variable-length strings``."""
    import h5py

    if dtype.subdtype:
        return f"arrays of shape {dtype.shape} of {described(dtype.base)}"
    if text := h5py.check_string_dtype(dtype):
        return "variable-length strings" if text.length is None else f"strings of {text.length} bytes"
    if h5py.check_ref_dtype(dtype):
        return "references"
    if (base := h5py.check_vlen_dtype(dtype)) is not None:
        return f"variable-length lists of {base}"
    if h5py.check_enum_dtype(dtype):
        return f"an enumeration stored as {np.dtype(dtype.str)}"
    if dtype.names:
        return f"compound elements ({', '.join(dtype.names)})"
    if dtype.kind == "V":
        return f"opaque elements of {dtype.itemsize} bytes"
    return "Python objects" if dtype.hasobject else str(dtype)


def dtype_of(dataset: Any) -> np.dtype[Any] | None:
    """NumPy's dtype of a dataset; None if NumPy has none for it."""
    try:
        dtype: np.dtype[Any] = dataset.dtype
    except (TypeError, ValueError):
        return None
    return dtype


def walk(root: Any, broken: list[str]) -> Iterator[tuple[str, Any]]:
    """Path and object of all that is below the group ``root``, each object once; what lies behind links comes last.

    Paths begin with ``/``. Those of objects that HDF5 cannot open, dangling links among them, are added to ``broken``.
    """
    import h5py

    def identity(item: Any) -> tuple[str, int]:
        return item.file.filename, h5py.h5o.get_info(item.id).addr

    seen, links = {identity(root)}, list[tuple[str, Any, str]]()

    def below(path: str, group: Any) -> Iterator[tuple[str, Any]]:
        try:
            names = list(group)
        except DAMAGE:
            broken.append(path)
            return
        for name in names:
            if isinstance(group.get(name, getlink=True), h5py.HardLink):
                yield from visit(f"{path}/{name}", group, name)
            else:
                links.append((f"{path}/{name}", group, name))

    def visit(path: str, group: Any, name: str) -> Iterator[tuple[str, Any]]:
        try:
            item = group[name]
            key = identity(item)
        except DAMAGE:
            broken.append(path)
            return
        if key not in seen:
            seen.add(key)
            yield path, item
            if isinstance(item, h5py.Group):
                yield from below(path, item)

    yield from below("", root)
    while links:
        yield from visit(*links.pop(0))


def shown(names: Sequence[str]) -> str:
    """``names`` as a listing, cut where it would be long."""
    more = f", ... and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return (", ".join(names[:_SHOWN]) or "none") + more


def is_hdf5(path: Path) -> bool:
    """Whether a file is HDF5, perhaps behind a user block, as MATLAB's files are; not if it cannot be read."""
    import h5py

    return kind(path) == "file" and bool(h5py.is_hdf5(path))


def is_column(item: Any) -> bool:
    """Whether an item of an open file is a column of a run's table."""
    return TABLE in item.parent.attrs


def member(group: Any, name: str) -> Any:
    """The object ``name`` in ``group``; None if it is missing or HDF5 cannot open it."""
    try:
        return group[name]
    except DAMAGE:
        return None


def groups_with(file: Any, arrays: Sequence[str], name: str = "") -> list[str]:
    """Groups of an open file that hold datasets called as ``arrays``; only the one that ``name`` names, if any.

    The file itself is "", others begin with ``/``.
    """
    import h5py

    def fits(item: Any) -> bool:
        return isinstance(item, h5py.Group) and all(isinstance(member(item, name), h5py.Dataset) for name in arrays)

    if name:
        return [name.rstrip("/")] if fits(member(file, name)) else []
    found = [""] if fits(file) else []
    found += [path for path, item in walk(file, []) if fits(item)]
    return [group for group in found if not group.endswith("/checksums")]  # of our results, called as the arrays are


def checksum(local: NDArray[Any], crc: int = 0) -> int:
    """crc32 of the elements in row-major order, continued from ``crc``."""
    for strip in strips(local):
        crc = zlib.crc32(strip.reshape(-1).view(np.uint8).data, crc)
    return crc


def strips(array: NDArray[Any]) -> Iterator[NDArray[Any]]:
    """``array`` in row-major order as C-contiguous pieces: itself if it is contiguous, else copies of 1 MiB."""
    if array.flags.c_contiguous:
        yield array
    elif array.ndim > 1 and array[0].nbytes > _STRIP_BYTES:
        for row in array:
            yield from strips(row)
    else:
        rows = max(1, _STRIP_BYTES * len(array) // array.nbytes)
        for at in range(0, len(array), rows):
            yield np.ascontiguousarray(array[at : at + rows])

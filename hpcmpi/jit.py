"""Compiled kernels: Numba with a cache that many processes can share.

Numba's own cache is not safe against concurrent writers: its index is read, changed and written back without a lock, so
two ranks that compile at once can leave keys that point at the wrong machine code, and later processes then compute
wrong numbers in silence. Therefore our kernels are cached in a folder of this user, host, processor and set of
versions, and whoever looks for a kernel, compiles it or saves it holds the folder's lock meanwhile. Each module has a
folder of its own in there, named after its text and the texts of all modules of the package that it imports: a kernel
may call theirs, and Numba does not notice when those change. An edit recompiles only what it can affect, and copies of
the package with equal sources share their kernels.
"""

from __future__ import annotations

import fcntl
import functools
import hashlib
import importlib.util
import os
import platform
import re
import threading
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, TypeVar, cast

import numba
from llvmlite import binding
from numba.core import caching, event
from numba.core.codegen import get_host_cpu_features

from hpcmpi.threads import available

_config: Any = numba.config  # which makes its attributes at run time
_LLVM_THAT_CAN = 17
_register: Callable[..., None] = event.register
_Function = TypeVar("_Function", bound=Callable[..., Any])


def _features() -> str | None:
    """Features of this processor for LLVM; without the vector instructions that gather and scatter where they are slow.

    LLVM takes them for loops that look up what is anywhere in memory. Where they are microcoded, as on all of AMD's
    processors and on those of Intel's that leak data by them, the loads wait for each other: on Zen 4, looking up
    4-byte numbers in 4 MB takes 4.8 ns each, and 1.0 ns by plain loads, many of which are under way at once. Where they
    are quick, searches of graphs are 5 to 8% faster by them (Emerald Rapids).
    """
    if platform.machine() != "x86_64" or binding.llvm_version_info[0] < _LLVM_THAT_CAN or _gathers_are_quick():
        return None
    return f"{get_host_cpu_features()},+prefer-no-gather,+prefer-no-scatter"


def _gathers_are_quick() -> bool:
    """Whether this is a processor of Intel's whose microcode does not guard gathers against leaks, as Linux tells."""
    intel = any(line.startswith("vendor_id") and "GenuineIntel" in line for line in _lines("/proc/cpuinfo"))
    return intel and _lines("/sys/devices/system/cpu/vulnerabilities/gather_data_sampling") == ["Not affected"]


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text().splitlines()
    except OSError:
        return []


if _config.CPU_FEATURES is None:  # before Numba first compiles; who has set NUMBA_CPU_FEATURES is not overruled
    _config.CPU_FEATURES = _features()


def kernel(**options: Any) -> Callable[[_Function], _Function]:
    """Decorator: compile on the first call, without the GIL and without checks of bounds; keep the machine code.

    ``options`` are those of ``numba.njit``. Safe at any number of processes a host. A driver's ``warm_up`` calls its
    kernels once, so that none is compiled inside a measured time.
    """

    def compiled(function: _Function) -> _Function:
        dispatcher: Any = numba.njit(nogil=True, **options)(function)
        if _usable_folder() is not None:
            dispatcher._cache = _new_cache(function)  # what `cache=True` does, with a folder of our choice
        return cast("_Function", _held(dispatcher) if options.get("parallel") else dispatcher)

    return compiled


def _held(dispatcher: _Function) -> _Function:
    """``dispatcher``, which keeps to the threads that this rank may use.

    Numba by itself would wake a thread a core in each rank, and wait for all of them at the end of each loop.
    """

    @functools.wraps(dispatcher)
    def call(*arguments: Any) -> Any:
        before = numba.get_num_threads()
        numba.set_num_threads(min(before, available()))
        try:
            return dispatcher(*arguments)
        finally:
            numba.set_num_threads(before)

    return cast("_Function", call)


def cache_folder() -> Path:
    """Folder of this host's compiled kernels; ``HPCMPI_CACHE`` or the user's cache folder holds it."""
    base = os.environ.get("HPCMPI_CACHE") or os.environ.get("XDG_CACHE_HOME") or _home_cache()
    processor = [line for line in _lines("/proc/cpuinfo") if line.startswith(("model name", "flags"))][:2]
    spec = importlib.util.find_spec("numba")
    installed = f"{spec.origin} {_stamp(spec.origin)}" if spec and spec.origin else ""
    identity = "\n".join([platform.python_version(), installed, *processor])
    return Path(base, "hpcmpi", "kernels", f"{os.uname().nodename}-{_digest(identity)}")


def _digest(text: str) -> str:
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


_IMPORT = re.compile(rf"^\s*(?:from|import)\s+{__package__}(?:\.([\w.]+)|\s+import\s+(\w+))", re.MULTILINE)


def _sources(path: str) -> dict[str, str]:
    """Text of the module at ``path`` and of all modules of this package that it imports, by path."""
    found: dict[str, str] = {}
    waiting = [path]
    while waiting:
        path = waiting.pop()
        if path in found:
            continue
        found[path] = Path(path).read_text(encoding="utf-8")
        if path == __file__:  # whose options decide how kernels are compiled, but what it imports is not part of them
            continue
        names = [f"{__package__}.{module or name}" for module, name in _IMPORT.findall(found[path])]
        waiting += [spec.origin for spec in map(importlib.util.find_spec, names) if spec and spec.origin]
    return found


class _Locator(caching._CacheLocator):
    """Tells Numba which folder holds the kernels of the module that defines ``function``."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self._line = function.__code__.co_firstlineno
        self._path = _module_folder(function.__module__, function.__code__.co_filename)

    @classmethod
    def from_function(cls, function: Callable[..., Any], _path: str) -> _Locator:
        """The locator of any function: all are cached alike."""
        return cls(function)

    def get_cache_path(self) -> str:
        """Folder of the module's kernels."""
        return self._path

    def get_source_stamp(self) -> str:
        """What tells versions of a source apart: the folder's name does already."""
        return self._path

    def get_disambiguator(self) -> str:
        """What tells functions of one name apart."""
        return str(self._line)


class _CacheOfResults(caching.CompileResultCacheImpl):
    _locator_classes: list[type[object]] = [_Locator]  # noqa: RUF012 - as Numba declares it


class _Cache(caching.FunctionCache):
    _impl_class = _CacheOfResults


_new_cache: Callable[..., Any] = _Cache


@cache
def _module_folder(module: str, path: str) -> str:
    name = module.removeprefix(f"{__package__}.")
    return str(Path(_usable_folder() or "", f"{name}-{_digest(chr(0).join(sorted(_sources(path).values())))}"))


def _stamp(path: str | Path) -> int:
    try:
        return Path(path).stat().st_mtime_ns
    except OSError:  # inside an archive
        return 0


def _home_cache() -> str:
    """The user's cache folder, or one of the user's among the temporary files where there is no home to write to."""
    home = os.path.expanduser("~/.cache")  # noqa: PTH111 - pathlib raises where there is no home
    writable = os.access(home if Path(home).is_dir() else Path(home).parent, os.W_OK)
    return home if writable else os.path.join(os.environ.get("TMPDIR", "/tmp"), f"hpcmpi-{os.getuid()}")  # noqa: S108, PTH118 - checked


@cache
def _usable_folder() -> str | None:
    """The cache folder, made and guarded, or None where kernels must be compiled anew in each process.

    That is where it cannot be written or locked, and where another user owns it: Numba runs what it finds.
    """
    folder = cache_folder()
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if any(place.lstat().st_uid not in (0, os.getuid()) for place in (folder, *folder.parents[:3])):
            return None
        descriptor = os.open(folder / "lock", os.O_CREAT | os.O_RDWR, 0o600)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        fcntl.flock(descriptor, fcntl.LOCK_UN)
    except OSError:
        return None
    _register("numba:compiler_lock", _FolderLock(descriptor))
    return str(folder)


class _FolderLock(event.Listener):
    """Holds the folder's lock while this process is in Numba's compiler, which also reads and writes the cache."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor, self._depth, self._mutex = descriptor, 0, threading.Lock()

    def on_start(self, _event: event.Event) -> None:
        with self._mutex:
            self._depth += 1
            if self._depth == 1:
                fcntl.flock(self._descriptor, fcntl.LOCK_EX)

    def on_end(self, _event: event.Event) -> None:
        with self._mutex:
            self._depth -= 1
            if self._depth == 0:
                fcntl.flock(self._descriptor, fcntl.LOCK_UN)

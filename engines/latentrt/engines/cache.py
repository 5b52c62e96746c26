"""Compiled engines on disk, found by everything that they depend on.

An artefact is a folder: `files/`, what a backend wrote; `artefact.json`, the key, the size and
SHA-256 of every file, and how the engine did when it was verified; and `artefact.mac`. Its name is
the digest of its key, so that a change of any field is a miss, and the nearest key says which.

Engines are code, so only what was built here is loaded. Here means: by this user, in this cache.
`artefact.mac` is the HMAC-SHA256 of `artefact.json` under a random secret, a file that this user
alone can read; whoever can forge an artefact could as well change the program. That the machine is
another one, in a cache that came with a copied home, shows in the key: the device is part of it.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import json
import os
import secrets
import shutil
from collections.abc import Callable, Generator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, Literal

from latentrt.bundle.bundle import record_files
from latentrt.bundle.errors import FileError, InputError, ShapeNotBuilt
from latentrt.bundle.manifest import FileRecord
from latentrt.bundle.publish import publishing
from latentrt.engines.engine import Backend, Blueprint, Engine, Options

SCHEMA: Final = "1"
"""Of artefacts and of how our backends compile; a change makes every artefact old."""

VARIABLE: Final = "LATENTRT_CACHE"

_RECORD: Final = "artefact.json"
_MAC: Final = "artefact.mac"
_FILES: Final = "files"

Build = Literal["missing", "never"]
Record = Mapping[str, Any]
Guard = Callable[[], Callable[[Engine], Record]]
"""Called before a build, so that what the reference needs is free again; gives the check of the
engine, which returns the record to keep or raises `VerificationFailed`."""


@dataclass(frozen=True, slots=True)
class Artefact:
    """A stored engine.

    `used` is when it was last loaded, in seconds since 1970; `problem` says why it is not to be
    trusted, and then `key`, `files` and `verification` are empty.
    """

    path: Path
    size: int
    used: float
    key: Mapping[str, str]
    files: Mapping[str, FileRecord]
    verification: Record
    problem: str = ""


@dataclass(frozen=True, slots=True)
class Opened:
    """An engine, whether it was there already, why not, and how it did when it was verified."""

    engine: Engine
    hit: bool
    reason: str
    verification: Record


class Cache:
    """A folder of artefacts; any number of processes and threads may use it at once."""

    def __init__(self, path: Path | str | None = None) -> None:
        """`path` is by default $LATENTRT_CACHE, or else this user's own cache folder."""
        self.path = Path(os.path.abspath(path or os.environ.get(VARIABLE) or _default()))
        self._engines = self.path / "engines"

    def open(
        self,
        name: str,
        backend: Backend,
        blueprint: Blueprint,
        options: Options,
        *,
        build: Build = "missing",
        guard: Guard | None = None,
    ) -> Opened:
        """The stored engine, or one that is built, verified and stored now.

        Of several who want the same one, one builds and the others wait. Raises `ShapeNotBuilt`
        saying what differs from the nearest one if `build` is "never", `Unavailable`,
        `BuildFailed`, `VerificationFailed`, and `FileError` if the cache is open to others.
        """
        key = engine_key(name, backend, blueprint, options)
        place = self._engines / _digest(key)
        self._prepare()
        if (artefact := self._usable(place)) is not None:
            return _load(artefact, backend, blueprint, options)
        if build == "never":
            raise ShapeNotBuilt(f"{blueprint.component}: not built: {self._reason(place, key)}")
        with self._locked(place.name):
            if (artefact := self._usable(place)) is not None:  # built while we waited
                return _load(artefact, backend, blueprint, options)
            reason = self._reason(place, key)
            check = None if guard is None else guard()
            with publishing(place, force=True) as partial:
                files = partial / _FILES
                files.mkdir()
                backend.build(blueprint, options, files)
                engine = backend.load(blueprint, options, files)
                try:
                    verification = {} if check is None else dict(check(engine))
                    self._seal(partial, key, verification)
                except BaseException:
                    engine.close()
                    raise
        return Opened(engine, False, reason, verification)

    def artefacts(self) -> list[Artefact]:
        """Everything stored, the longest unused first; what cannot be trusted has a `problem`."""
        if not self._engines.is_dir():
            return []
        self._prepare()
        places = [p for p in self._engines.iterdir() if p.is_dir() and not p.name.startswith(".")]
        found = [a for a in map(self._read, places) if a is not None]
        return sorted(found, key=lambda a: a.used)

    def explain(self, key: Mapping[str, str]) -> str:
        """What differs between this key and the nearest stored one of the same component."""
        stored = [a.key for a in self.artefacts() if a.key.get("component") == key["component"]]
        if not stored:
            return f"nothing is stored for {key['component']}"
        nearest = min(reversed(stored), key=lambda other: len(_differing(key, other)))
        differing = _differing(key, nearest)
        return ", ".join(
            f"{field} {_short(nearest.get(field))} -> {_short(key.get(field))}"
            for field in differing
        )

    def remove(self, artefact: Artefact) -> None:
        """Delete one; who has it loaded keeps it."""
        with self._locked(artefact.path.name):
            with contextlib.suppress(FileNotFoundError):
                (artefact.path / _MAC).unlink()  # first, so that no half is ever trusted
            shutil.rmtree(artefact.path, ignore_errors=True)

    def limit(self, size: int) -> list[Artefact]:
        """Delete the longest unused until at most `size` bytes are left; returns what went."""
        stored = self.artefacts()
        total = sum(a.size for a in stored)
        removed: list[Artefact] = []
        for artefact in stored:
            if total <= size:
                break
            self.remove(artefact)
            removed.append(artefact)
            total -= artefact.size
        return removed

    def sweep(self) -> None:
        """Delete what builds that were killed left behind; those under way keep theirs."""
        for path in self._engines.glob(".*"):
            with contextlib.suppress(TimeoutError), self._locked(path.name.split(".")[1], 0):
                shutil.rmtree(path, ignore_errors=True)

    def _prepare(self) -> None:
        try:
            self._engines.mkdir(mode=0o700, parents=True, exist_ok=True)
            (self.path / "locks").mkdir(mode=0o700, exist_ok=True)
        except OSError as error:
            expected = f"a folder that can be written (${VARIABLE})"
            raise InputError("cache", expected, f"{self.path} ({error.strerror})") from error
        _check_private(self._engines, 0o022)

    @contextlib.contextmanager
    def _locked(self, name: str, timeout: float = -1) -> Generator[None]:
        # Only builds lock; whoever finds its engines here does not wait for this import.
        from filelock import FileLock

        with FileLock(self.path / "locks" / f"{name}.lock", timeout=timeout):
            yield

    def _reason(self, place: Path, key: Mapping[str, str]) -> str:
        artefact = self._read(place)
        if artefact is None:
            return self.explain(key)
        return f"the stored engine is refused: {artefact.problem or _damage(artefact)}"

    def _usable(self, place: Path) -> Artefact | None:
        artefact = self._read(place)
        if artefact is None or artefact.problem or _damage(artefact):
            return None
        return artefact

    def _read(self, place: Path) -> Artefact | None:
        """None if there is nothing."""
        try:
            used = (place / _RECORD).stat().st_mtime
            content = (place / _RECORD).read_bytes()
            mac = (place / _MAC).read_text("ascii")
        except (OSError, ValueError) as error:
            if not place.exists():
                return None
            return Artefact(place, _size(place), 0.0, {}, {}, {}, f"is not whole ({error})")
        if not hmac.compare_digest(mac.encode(), self._mac(content).encode()):
            problem = f"{_RECORD} was not written here: its HMAC differs"
            return Artefact(place, _size(place), used, {}, {}, {}, problem)
        value = json.loads(content)
        key: dict[str, str] = value["key"]
        if _digest(key) != place.name:
            return Artefact(place, _size(place), used, {}, {}, {}, "is another engine's, moved")
        files = {name: FileRecord(**record) for name, record in value["files"].items()}
        return Artefact(place, _size(place), used, key, files, value["verification"])

    def _seal(self, folder: Path, key: Mapping[str, str], verification: Record) -> None:
        value = {
            "key": dict(key),
            "files": {name: asdict(f) for name, f in record_files(folder / _FILES).items()},
            "verification": dict(verification),
        }
        content = json.dumps(value, indent=1).encode()
        (folder / _RECORD).write_bytes(content)
        (folder / _MAC).write_text(self._mac(content), "ascii")

    def _mac(self, content: bytes) -> str:
        return hmac.new(self._secret(), content, hashlib.sha256).hexdigest()

    def _secret(self) -> bytes:
        path = self.path / "secret"
        if not path.exists():
            with self._locked("secret"):
                if not path.exists():
                    _write_secret(path)
        _check_private(path, 0o077)
        return path.read_bytes()


def engine_key(
    name: str, backend: Backend, blueprint: Blueprint, options: Options
) -> dict[str, str]:
    """Everything that an artefact depends on, by field.

    Raises `InputError` for a blueprint without digests, `Unavailable`.
    """
    if blueprint.digests is None:
        raise InputError("digests", "the SHA-256 of graph and weights", "none")
    graph, weights = blueprint.digests
    return {
        "schema": SCHEMA,
        "component": blueprint.component,
        "graph": graph,
        "weights": weights,
        "sizes": " ".join(f"{symbol}={n}" for symbol, n in sorted(blueprint.sizes.items())),
        "engine": name,
        **{field: str(value) for field, value in asdict(options).items()},
        **{f"{name} {field}": value for field, value in backend.identity(options).items()},
    }


def _load(artefact: Artefact, backend: Backend, blueprint: Blueprint, options: Options) -> Opened:
    with contextlib.suppress(OSError):  # it may just have been removed
        os.utime(artefact.path / _RECORD)
    engine = backend.load(blueprint, options, artefact.path / _FILES)
    return Opened(engine, True, "", artefact.verification)


def _damage(artefact: Artefact) -> str:
    """How the files are not what was written; nothing if they are."""
    try:
        found = record_files(artefact.path / _FILES)
    except OSError as error:
        return f"cannot be read ({error.strerror})"
    for name in sorted({*found, *artefact.files}):
        if found.get(name) != artefact.files.get(name):
            return f"{name} has changed since it was built"
    return ""


def _default() -> Path:
    from platformdirs import user_cache_path

    return user_cache_path("latentrt")


def _digest(key: Mapping[str, str]) -> str:
    return hashlib.sha256(json.dumps(dict(key), sort_keys=True).encode()).hexdigest()[:40]


def _differing(key: Mapping[str, str], other: Mapping[str, str]) -> list[str]:
    return [field for field in {**key, **other} if key.get(field) != other.get(field)]


def _short(value: str | None) -> str:
    if value is None:
        return "(none)"
    is_digest = len(value) == 64 and all(c in "0123456789abcdef" for c in value)
    return value[:12] if is_digest else value


def _size(folder: Path) -> int:
    sizes: list[int] = []
    for path in folder.rglob("*"):
        with contextlib.suppress(FileNotFoundError):
            sizes.append(path.stat().st_size if path.is_file() else 0)
    return sum(sizes)


def _write_secret(path: Path) -> None:
    partial = path.with_suffix(".partial")
    with contextlib.suppress(FileNotFoundError):
        partial.unlink()
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(secrets.token_bytes(32))
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, path)


def _check_private(path: Path, forbidden: int) -> None:
    if os.name == "nt":  # a profile's own folders are private there
        return
    found = path.stat()
    if found.st_uid != os.geteuid():
        raise FileError(path, "belongs to another user: engines of others are not loaded")
    if found.st_mode & forbidden:
        closed = f"{found.st_mode & 0o777 & ~forbidden:o}"
        raise FileError(path, f"is open to other users: chmod {closed} it")

"""Compiled engines, found by everything that they depend on.

An entry's name is the digest of its key, so a change of any field is a miss. The nearest key says
which field changed.

Engines are code, so only those are loaded that this user built in this cache (see `signing`). The
key has the device. So a cache copied to another machine gives misses there.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, Protocol, TypeVar

from latentrt.bundle.cache_folder import cache_folder, unwritable
from latentrt.bundle.errors import BuildFailed, InputError, ShapeNotBuilt, Unwritable
from latentrt.bundle.publish import publishing
from latentrt.engines.cache.entry import FILES, CacheEntry, Record, write_record
from latentrt.engines.cache.hashed_files import HashedFiles
from latentrt.engines.cache.key import ANY_SIZE, differing, digest, engine_key, proof_key
from latentrt.engines.cache.signing import RecordSigner, check_private
from latentrt.engines.engine import Blueprint, Engine
from latentrt.engines.log import LOG, described
from latentrt.engines.registry import Chosen, Progress

PENDING: Final = "pending"
"""In a record: why the engine has not been verified. It is when it is first loaded."""

Build = Literal["missing", "never"]
Check = Callable[[Engine], Record]

_Given = TypeVar("_Given")


class Guard(Protocol):
    """Verifies an engine before its first use."""

    def refusal(self, verification: Record) -> str:
        """Why an engine that did so when it was verified is not to be used today, if so."""
        ...

    def holds(self, verification: Record) -> bool:
        """Whether an engine that did so is as good as verified today."""
        ...

    def prepare(self) -> Callable[[Engine], Record]:
        """The check of an engine, which gives the record to keep or raises `VerificationFailed`.

        Called before the engine is there, so that what the reference needs is free again.
        """
        ...


@dataclass(frozen=True, slots=True)
class Opened:
    """An engine, whether it was there already, why not, and how it did when it was verified.

    `unkept` is why the cache does not have it now, if so.
    """

    engine: Engine
    hit: bool
    reason: str
    verification: Record
    unkept: Unwritable | None = None


class Cache:
    """A folder of entries; any number of processes and threads may use it at once."""

    def __init__(self, path: Path | str | None = None) -> None:
        """`path` is by default $LATENTRT_CACHE, or else this user's own cache folder.

        Raises `InputError` where no home folder is known.
        """
        self.path = cache_folder(path)
        self._engines = self.path / "engines"
        self._locks = self.path / "locks"
        self._signer = RecordSigner(self.path)
        self._known = HashedFiles(self.path / "known", self._signer)
        self._proofs: dict[str, Record] = {}
        self._said = False

    def open(
        self,
        chosen: Chosen,
        blueprint: Blueprint,
        *,
        build: Build = "missing",
        guard: Guard | None = None,
        progress: Progress | None = None,
    ) -> Opened:
        """The stored engine, or one that is built, verified and stored now.

        Of several who want the same one, one builds and the others wait. Where the cache cannot be
        written, the engine is made for the caller alone, and a warning logged. Raises
        `ShapeNotBuilt` saying what differs from the nearest one if `build` is "never",
        `Unavailable`, `BuildFailed`, `VerificationFailed`, `BundleError` for weights that have
        changed, and `FileError` if the cache is open to others.
        """
        blueprint = blueprint.at(chosen.precision)
        key = engine_key(chosen, blueprint)
        self._check_weights(blueprint)
        try:
            return self._opened(key, chosen, blueprint, build, guard, progress)
        except Unwritable as error:
            if build == "never":
                raise ShapeNotBuilt(f"{blueprint.component}: not built: {error}") from error
            work = _Work(chosen, blueprint, progress)
            check = work.prepared(guard)
            problem = self._told(error)
            engine = work.compiled()
            return Opened(engine, False, str(problem), work.checked(engine, check), problem)

    def _check_weights(self, blueprint: Blueprint) -> None:
        """Raise `BundleError` for a file of weights that has changed."""
        digests = (blueprint.digests or ())[1:]
        for path, sha256 in zip(blueprint.files.values(), digests, strict=True):
            self._known.check(path, sha256)

    def _opened(
        self,
        key: Mapping[str, str],
        chosen: Chosen,
        blueprint: Blueprint,
        build: Build,
        guard: Guard | None,
        progress: Progress | None,
    ) -> Opened:
        self._prepare()
        place = self._engines / digest(key)
        while True:
            entry, refused = self._find(place, guard)
            if entry is not None:
                try:
                    return self._load(entry, chosen, blueprint, guard, progress)
                except (OSError, BuildFailed):
                    if self._find(place, guard)[0] is not None:
                        raise
                    continue  # it was removed while it was loaded
            if build == "never":
                reason = refused or self.explain(key)
                raise ShapeNotBuilt(f"{blueprint.component}: not built: {reason}")
            with self._locked(place.name):
                entry, refused = self._find(place, guard)
                if entry is None:  # else it was built while we waited
                    reason = refused or self.explain(key)
                    what = described(blueprint.component, blueprint.sizes)
                    LOG.info("%s: not in the cache: %s", what, reason)
                    engine, verification, unkept = self._make(
                        place, key, chosen, blueprint, guard, progress
                    )
                    return Opened(engine, False, reason, verification, unkept)

    def store(
        self,
        chosen: Chosen,
        blueprint: Blueprint,
        *,
        pending: str,
        progress: Progress | None = None,
    ) -> tuple[bool, str, Record]:
        """Have an engine that cannot be loaded here, such as one for another GPU.

        Returns whether it was there already, why not, and how it did when it was verified.
        `pending` says why it has not been; it is when it is first loaded. Raises what `open` raises
        but `VerificationFailed`, and `Unwritable` naming the cache where that cannot be written.
        """
        blueprint = blueprint.at(chosen.precision)
        key = engine_key(chosen, blueprint)
        self._check_weights(blueprint)
        self._prepare()
        place = self._engines / digest(key)
        with self._locked(place.name):
            entry, refused = self._find(place)
            if entry is not None:
                return True, "", entry.verification
            reason, verification = refused or self.explain(key), {PENDING: pending}
            try:
                with publishing(place, force=True, locks=self._locks) as partial:
                    _build(partial, chosen, blueprint, progress)
                    write_record(partial, key, verification, self._signer)
            except Unwritable as error:
                raise unwritable(self.path, error.got) from error
        return False, reason, verification

    def proven(
        self, chosen: Chosen, blueprint: Blueprint, guard: Guard, prove: Callable[[], Record]
    ) -> Record:
        """How an engine did that stands for every size; `prove` finds it where that is not known.

        Of several who want the same, one proves and the others wait.
        """
        place = self._proof_place(chosen, blueprint)
        with contextlib.ExitStack() as stack:
            with contextlib.suppress(Unwritable):
                self._prepare()
                stack.enter_context(self._locked(place.name))
            known = self._proof(place)
            if known is not None and guard.holds(known) and not guard.refusal(known):
                return known
            record = prove()
            self._keep_proof(place, chosen, blueprint, record)
        return record

    def keep_proof(self, chosen: Chosen, blueprint: Blueprint, record: Record) -> None:
        """Have a record stand for every size, unless there is one."""
        place = self._proof_place(chosen, blueprint)
        if self._proof(place) != record:
            with contextlib.suppress(Unwritable), self._locked(place.name):
                self._keep_proof(place, chosen, blueprint, record)

    def _proof_place(self, chosen: Chosen, blueprint: Blueprint) -> Path:
        return self._engines / digest(proof_key(chosen, blueprint))

    def _proof(self, place: Path) -> Record | None:
        if place.name in self._proofs:
            return self._proofs[place.name]
        entry = CacheEntry.read(place, self._signer)
        return None if entry is None or entry.damage else entry.verification

    def _keep_proof(
        self, place: Path, chosen: Chosen, blueprint: Blueprint, record: Record
    ) -> None:
        try:
            with publishing(place, force=True, locks=self._locks) as partial:
                (partial / FILES).mkdir()
                write_record(partial, proof_key(chosen, blueprint), record, self._signer)
        except Unwritable:  # a cache that is only read: known to this object alone
            self._proofs[place.name] = record

    def entries(self) -> list[CacheEntry]:
        """Everything stored, the longest unused first; what cannot be trusted has a `problem`."""
        if not os.path.isdir(self._engines):
            return []
        check_private(self._engines, 0o022)
        places = [p for p in self._engines.iterdir() if p.is_dir() and not p.name.startswith(".")]
        found = [a for a in (CacheEntry.read(p, self._signer) for p in places) if a is not None]
        return sorted(found, key=lambda a: a.used)

    def explain(self, key: Mapping[str, str]) -> str:
        """What differs between this key and the nearest stored one of the same component."""
        engines = (a.key for a in self.entries() if a.key.get("sizes") != ANY_SIZE)
        stored = [each for each in engines if each.get("component") == key["component"]]
        if not stored:
            return f"nothing is stored for {key['component']}"
        nearest = min(reversed(stored), key=lambda other: len(differing(key, other)))
        return ", ".join(differing(key, nearest))

    def remove(self, entry: CacheEntry) -> None:
        """Delete one; who has it loaded keeps it. Raises `Unwritable` naming the cache."""
        with self._locked(entry.path.name):
            try:
                entry.disown()
            except OSError as error:
                raise unwritable(entry.path, error.strerror or error) from error
            shutil.rmtree(entry.path, ignore_errors=True)

    def sweep(self) -> None:
        """Delete what builds that were killed left behind; those under way keep theirs."""
        for path in self._engines.glob(".*"):
            with contextlib.suppress(TimeoutError), self._locked(path.name.split(".")[1], 0):
                shutil.rmtree(path, ignore_errors=True)

    def _find(self, place: Path, guard: Guard | None = None) -> tuple[CacheEntry | None, str]:
        """What is stored there if it may be loaded, else why it may not, if there is anything."""
        entry = CacheEntry.read(place, self._signer)
        if entry is None:
            return None, ""
        problem = entry.damage
        if not problem and guard is not None:
            problem = guard.refusal(entry.verification)
        return (None, f"the stored engine is refused: {problem}") if problem else (entry, "")

    def _make(
        self,
        place: Path,
        key: Mapping[str, str],
        chosen: Chosen,
        blueprint: Blueprint,
        guard: Guard | None,
        progress: Progress | None,
    ) -> tuple[Engine, Record, Unwritable | None]:
        work = _Work(chosen, blueprint, progress)
        check = work.prepared(guard)
        made: tuple[Engine, Record] | None = None
        try:
            with publishing(place, force=True, locks=self._locks) as partial:
                work.done("compiling", lambda: _build(partial, chosen, blueprint, progress))
                engine = work.loaded(partial / FILES)
                made = engine, work.checked(engine, check)
                write_record(partial, key, made[1], self._signer)
        except Unwritable as error:
            if made is None:
                engine = work.compiled()
                made = engine, work.checked(engine, check)
            return *made, self._told(error)
        except BaseException:
            if made is not None:
                made[0].close()
            raise
        return *made, None

    def _told(self, error: Unwritable) -> Unwritable:
        """Why engines are not kept, naming the cache; it is logged once."""
        named = error if error.field == "cache" else unwritable(self.path, error.got)
        if not self._said:
            self._said = True
            LOG.warning("engines are not kept: %s", named)
        return named

    def _load(
        self,
        entry: CacheEntry,
        chosen: Chosen,
        blueprint: Blueprint,
        guard: Guard | None,
        progress: Progress | None,
    ) -> Opened:
        work = _Work(chosen, blueprint, progress)
        entry.touch()
        # What is made or put in just now is checked as a new engine is.
        unsure = chosen.backend.timed or chosen.stripped
        check = None
        if guard is not None and (unsure or not guard.holds(entry.verification)):
            check = work.prepared(guard)
        engine = work.loaded(entry.path / FILES)
        if check is None:
            return Opened(engine, True, "", entry.verification)
        verification = work.checked(engine, check)
        try:
            self._keep(entry, verification)
        except BaseException:
            engine.close()
            raise
        return Opened(engine, True, "", verification)

    def _keep(self, entry: CacheEntry, verification: Record) -> None:
        if verification == entry.verification:
            return
        # In a cache that is only read, the next load finds out again.
        with contextlib.suppress(OSError, InputError), self._locked(entry.path.name):
            entry.renew(verification, self._signer)

    def _prepare(self) -> None:
        try:
            self._engines.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise unwritable(self.path, error.strerror or error) from error
        with contextlib.suppress(OSError):  # who locks finds out
            self._locks.mkdir(mode=0o700, exist_ok=True)
        check_private(self._engines, 0o022)

    @contextlib.contextmanager
    def _locked(self, name: str, timeout: float = -1) -> Generator[None]:
        # Only builds lock; a load does not wait for this import.
        from filelock import FileLock

        lock = FileLock(self._locks / f"{name}.lock", timeout=timeout)
        try:
            lock.acquire()
        except TimeoutError:
            raise
        except OSError as error:
            raise unwritable(self.path, error.strerror or error) from error
        try:
            yield
        finally:
            lock.release()


@dataclass(frozen=True, slots=True)
class _Work:
    """The work of making an engine, each phase reported to the log and to `progress`."""

    chosen: Chosen
    blueprint: Blueprint
    progress: Progress | None

    def done(self, phase: str, work: Callable[[], _Given]) -> _Given:
        """Do it, and say what it is and how long it took."""
        if self.progress is not None:
            self.progress(phase, 0, 1)
        begun = time.perf_counter()
        self._say(phase)
        given = work()
        self._say(f"{phase} took {time.perf_counter() - begun:.1f} s")
        return given

    def prepared(self, guard: Guard | None) -> Check | None:
        """The check of the engine to come."""
        return None if guard is None else self.done("preparing the reference", guard.prepare)

    def compiled(self) -> Engine:
        """An engine that is not stored."""
        return self.done("compiling", lambda: self.chosen.compile(self.blueprint))

    def loaded(self, folder: Path) -> Engine:
        """A stored engine."""
        load = self.chosen.compiler.load
        return self.done("loading", lambda: load(self.blueprint, self.chosen.options, folder))

    def checked(self, engine: Engine, check: Check | None) -> Record:
        """How an engine does; it is closed if that is not good enough."""
        if check is None:
            return {}
        try:
            verification = dict(self.done("verifying", lambda: check(engine)))
        except BaseException:
            engine.close()
            raise
        reference = verification.get("reference", "nothing")
        for name, error in verification.get("errors", {}).items():
            self._say(f"{name} is {error['relative']:.1e} from {reference}")
        return verification

    def _say(self, what: str) -> None:
        chosen, blueprint = self.chosen, self.blueprint
        name = described(blueprint.component, blueprint.sizes)
        LOG.info("%s on %s %s: %s", name, chosen.name, chosen.precision, what)


def _build(partial: Path, chosen: Chosen, blueprint: Blueprint, progress: Progress | None) -> None:
    files = partial / FILES
    files.mkdir()
    chosen.compiler.build(blueprint, chosen.options, files, progress=progress)

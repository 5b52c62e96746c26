"""Publishing: whole or not at all, whoever else is at it and whatever goes wrong."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from latentrt.bundle.errors import BundleError, FileError, InputError, Unwritable
from latentrt.bundle.publish import publishing, write_file


@pytest.fixture(autouse=True)
def own_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LATENTRT_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder in which nothing but what is published should be."""
    folder = tmp_path / "place"
    folder.mkdir()
    return folder


def nothing() -> None:
    pass


def publish(
    destination: Path,
    content: str,
    *,
    force: bool = False,
    meanwhile: Callable[[], None] = nothing,
) -> None:
    with publishing(destination, force=force) as folder:
        (folder / "below").mkdir()
        (folder / "below" / "file").write_text(content)
        meanwhile()


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def content(destination: Path) -> str:
    assert names(destination) == ["below"]
    assert names(destination / "below") == ["file"]
    return (destination / "below" / "file").read_text()


class Interrupted(BaseException):
    """Like KeyboardInterrupt: not an Exception."""


def test_destination_appears_when_the_block_ends_and_not_before(place: Path) -> None:
    with publishing(place / "new") as folder:
        (folder / "a").write_text("half")
        assert not (place / "new").exists()
        assert folder.parent == place  # the same filesystem, so that a rename will do
        (folder / "b").write_text("whole")
    assert names(place) == ["new"]
    assert names(place / "new") == ["a", "b"]


def test_parents_are_made(place: Path) -> None:
    publish(place / "a" / "b" / "new", "x")
    assert content(place / "a" / "b" / "new") == "x"


def test_a_relative_destination_does_not_move_with_the_process(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(place)
    with publishing(Path("new")) as folder:
        (folder / "a").write_text("x")
        os.chdir("/")
    assert names(place) == ["new"]


@pytest.mark.parametrize("error", [ValueError, Interrupted])
def test_an_error_inside_the_block_leaves_nothing(place: Path, error: type[BaseException]) -> None:
    def fail() -> None:
        assert len(names(place)) == 1
        raise error("oh")

    with pytest.raises(error, match="oh"):
        publish(place / "new", "half", meanwhile=fail)
    assert names(place) == []


def test_an_error_inside_the_block_leaves_what_was_to_be_replaced(place: Path) -> None:
    def fail() -> None:
        raise ValueError("oh")

    publish(place / "it", "old")
    with pytest.raises(ValueError, match="oh"):
        publish(place / "it", "half", force=True, meanwhile=fail)
    assert names(place) == ["it"]
    assert content(place / "it") == "old"


def test_an_existing_destination_is_refused_before_any_work(place: Path) -> None:
    def work() -> None:
        pytest.fail("began to work")

    publish(place / "it", "old")
    with pytest.raises(InputError, match=r"does not exist \(or --force\), got .*it") as caught:
        publish(place / "it", "new", meanwhile=work)
    assert caught.value.field == "destination"
    assert names(place) == ["it"]
    assert content(place / "it") == "old"


@pytest.mark.parametrize("force", [False, True])
def test_a_file_is_never_replaced(place: Path, force: bool) -> None:
    (place / "it").write_text("file")
    with pytest.raises(InputError, match="destination: expected a"):
        publish(place / "it", "new", force=force)
    assert (place / "it").read_text() == "file"
    assert names(place) == ["it"]


@pytest.mark.parametrize("force", [False, True])
def test_a_link_to_nothing_is_not_replaced(place: Path, force: bool) -> None:
    (place / "it").symlink_to("nothing")
    with pytest.raises(InputError, match="destination: expected a"):
        publish(place / "it", "new", force=force)
    assert names(place) == ["it"]


def test_a_destination_that_appears_meanwhile_is_left_alone(place: Path) -> None:
    with pytest.raises(InputError, match="does not exist"):
        publish(place / "it", "mine", meanwhile=(place / "it").mkdir)
    assert names(place) == ["it"]
    assert names(place / "it") == []


def test_force_replaces_the_whole_destination(place: Path) -> None:
    with publishing(place / "it") as folder:
        (folder / "obsolete").write_text("old")
    publish(place / "it", "new", force=True)
    assert content(place / "it") == "new"
    assert names(place) == ["it"]


def test_force_creates_a_missing_destination(place: Path) -> None:
    publish(place / "it", "new", force=True)
    assert content(place / "it") == "new"


def test_force_on_a_link_replaces_the_link_and_spares_what_it_led_to(place: Path) -> None:
    publish(place / "target", "old")
    (place / "it").symlink_to("target")
    publish(place / "it", "new", force=True)
    assert content(place / "it") == "new"
    assert content(place / "target") == "old"
    assert names(place) == ["it", "target"]


@pytest.mark.parametrize("failing", [1, 2])
def test_a_failing_rename_leaves_the_old_content(
    place: Path, monkeypatch: pytest.MonkeyPatch, failing: int
) -> None:
    publish(place / "it", "old")
    rename, calls = os.rename, 0

    def refuse(source: Path, target: Path) -> None:
        nonlocal calls
        calls += 1
        if calls == failing:
            raise PermissionError(errno.EACCES, "in use", str(source))
        rename(source, target)

    monkeypatch.setattr(os, "rename", refuse)
    with pytest.raises(Unwritable, match=r"it \(in use\)"):
        publish(place / "it", "new", force=True)
    assert content(place / "it") == "old"
    assert names(place) == ["it"]


def test_published_files_and_folders_follow_the_umask(place: Path) -> None:
    before = os.umask(0o027)
    try:
        publish(place / "it", "x")
        write_file(place / "file", b"x")
    finally:
        os.umask(before)
    assert (place / "it").stat().st_mode & 0o777 == 0o750
    assert (place / "it" / "below").stat().st_mode & 0o777 == 0o750
    assert (place / "file").stat().st_mode & 0o777 == 0o640


def test_a_file_that_is_replaced_keeps_its_mode(place: Path) -> None:
    # As with `open`: what nobody else may read stays so.
    (place / "file").touch(0o600)
    write_file(place / "file", b"new")
    assert (place / "file").stat().st_mode & 0o777 == 0o600


def test_publishing_and_writing_leave_the_umask_alone(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # It is the whole process's: what another thread makes meanwhile would be open to all.
    monkeypatch.setattr(os, "umask", lambda _: pytest.fail("the umask was set"))
    publish(place / "it", "x", force=True)
    write_file(place / "file", b"x")


# Saves and publishes from eight threads under a umask of 077; prints every mode that came of it.
UMASK = """
import os, sys, threading
from pathlib import Path
from latentrt.bundle.publish import publishing, write_file

os.umask(0o077)
sys.setswitchinterval(1e-6)
place = Path(sys.argv[1])

def work(name):
    for i in range(40):
        write_file(place / f"{name}-{i}.png", b"x")
    with publishing(place / name) as folder:
        (folder / "below").mkdir()

threads = [threading.Thread(target=work, args=(f"thread{n}",)) for n in range(8)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
modes = {(p.is_dir(), p.stat().st_mode & 0o777) for p in place.rglob("*")}
print(sorted(modes), oct(os.umask(0)))
"""


@pytest.mark.skipif(os.name == "nt", reason="permissions are others there")
def test_threads_give_files_and_folders_the_mode_that_the_umask_leaves(place: Path) -> None:
    command = [sys.executable, "-c", UMASK, place]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == f"{[(False, 0o600), (True, 0o700)]} 0o77\n"


# Others, dead and alive.

# Publishes "new" at argv[1] with force, and is killed just before its `argv[2]`th rename (0: while
# it writes) or, if that is past the last one, ends.
PUBLISHER = """
import os, signal, sys
from pathlib import Path
from latentrt.bundle.publish import publishing

destination, kill_at = Path(sys.argv[1]), int(sys.argv[2])
rename, calls = os.rename, 0

def kill():
    os.kill(os.getpid(), signal.SIGKILL)

def killing(source, target):
    global calls
    calls += 1
    if calls == kill_at:
        kill()
    rename(source, target)

os.rename = killing
with publishing(destination, force=True) as folder:
    (folder / "below").mkdir()
    (folder / "below" / "file").write_text("new")
    if kill_at == 0:
        kill()
"""


@pytest.mark.parametrize("kill_at", [0, 1])
@pytest.mark.parametrize("name", ["it", "a b.c", "[ab]*?"])
def test_a_killed_publisher_leaves_no_destination_and_the_next_cleans_up(
    place: Path, kill_at: int, name: str
) -> None:
    killed = subprocess.run([sys.executable, "-c", PUBLISHER, place / name, str(kill_at)])
    assert killed.returncode == -signal.SIGKILL
    assert len(names(place)) == 1
    assert names(place)[0].startswith(f".{name}.partial-")
    publish(place / name, "next")
    assert names(place) == [name]
    assert content(place / name) == "next"


@pytest.mark.parametrize(("kill_at", "left"), [(0, "old"), (1, "old"), (2, None)])
def test_a_killed_replacement_leaves_the_old_whole_or_none(
    place: Path, kill_at: int, left: str | None
) -> None:
    publish(place / "it", "old")
    killed = subprocess.run([sys.executable, "-c", PUBLISHER, place / "it", str(kill_at)])
    assert killed.returncode == -signal.SIGKILL
    if left is None:  # between the two renames
        assert not (place / "it").exists()
    else:
        assert content(place / "it") == left
    assert any(name.startswith(".it.") for name in names(place))
    publish(place / "it", "next", force=True)
    assert names(place) == ["it"]
    assert content(place / "it") == "next"


def test_leftovers_of_other_destinations_are_left_alone(place: Path) -> None:
    others = [".its.partial-1", ".i.partial-1", "it.partial-1", ".it.other", ".it"]
    for name in others:
        (place / name).mkdir()
    (place / ".it.partial-abc").mkdir()
    (place / ".it.replaced-abc").mkdir()
    publish(place / "it", "x")
    assert names(place) == sorted([*others, "it"])


def test_leftovers_that_are_links_or_files_go_and_what_they_led_to_stays(place: Path) -> None:
    publish(place / "target", "old")
    (place / ".it.partial-a").symlink_to("target", target_is_directory=True)
    (place / ".it.partial-b").symlink_to("nothing")
    (place / ".it.replaced-c").write_text("x")
    (place / ".it.replaced-d").mkdir()
    (place / ".it.replaced-d" / "link").symlink_to(place / "target", target_is_directory=True)
    publish(place / "it", "new")
    assert names(place) == ["it", "target"]
    assert content(place / "target") == "old"


@pytest.mark.parametrize("name", ["line\nbreak", "x" * 255, "日" * 85, os.fsdecode(b"caf\xe9")])
def test_a_killed_publisher_of_an_odd_name_leaves_nothing_once_the_next_is_done(
    place: Path, name: str
) -> None:
    command = [sys.executable, "-c", PUBLISHER, os.fsencode(place / name), "0"]
    assert subprocess.run(command).returncode == -signal.SIGKILL
    assert len(names(place)) == 1
    publish(place / name, "next")
    assert names(place) == [name]


# Says that it is inside, then waits for a line before it publishes.
WAITING = """
import sys
from pathlib import Path
from latentrt.bundle.publish import publishing

with publishing(Path(sys.argv[1])) as folder:
    (folder / "below").mkdir()
    (folder / "below" / "file").write_text("first")
    print("inside", flush=True)
    sys.stdin.readline()
"""


def test_the_second_of_two_publishers_fails_and_the_first_goes_on(
    place: Path,
) -> None:
    first = subprocess.Popen(
        [sys.executable, "-c", WAITING, place / "it"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with first:
        assert first.stdout is not None
        assert first.stdout.readline() == "inside\n"
        for force in (False, True):
            with pytest.raises(BundleError, match="it: is being written by another process"):
                publish(place / "it", "second", force=force)
        publish(place / "another", "x")
        first.communicate("go on\n")
    assert first.returncode == 0
    assert content(place / "it") == "first"
    assert names(place) == ["another", "it"]
    publish(place / "it", "second", force=True)
    assert content(place / "it") == "second"


def test_one_process_cannot_publish_the_same_twice_at_once(place: Path) -> None:
    (place / "link").symlink_to(place, target_is_directory=True)
    with (
        publishing(place / "it"),
        pytest.raises(BundleError, match="another process"),
        publishing(place / "link" / "it"),
    ):
        pass
    assert names(place) == ["it", "link"]


def test_locks_lie_in_the_folder_that_the_variable_names(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HOME", "LOCALAPPDATA", "XDG_CACHE_HOME"):
        monkeypatch.setenv(name, str(tmp_path / "home"))
    publish(place / "it", "x")
    assert len(names(tmp_path / "cache" / "locks")) == 1
    assert not (tmp_path / "home").exists()


def test_locks_lie_in_the_folder_that_is_named_and_none_elsewhere(
    place: Path, tmp_path: Path
) -> None:
    with publishing(place / "it", locks=tmp_path / "own"):
        pass
    assert len(names(tmp_path / "own")) == 1
    assert not (tmp_path / "cache").exists()
    with (
        publishing(place / "other", locks=tmp_path / "own"),
        pytest.raises(BundleError, match="another process"),
        publishing(place / "other", locks=tmp_path / "own"),
    ):
        pass


# Places that cannot be written.


def test_a_cache_folder_without_write_access_is_named(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (place / "file").write_text("x")
    monkeypatch.setenv("LATENTRT_CACHE", str(place / "file"))
    with pytest.raises(InputError, match=r"written \(\$LATENTRT_CACHE\), got .*file \(") as caught:
        publish(place / "it", "x")
    assert caught.value.field == "cache"
    assert names(place) == ["file"]


def test_a_parent_that_is_a_file_is_named(place: Path) -> None:
    (place / "file").write_text("x")
    for destination in (place / "file" / "it", place / "file" / "deeper" / "it"):
        with pytest.raises(InputError, match=r"a place that can be written, got .*file/") as caught:
            publish(destination, "x")
        assert caught.value.field == "destination"
    assert (place / "file").read_text() == "x"


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs /proc")
@pytest.mark.parametrize("destination", ["/proc/it", "/proc/folder/it"])
def test_a_place_without_write_access_is_named(destination: str) -> None:
    with pytest.raises(InputError, match=f"a place that can be written, got {destination}"):
        publish(Path(destination), "x")


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs /proc")
def test_a_file_without_write_access_is_named() -> None:
    with pytest.raises(InputError, match="a place that can be written, got /proc/file"):
        write_file(Path("/proc/file"), b"x")


@pytest.mark.parametrize("name", ["x" * 300, "nul\0", "\ud83d"])
def test_an_impossible_name_is_refused_before_any_work(place: Path, name: str) -> None:
    def work() -> None:
        pytest.fail("began to work")

    with pytest.raises(Unwritable, match=r"destination: expected a p(lace|ath)"):
        publish(place / name, "x", meanwhile=work)
    with pytest.raises(Unwritable, match=r"destination: expected a p(lace|ath)"):
        write_file(place / name, b"x")
    assert names(place) == []


def test_a_link_in_a_circle_is_refused(place: Path) -> None:
    (place / "it").symlink_to("it")
    with pytest.raises(InputError, match="destination: expected a"):
        publish(place / "it", "x", force=True)
    with pytest.raises(Unwritable, match=r"it \(Too many levels of symbolic links\)"):
        write_file(place / "it", b"x")
    assert names(place) == ["it"]


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EFBIG, errno.EIO])
def test_a_full_disk_inside_the_block_names_the_destination(place: Path, error: int) -> None:
    def full() -> None:
        raise OSError(error, os.strerror(error))  # as write(2) has it: no path

    with pytest.raises(Unwritable, match=rf"written, got {place}/it \({os.strerror(error)}\)"):
        publish(place / "it", "x", meanwhile=full)
    assert names(place) == []


def test_a_file_of_the_block_that_cannot_be_written_names_the_destination(place: Path) -> None:
    with (
        pytest.raises(Unwritable, match=rf"{place}/it \(No such file or directory\)"),
        publishing(place / "it") as folder,
    ):
        (folder / "missing" / "file").write_text("x")


def test_a_file_elsewhere_that_the_block_cannot_read_is_named_itself(place: Path) -> None:
    with (
        pytest.raises(FileError, match=rf"{place}/weights: No such file"),
        publishing(place / "it"),
    ):
        (place / "weights").read_bytes()


@pytest.mark.parametrize("error", [BrokenPipeError(errno.EPIPE, "Broken pipe"), TimeoutError()])
def test_an_error_unrelated_to_files_is_unchanged(place: Path, error: OSError) -> None:
    with pytest.raises(type(error)), publishing(place / "it"):
        raise error


# One file.


def test_write_file_replaces_the_content(place: Path) -> None:
    write_file(place / "file", b"old")
    write_file(place / "file", b"new\0\n")
    assert (place / "file").read_bytes() == b"new\0\n"
    assert names(place) == ["file"]


def test_write_file_names_a_missing_folder(place: Path) -> None:
    with pytest.raises(InputError, match=r"got .*missing/file"):
        write_file(place / "missing" / "file", b"x")


@pytest.mark.parametrize("failing", ["fsync", "replace"])
def test_write_file_keeps_the_old_content_when_writing_fails(
    place: Path, monkeypatch: pytest.MonkeyPatch, failing: str
) -> None:
    write_file(place / "file", b"old")

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, failing, full)
    with pytest.raises(InputError, match=r"file \(No space left on device\)"):
        write_file(place / "file", b"new")
    assert (place / "file").read_bytes() == b"old"
    assert names(place) == ["file"]


def test_write_file_keeps_the_old_content_when_the_disk_takes_only_half(place: Path) -> None:
    resource = pytest.importorskip("resource")
    write_file(place / "file", b"old")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, hard))
    try:
        with pytest.raises(InputError, match=r"file \(File too large\)"):
            write_file(place / "file", bytes(2 << 20))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert (place / "file").read_bytes() == b"old"
    assert names(place) == ["file"]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_write_file_replaces_neither_folder_nor_pipe_nor_device(place: Path) -> None:
    (place / "folder").mkdir()
    os.mkfifo(place / "pipe")
    (place / "device").symlink_to("/dev/null")
    for name, kind in (("folder", "a folder"), ("pipe", "a device"), ("device", "a device")):
        with pytest.raises(Unwritable, match=f"expected a file, got .*{name}, {kind}"):
            write_file(place / name, b"x")
    assert names(place) == ["device", "folder", "pipe"]
    assert (place / "pipe").is_fifo()


def test_write_file_follows_a_link_as_open_does(place: Path) -> None:
    (place / "below").mkdir()
    (place / "below" / "real").write_bytes(b"old")
    for name, target in (("link", "below/real"), ("new", "below/made")):
        (place / name).symlink_to(target)
        write_file(place / name, b"new")
        assert (place / name).is_symlink()
        assert (place / target).read_bytes() == b"new"
    assert names(place / "below") == ["made", "real"]


@pytest.mark.parametrize("name", ["x" * 255, "日" * 85, "line\nbreak"])
def test_write_file_takes_every_name_that_open_takes(place: Path, name: str) -> None:
    write_file(place / name, b"x")
    assert names(place) == [name]

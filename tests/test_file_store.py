"""What FileStore promises beyond the contract of `sim.check.store`: its file, and who uses, cuts or breaks it."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, strategies as st

import rdzv
from rdzv.store import log
from rdzv.store.base import Deadline

if TYPE_CHECKING:
    from collections.abc import Callable

ROOT = Path(__file__).parents[1]

# As torch 2.13 has written it: one object; set, add twice, delete, compare_set twice, append; a clone came and went.
RECORDS = (
    b"\t\0\0\0refcount/\1\0\0\0001",
    b"\2\0\0\0/a\1\0\0\0001",
    b"\2\0\0\0/n\1\0\0\0003",
    b"\2\0\0\0/n\1\0\0\0002",
    b"\3\0\0\0-/a\0\0\0\0",
    b"\2\0\0\0/c\1\0\0\0x",
    b"\2\0\0\0/c\1\0\0\0y",
    b"\2\0\0\0/c\3\0\0\0yzz",
    b"\t\0\0\0refcount/\1\0\0\0002",
    b"\x08\0\0\0cleanup/\1\0\0\0001",
    b"\t\0\0\0refcount/\1\0\0\0001",
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "store"


def program(text: str, *arguments: object) -> subprocess.Popen[str]:
    """A fresh interpreter that runs the text, with `store` on the first argument."""
    head = f"import sys; sys.path.insert(0, {str(ROOT)!r})\nimport rdzv\nstore = rdzv.FileStore(sys.argv[1])\n"
    command = [sys.executable, "-c", head + text, *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def run(text: str, *arguments: object) -> str:
    with program(text, *arguments) as process:
        output = process.communicate(timeout=60)[0]
    assert process.returncode == 0
    return output


# The format


def test_the_file_is_torchs_byte_for_byte(path: Path) -> None:
    """So that stores of both kinds can share one."""
    store = rdzv.FileStore(str(path))
    store.set("a", "1")
    store.add("n", 3)
    store.add("n", -1)
    store.delete_key("a")
    store.compare_set("c", "", "x")
    store.compare_set("c", "wrong", "z")
    store.compare_set("c", "x", "y")
    store.append("c", "zz")
    store.clone()
    assert path.read_bytes() == b"".join(RECORDS)


def test_a_file_that_is_there_is_read(path: Path) -> None:
    """Whoever wrote it; an earlier job too, as upstream."""
    path.write_bytes(b"".join(RECORDS))
    store = rdzv.FileStore(str(path))
    assert sorted(store.list_keys()) == ["c", "n"]
    assert store.multi_get(["c", "n"]) == [b"yzz", b"2"]
    assert store.num_keys() == 4
    assert path.read_bytes().endswith(b"\t\0\0\0refcount/\1\0\0\0002")


keys = st.builds(lambda mark, key: mark + key, st.sampled_from([b"/", b"-/"]), st.binary(max_size=6))
records = st.lists(st.tuples(st.just(log.USERS) | st.just(log.LEAVERS) | keys, st.binary(max_size=9)), max_size=4)


@given(records, st.data())
def test_any_beginning_of_a_log_reads_as_its_whole_records(
    written: list[tuple[bytes, bytes]], data: st.DataObject
) -> None:
    """Wherever a writer dies, nobody reads half of what it wrote."""
    encoded = [log.encode(*record) for record in written]
    whole = b"".join(encoded)
    cut = data.draw(st.integers(0, len(whole)))
    read = list(log.decode(whole[:cut]))
    assert [(key, value) for key, value, _ in read] == written[: len(read)]
    ends = [len(b"".join(encoded[: count + 1])) for count in range(len(encoded))]
    assert [end for _, _, end in read] == [end for end in ends if end <= cut]


def test_what_the_format_cannot_hold_is_refused(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its lengths have 32 bits; nothing is written."""
    store = rdzv.FileStore(str(path))
    before = path.read_bytes()
    monkeypatch.setattr(log, "_LENGTH_MAX", 20)
    store.set("k", "v" * 20)
    with pytest.raises(rdzv.DistStoreError, match="of 21 bytes passes the limit of 20"):
        store.multi_set(["k", "k"], ["w", "v" * 21])
    assert store.get("k") == b"v" * 20
    assert path.read_bytes() == before + log.encode(b"/k", b"v" * 20)


# Who uses the file, and who removes it


@pytest.mark.parametrize(("world_size", "is_removed"), [(-1, False), (0, True), (1, True), (2, True), (3, False)])
def test_the_last_of_the_world_removes_the_file(path: Path, world_size: int, is_removed: bool) -> None:
    """Here two have come and gone: of a larger world, others may be still to come."""
    first, second = (rdzv.FileStore(str(path), world_size) for _ in range(2))
    del first
    assert path.exists()
    del second
    assert path.exists() != is_removed


@pytest.mark.parametrize("is_writing", [False, True])
def test_a_store_that_is_collected_in_the_midst_of_anothers_use_of_the_file_is_counted_out_behind_it(
    path: Path, is_writing: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """The garbage collector comes at any time, and must not wait for a lock that its own thread holds."""
    store, gone = (rdzv.FileStore(str(path), 2) for _ in range(2))
    uses = store._log.writing if is_writing else store._log.reading
    with uses(Deadline(20.0)):
        del gone
        before = path.read_bytes()
    assert path.read_bytes() == before + log.encode(log.LEAVERS, b"1") + log.encode(log.USERS, b"1")
    assert not caplog.records
    del store
    assert not path.exists()


def test_a_store_is_counted_out_when_its_process_ends(path: Path) -> None:
    """Without anybody deleting the object."""
    run("store.set('key', 'value')", path)
    assert rdzv.FileStore(str(path), 2).get("key") == b"value"
    assert not path.exists()


def test_a_forked_child_shares_the_store(path: Path) -> None:
    """Even if a thread of its parent was using it; and when it ends, the object is not counted out for it."""
    output = run(
        """
import os
store.set("key", "parent")
store._log._lock.acquire()  # as if another thread were in the middle of a call
if os.fork() == 0:
    store.set("child", store.get("key"))
    sys.exit()
store._log._lock.release()
os.wait()
print(store.get("child"), sorted(store._log.values.items()))
""",
        path,
    )
    assert output == "b'parent' [(b'/child', b'parent'), (b'/key', b'parent'), (b'refcount/', b'1')]\n"


def test_a_child_that_was_forked_in_the_middle_of_a_write_holds_no_lock(path: Path) -> None:
    """It has a duplicate of the locked descriptor for as long as it lives."""
    output = run(
        """
import os
from rdzv.store.base import Deadline
ours, childs = os.pipe()
with store._log.writing(Deadline(5)):
    if os.fork() == 0:  # as another thread might do now
        os.close(childs)
        os.read(ours, 1)
        os._exit(0)
store.set_timeout(0)
store.set("key", "value")
os.close(childs)
os.wait()
print(store.get("key"))
""",
        path,
    )
    assert output == "b'value'\n"


def test_all_processes_count(path: Path) -> None:
    """Four of them, with no barrier but the store's own."""
    text = "store.barrier('start', 4)\nprint([store.add('n', 1) for _ in range(100)])"
    processes = [program(text, path) for _ in range(4)]
    numbers = [
        int(number) for process in processes for number in process.communicate(timeout=60)[0].strip("[]\n").split(",")
    ]
    assert sorted(numbers) == list(range(1, 401))


# Writers that die


@pytest.mark.parametrize("kept", range(len(log.encode(b"/key", b"after"))))
def test_a_record_cut_short_was_never_written(path: Path, kept: int, caplog: pytest.LogCaptureFixture) -> None:
    """Readers stop before it; the next writer cuts it off, and says so."""
    store = rdzv.FileStore(str(path))
    store.set("key", "before")
    whole = path.read_bytes()
    tail = log.encode(b"/key", b"after")[:kept]
    with path.open("ab") as file:
        file.write(tail)
    assert store.get("key") == b"before"
    assert path.read_bytes() == whole + tail
    assert not caplog.records
    other = rdzv.FileStore(str(path))
    assert path.read_bytes() == whole + log.encode(log.USERS, b"2")
    assert [f"ends in {kept} bytes of a write that was never finished" in text for text in caplog.messages] == [
        True
    ] * bool(kept)
    other.set("key", "after")
    assert store.get("key") == b"after"


def test_writers_that_are_killed_leave_a_store_in_order(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Each is killed in the midst of large writes; what is read is what one of them has written whole."""
    store = rdzv.FileStore(str(path))
    store.set_timeout(30)
    for turn in range(5):
        with program("for turn in range(1, 10**6): store.set('key', bytes([turn % 256]) * 700_000)", path) as writer:
            store.wait(["key"])
            writer.kill()
        value = store.get("key")
        assert value == value[:1] * 700_000
        store.set("turn", str(turn))
        assert store.delete_key("key")
    assert store.get("turn") == b"4"


def test_a_write_without_room_is_undone(path: Path) -> None:
    """A limit on the size of files stands for a full disk; what is in the store stays, and short writes go on."""
    output = run(
        """
import os, resource
store.set("key", "before")
size = os.path.getsize(sys.argv[1])
resource.setrlimit(resource.RLIMIT_FSIZE, (size + 100, size + 100))
try:
    store.set("key", "x" * 1000)
except rdzv.DistStoreError as error:
    print(error.__cause__.strerror, os.path.getsize(sys.argv[1]) == size, store.get("key"))
store.set("key", "after")
print(store.get("key"))
""",
        path,
    )
    assert output == "File too large True b'before'\nb'after'\n"


def test_a_lock_that_is_never_released_is_named(path: Path) -> None:
    """By a stopped process, say. A lock in passing is waited for, even if the timeout is 0."""
    store = rdzv.FileStore(str(path))
    store.set_timeout(0)
    with path.open() as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(rdzv.StoreTimeoutError, match=f"another process has held the lock of {path} for 1.0 s"):
            store.set("key", "value")
    store.set("key", "value")
    assert store.get("key") == b"value"


# Files that are no store, or not any more

FOREIGN = {
    "text": b"root:x:0:0:root:/root:/bin/sh\n",
    "lines": b"\n\n\n\n\n",
    "short": b"hi\n",
    "first record cut": RECORDS[0][:-1],
    "unknown key": log.encode(b"key", b"value"),
    "empty key": log.encode(b"", b""),
    "slash far away": b"abcd/efgh",
    "zeros": bytes(64),
}


@pytest.mark.parametrize("content", FOREIGN.values(), ids=FOREIGN)
def test_a_foreign_file_is_refused_and_left_alone(path: Path, content: bytes) -> None:
    """At once, and with its name: it may be somebody's work."""
    path.write_bytes(content)
    with pytest.raises(rdzv.DistStoreError, match=f"{path} is no store"):
        rdzv.FileStore(str(path))
    assert path.read_bytes() == content


def append_garbage(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b"garbage")


def cut(path: Path) -> None:
    os.truncate(path, 30)


def replace(path: Path) -> None:
    path.with_suffix(".new").write_bytes(path.read_bytes())
    path.with_suffix(".new").replace(path)


DAMAGES = {
    append_garbage: "is damaged: no record at 35",
    cut: "was cut from 35 bytes to 30",
    replace: "is another file",
}
every_damage = pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)


@every_damage
def test_damage_is_found_by_the_next_operation(path: Path, damage: Callable[[Path], None]) -> None:
    """Each says what is wrong, and changes nothing."""
    store = rdzv.FileStore(str(path))
    store.set("key", "value")
    damage(path)
    content = path.read_bytes()
    for attempt in (lambda: store.get("key"), lambda: store.set("key", "new"), store.num_keys):
        with pytest.raises(rdzv.DistStoreError, match=f"{path} .*{DAMAGES[damage]}"):
            attempt()
    assert path.read_bytes() == content


@every_damage
def test_who_leaves_a_damaged_file_says_so(
    path: Path, damage: Callable[[Path], None], caplog: pytest.LogCaptureFixture
) -> None:
    """In the log: it could not be counted out, so the file may never be removed."""
    store = rdzv.FileStore(str(path))
    store.set("key", "value")
    damage(path)
    del store
    (text,) = caplog.messages
    assert text.startswith(f"a store on {path} could not be counted out: ")
    assert DAMAGES[damage] in text


def test_a_file_that_was_removed_is_not_made_again(path: Path) -> None:
    """A second file would divide those who share it."""
    store = rdzv.FileStore(str(path))
    path.unlink()
    for attempt in (lambda: store.set("key", "value"), lambda: store.get("key"), lambda: store.check(["key"])):
        with pytest.raises(rdzv.DistStoreError, match=f"{path}: somebody has removed it"):
            attempt()
    assert not path.exists()


def test_nobody_is_told_off_for_cleaning_up(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A folder of temporary files is often gone before the store is."""
    store = rdzv.FileStore(str(path), 1)
    path.unlink()
    del store
    assert not path.exists()
    assert not caplog.records


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    """The system's own words will do."""
    with pytest.raises(rdzv.DistStoreError, match=f"{tmp_path}: Is a directory"):
        rdzv.FileStore(str(tmp_path))


def test_the_store_shows_what_it_is(path: Path) -> None:
    """Arguments, attribute and answers are upstream's, and there are no queues."""
    store = rdzv.FileStore(file_name=str(path), world_size=1)
    assert store.path == str(path)
    assert repr(store) == f"FileStore({str(path)!r}, 1)"
    assert not store.has_extended_api()
    for attempt in (lambda: store.queue_push("q", "1"), lambda: store.queue_pop("q"), lambda: store.queue_len("q")):
        with pytest.raises(NotImplementedError):
            attempt()

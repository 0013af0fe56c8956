"""The frames: what goes in comes out, however it is cut; what is too large or no frame at all is refused at once."""

from __future__ import annotations

import struct
import sys
from itertools import pairwise

import pytest
from hypothesis import example, given, strategies as st

from rdzv.core import wire
from rdzv.core.wire import (
    COMMANDS,
    REPLY_LAYOUTS,
    REQUEST_LAYOUTS,
    FrameReader,
    Limits,
    WireError,
    whole_replies,
    whole_values,
)

SMALL = Limits(key_bytes_max=8, value_bytes_max=16, keys_per_request_max=4)

KEYS = st.binary(max_size=SMALL.key_bytes_max)
VALUES = st.binary(max_size=SMALL.value_bytes_max)
INT64 = st.integers(-(1 << 63), (1 << 63) - 1)
FIELDS = {
    "k": KEYS,
    "v": VALUES,
    "i": INT64,
    "n": st.integers(0, (1 << 32) - 1),
    "b": st.integers(0, 255),
    "K": st.lists(KEYS, max_size=SMALL.keys_per_request_max),
    "P": st.lists(st.tuples(KEYS, VALUES), max_size=SMALL.keys_per_request_max).map(lambda pairs: sum(pairs, ())),
    "L": st.lists(KEYS, max_size=SMALL.keys_per_request_max),
}


def written(kind: str, field) -> bytes:
    """One field as the table in `rdzv.core.wire` has it: written a second time, so that the two can be compared."""
    if isinstance(field, int):
        return struct.pack({"i": "<q", "n": "<I", "b": "<B"}[kind], field)
    if isinstance(field, bytes):
        return struct.pack("<Q", len(field)) + field
    items = b"".join(struct.pack("<Q", len(item)) + item for item in field)
    return struct.pack("<Q", len(field) // (2 if kind == "P" else 1)) + items


@st.composite
def requests(draw):
    op = draw(st.integers(0, len(COMMANDS) - 1))
    return op, *[draw(FIELDS[kind]) for kind in REQUEST_LAYOUTS[op]]


def flat(request):
    """A request as the reader hands it out: what repeats is fields of its own."""
    op, *fields = request
    return op, [item for field in fields for item in (field if isinstance(field, (list, tuple)) else [field])]


def chunked(data: bytes, cuts) -> list[bytes]:
    edges = [0, *sorted({cut % (len(data) + 1) for cut in cuts}), len(data)]
    return [data[start:end] for start, end in pairwise(edges)]


def read_all(reader: FrameReader, chunks) -> list:
    return list(requests_in(reader, chunks))


def requests_in(reader: FrameReader, chunks):
    for chunk in chunks:
        request = reader.request(chunk)
        while request is not None:
            yield request
            request = reader.request()


def outcome(chunks) -> list:
    """The requests that were read, and the error that ended it, if any did."""
    found = []
    try:
        for request in requests_in(FrameReader(SMALL), chunks):
            found.append(request)  # noqa: PERF402 -- what came before the error counts
    except WireError as error:
        found.append(str(error))
    return found


def reader_of(data: bytes, limits: Limits = SMALL) -> FrameReader:
    reader = FrameReader(limits)
    reader.feed(data)
    return reader


READ = pytest.mark.parametrize(
    "read",
    [lambda data: reader_of(data).request(), lambda data: FrameReader(SMALL).request(data)],
    ids=["fed", "given"],
)


def test_every_command_has_its_name_and_both_layouts():
    """The three tables are indexed by the command, so they are as long as each other, and each row is in its place."""
    assert len(COMMANDS) == len(REQUEST_LAYOUTS) == len(REPLY_LAYOUTS) == wire.BARRIER + 1
    for op, name in enumerate(COMMANDS):
        assert getattr(wire, name.upper()) == op


@given(requests())
def test_a_request_is_written_as_the_table_says(request_):
    op, *fields = request_
    expected = bytes([op]) + b"".join(map(written, REQUEST_LAYOUTS[op], fields))
    assert wire.encode(op, *fields) == expected


@pytest.mark.parametrize("size", [0, 1, 255, 256, 8192])
def test_a_key_of_any_length_is_written_so(size):
    """That of most keys has its packer at hand; and is there a second time."""
    key = bytes(size)
    for op, layout in enumerate(REQUEST_LAYOUTS):
        if layout[:1] == "k":
            fields = [key, *({"i": -7, "v": b"value"}[kind] for kind in layout[1:])]
            expected = bytes([op]) + b"".join(map(written, layout, fields))
            assert wire.encode(op, *fields) == wire.encode(op, *fields) == expected


@given(st.lists(requests(), max_size=5), st.lists(st.integers(0, 1 << 16), max_size=12))
def test_any_pieces_of_a_stream_give_the_same_requests(stream, cuts):
    """Nothing depends on where the network cuts, and nothing is left over at the end."""
    data = b"".join(wire.encode(*request) for request in stream)
    reader = FrameReader(SMALL)
    assert read_all(reader, chunked(data, cuts)) == [flat(request) for request in stream]
    assert reader.held_bytes == 0
    assert reader.is_between_frames


@given(requests())
def test_half_a_frame_is_never_handed_out(request_):
    """At every cut: nothing before the last byte, the whole request with it."""
    data = wire.encode(*request_)
    for cut in range(len(data)):
        reader = reader_of(data[:cut])
        assert reader.request() is None
        assert reader.is_between_frames == (cut == 0)
        assert reader.next_op() == (request_[0] if cut else None)
        reader.feed(data[cut:])
        assert reader.request() == flat(request_)


@st.composite
def replies(draw):
    op = draw(st.integers(0, len(COMMANDS) - 1))
    layout = REPLY_LAYOUTS[op] if op != wire.MULTI_GET else "v" * draw(st.integers(1, 4))
    fields = [draw(FIELDS[kind]) for kind in layout if kind != "q"]
    data = b"".join(map(written, layout, fields))
    if layout == "q":
        length = draw(st.integers(-1, 1) | INT64)
        fields = [length] + ([draw(VALUES)] if length > 0 else [])
        data = b"".join(map(written, "iv", fields))
    if layout == "L":
        fields = fields[0]
    return layout, fields, data


@given(replies().filter(lambda reply: reply[0]), st.binary(max_size=2), st.integers(0, 2))
def test_a_reply_that_comes_in_one_piece_is_read_like_any_other(reply, more, lacking):
    """Whether exactly it has come, or more, or less: the short cut takes the first for what the long way does."""
    layout, _, data = reply
    data = (data + more)[: len(data) + len(more) - lacking]
    reader, fed = FrameReader(SMALL), reader_of(data)
    assert reader.reply(layout, data) == fed.reply(layout)
    assert (reader.held_bytes, reader.is_between_frames) == (fed.held_bytes, fed.is_between_frames)


@given(st.lists(VALUES, min_size=1, max_size=5), st.data())
def test_values_are_whole_if_they_are_all_that_was_asked_for_and_nothing_else(values, data):
    reply = b"".join(written("v", value) for value in values)
    assert whole_values(reply, len(values)) == values
    assert whole_values(reply, len(values) + 1) is None
    assert whole_values(reply, len(values) - 1) is None
    assert whole_values(reply[: data.draw(st.integers(0, len(reply) - 1))], len(values)) is None


@pytest.mark.parametrize("length", [8, 2**63 - 20, 2**64 - 1])
def test_values_longer_than_what_has_come_are_no_whole_replies(length):
    """However long the first says that it is: so far nothing can be read."""
    assert whole_replies("vv", struct.pack("<Q", length)) is None
    assert whole_values(struct.pack("<Q", length), 2) is None


def test_a_value_past_the_limit_is_refused_in_one_piece_too():
    data = written("v", bytes(SMALL.value_bytes_max + 1))
    with pytest.raises(WireError, match="passes the limit"):
        FrameReader(SMALL).reply("v", data)


@given(st.lists(replies().filter(lambda reply: reply[0]), max_size=5), st.lists(st.integers(0, 1 << 16), max_size=12))
def test_any_pieces_of_a_stream_give_the_same_replies(stream, cuts):
    reader = FrameReader(SMALL)
    found = []
    for chunk in chunked(b"".join(data for _, _, data in stream), cuts):
        reader.feed(chunk)
        while len(found) < len(stream) and (reply := reader.reply(stream[len(found)][0])) is not None:
            found.append(reply)
    assert found == [fields for _, fields, _ in stream]
    assert reader.held_bytes == 0


@given(st.binary(max_size=200), st.lists(st.integers(0, 1 << 16), max_size=12))
def test_every_byte_string_is_requests_or_an_error(garbage, cuts):
    """No other exception, whatever comes; and the error comes at the same place, however the bytes are cut."""
    assert outcome([garbage]) == outcome(chunked(garbage, cuts))


@given(requests(), st.lists(st.tuples(st.integers(0, 1 << 16), st.integers(0, 255)), max_size=2), st.binary(max_size=9))
@example((wire.CHECK, [b"k"]), [(1, 2)], b"")  # a key more than there are
@example((wire.CHECK, [b"k"]), [(1, 0)], b"")  # a key less
def test_a_read_that_is_all_but_one_whole_frame_is_no_special_case(request_, changes, more):
    """Whole requests are read in their own way: that they are whole must be found out exactly, wrong bytes or not."""
    data = bytearray(wire.encode(*request_) + more)
    for place, byte in changes:
        data[place % len(data)] = byte
    assert outcome([bytes(data)]) == outcome([data[index : index + 1] for index in range(len(data))])


@pytest.mark.parametrize("cut", [0, 1, 9, 15])
def test_bytes_that_have_been_read_are_let_go(cut):
    """Else each of ten thousand idle connections would keep its last 64 KiB, and nobody would count them."""
    frame = wire.encode(wire.SET, b"k", b"v")
    data = frame * 100 + frame[:cut]
    references = sys.getrefcount(data)
    reader = FrameReader(SMALL)
    assert len(read_all(reader, [data])) == 100
    assert sys.getrefcount(data) == references


@READ
@pytest.mark.parametrize("op", [op for op, layout in enumerate(REQUEST_LAYOUTS) if "k" in layout or "v" in layout])
def test_a_key_or_value_at_its_limit_passes_and_one_more_byte_is_refused_at_the_length(op, read):
    """Refused as soon as the length is known: nothing of what it announces is waited for, let alone stored."""
    layout = REQUEST_LAYOUTS[op]
    largest = {"k": b"k" * SMALL.key_bytes_max, "v": b"v" * SMALL.value_bytes_max, "i": 0}
    fields = [largest[kind] for kind in layout]
    assert read(wire.encode(op, *fields)) == (op, fields)
    for index, kind in enumerate(layout):
        if kind in "kv":
            start = wire.encode(op, *fields)[: 1 + sum(8 + len(field) for field in fields[:index])]
            for size in (len(largest[kind]) + 1, (1 << 63) - 1, 1 << 63, (1 << 64) - 1):
                with pytest.raises(WireError, match=str(size)):
                    read(start + struct.pack("<Q", size))
                with pytest.raises(WireError, match=str(size)):
                    read(start + struct.pack("<Q", size) + bytes(min(size, 100)))


@READ
@pytest.mark.parametrize("op", [op for op, layout in enumerate(REQUEST_LAYOUTS) if layout in ("K", "P")])
def test_as_many_keys_as_the_limit_pass_and_one_more_is_refused_at_the_count(op, read):
    count = SMALL.keys_per_request_max
    items = [b"x"] * count * (2 if REQUEST_LAYOUTS[op] == "P" else 1)
    assert read(wire.encode(op, items)) == (op, items)
    for number in (count + 1, (1 << 64) - 1):
        with pytest.raises(WireError, match=str(number)):
            read(bytes([op]) + struct.pack("<Q", number))


@READ
@pytest.mark.parametrize("op", [len(COMMANDS), 200, 255])
def test_there_is_no_other_command(op, read):
    with pytest.raises(WireError, match=str(op)):
        read(bytes([op]))


def test_a_list_of_a_negative_number_of_keys_is_refused():
    with pytest.raises(WireError):
        reader_of(struct.pack("<q", -1)).reply("L")


def calls_to_read(data: bytes, chunk_bytes: int) -> int:
    """How many functions, ours and the interpreter's, run while the stream is read."""
    chunks = [data[start : start + chunk_bytes] for start in range(0, len(data), chunk_bytes)]
    reader, calls = FrameReader(Limits()), 0

    def count(_frame, event, _argument):
        nonlocal calls
        calls += event in ("call", "c_call")

    former = sys.getprofile()
    sys.setprofile(count)
    try:
        found = read_all(reader, chunks)
    finally:
        sys.setprofile(former)
    assert len(found) == 1
    return calls


@pytest.mark.parametrize("op", [wire.CHECK, wire.MULTI_SET, wire.SET])
def test_reading_is_linear_in_the_bytes(op):
    """Twice the frame in twice as many pieces is twice the work: what has been read is not looked at again (E9)."""

    def frame(size):
        if op == wire.SET:
            return wire.encode(op, b"k", b"v" * size * 20)
        return wire.encode(op, [b"key-%06d" % size] * size)

    small, large = (calls_to_read(frame(size), 1000) for size in (2000, 4000))
    assert large <= 2.1 * small


def test_a_frame_that_came_in_pieces_is_let_go_of_with_its_last():
    """An idle connection holds nothing that it has handed out."""
    reader, value = FrameReader(Limits()), bytes(1 << 20)
    data = wire.encode(wire.SET, b"k", value)
    assert list(requests_in(reader, [data[: 1 << 19], data[1 << 19 :]])) == [(wire.SET, [b"k", value])]
    assert not reader._fields


def test_what_an_unfinished_frame_occupies_is_not_understated():
    """Small keys cost more as objects than as bytes: who counts only bytes can be made to hold twenty times that."""
    count = 10_000
    data = wire.encode(wire.CHECK, [b"%04d" % (i % 10_000) for i in range(count)])
    reader = reader_of(data[:-1], Limits())
    assert reader.request() is None
    assert reader.held_bytes >= (count - 1) * (sys.getsizeof(b"0000") + 8)


def test_a_count_alone_is_accounted_for():
    """Nine bytes make the reader plan for 131072 keys: the plan is memory too."""
    reader = reader_of(bytes([wire.CHECK]) + struct.pack("<Q", Limits().keys_per_request_max), Limits())
    assert reader.request() is None
    assert reader.held_bytes >= Limits().keys_per_request_max

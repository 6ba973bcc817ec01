"""Event files and bins. AEDAT 3.1 bytes are written here from the format's definition, not by the package."""

import struct
import tracemalloc
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import zoo.events
from zoo.inputs import event_pictures, events
from zoo.inputs.events import (
    LATEST,
    LONGEST_GAP,
    Binning,
    BinStream,
    Events,
    as_events,
    bin_events,
    read_aedat,
    read_aedat_parts,
    read_events,
    write_aedat,
)

HEADER = b"#!AER-DAT3.1\r\n#Format: RAW\r\n#Source 1: DVS128\r\n#Start-Time: 2016-01-01\r\n#!END-HEADER\r\n"


def polarity(t: int, x: int, y: int, p: int, valid: int = 1) -> bytes:
    return struct.pack("<Ii", x << 17 | y << 2 | p << 1 | valid, t)


def packet(body: bytes, count: int, kind=1, size=8, offset=4, overflow=0, capacity=None, valid=None) -> bytes:
    capacity, valid = count if capacity is None else capacity, count if valid is None else valid
    return struct.pack("<hhiiiiii", kind, 1, size, offset, overflow, capacity, count, valid) + body


def columns(found: Events) -> list[tuple[int, int, int, int]]:
    return list(zip(found.t.tolist(), found.x.tolist(), found.y.tolist(), found.p.astype(int).tolist()))


@pytest.fixture
def file(tmp_path):
    def write(content: bytes, name: str = "recording.aedat"):
        (tmp_path / name).write_bytes(content)
        return tmp_path / name

    return write


# AEDAT 3.1


def test_polarity_events_are_read_as_the_format_defines_them(file):
    first = packet(polarity(10, 1, 2, 0) + polarity(11, 127, 0, 1), 2)
    second = packet(polarity(12, 0, 127, 1), 1)
    found = read_aedat(file(HEADER + first + second))
    assert columns(found) == [(10, 1, 2, 0), (11, 127, 0, 1), (12, 0, 127, 1)]
    assert [column.dtype for column in (found.t, found.x, found.y, found.p)] == [np.int64, np.int16, np.int16, bool]


def test_fifteen_bits_of_each_coordinate_are_read(file):
    assert columns(read_aedat(file(HEADER + packet(polarity(0, 32767, 16385, 1), 1)))) == [(0, 32767, 16385, 1)]


def test_the_overflow_counter_extends_timestamps_beyond_31_bits(file):
    content = packet(polarity(2**31 - 1, 1, 1, 1), 1) + packet(polarity(5, 2, 2, 0), 1, overflow=3)
    assert read_aedat(file(HEADER + content)).t.tolist() == [2**31 - 1, 3 * 2**31 + 5]


def test_events_of_other_types_are_left_out(file):
    special = packet(struct.pack("<Ii", 1 | 2 << 1, 7), 1, kind=0)
    imu = packet(bytes(2 * 36), 2, kind=3, size=36)
    frame = packet(bytes(100), 1, kind=2, size=100, offset=12)
    own = packet(bytes(24), 2, kind=200, size=12)
    content = special + packet(polarity(1, 1, 1, 1), 1) + imu + frame + packet(polarity(2, 2, 2, 0), 1) + own
    assert columns(read_aedat(file(HEADER + content))) == [(1, 1, 1, 1), (2, 2, 2, 0)]


def test_events_without_the_valid_mark_are_left_out(file):
    body = polarity(1, 1, 1, 1) + polarity(2, 9, 9, 1, valid=0) + polarity(3, 3, 3, 0)
    assert columns(read_aedat(file(HEADER + packet(body, 3, valid=2)))) == [(1, 1, 1, 1), (3, 3, 3, 0)]


def test_events_are_put_into_the_order_of_time(file):
    body = polarity(30, 1, 1, 1) + polarity(10, 2, 2, 0) + polarity(30, 3, 3, 1) + polarity(20, 4, 4, 0)
    assert read_aedat(file(HEADER + packet(body, 4))).x.tolist() == [2, 4, 1, 3]


def test_an_empty_packet_and_plain_line_ends_in_the_header_are_fine(file):
    content = HEADER.replace(b"\r\n", b"\n") + packet(b"", 0) + packet(polarity(1, 1, 1, 1), 1)
    assert columns(read_aedat(file(content))) == [(1, 1, 1, 1)]


def special(*types: int, valid: int = 1) -> bytes:
    """A packet of special events: a wrap (0) or a reset (1) of timestamps; their own time is the latest possible."""
    return packet(b"".join(struct.pack("<Ii", kind << 1 | valid, 2**31 - 1) for kind in types), len(types), kind=0)


def test_parts_between_resets_of_the_camera_s_clock_come_one_after_another(file):
    first = packet(polarity(700, 1, 1, 1) + polarity(900, 2, 2, 0), 2)
    second = packet(polarity(100, 3, 3, 1), 1, overflow=1) + packet(polarity(50, 4, 4, 1), 1)
    path = file(HEADER + first + special(1) + second + special(5, 1) + packet(polarity(7, 5, 5, 0), 1))
    after = 901 + 2**31 + 100
    assert columns(read_aedat(path)) == [
        (700, 1, 1, 1),
        (900, 2, 2, 0),
        (951, 4, 4, 1),
        (after, 3, 3, 1),
        (after + 8, 5, 5, 0),
    ]
    assert [part.t.tolist() for part in read_aedat_parts(path)] == [[700, 900], [50, 2**31 + 100], [7]]


@pytest.mark.parametrize(
    "marks", [special(1), special(1) + special(1), special(0), special(1, valid=0), special(6, 20)]
)
def test_special_events_that_reset_no_clock_between_events_change_nothing(file, marks):
    body = packet(polarity(10, 1, 1, 1), 1) + packet(polarity(20, 2, 2, 0), 1)
    expected = columns(read_aedat(file(HEADER + body, "plain.aedat")))
    between = b"" if marks.startswith(special(1)) else marks
    content = HEADER + marks + body[: len(body) // 2] + between + body[len(body) // 2 :] + marks
    assert columns(read_aedat(file(content))) == expected
    assert len(read_aedat_parts(file(content))) == 1


def test_a_reset_among_events_without_the_valid_mark_makes_no_part(file):
    stale = packet(polarity(5_000, 9, 9, 1, valid=0), 1, valid=0)
    path = file(HEADER + stale + special(1) + packet(polarity(3, 1, 1, 1), 1))
    assert columns(read_aedat(path)) == [(3, 1, 1, 1)]


def test_parts_that_last_too_long_together_are_refused(file):
    late = packet(polarity(1, 1, 1, 1), 1, overflow=2**31 - 1)
    with pytest.raises(ValueError, match=r"recording.aedat: the parts of the recording together last longer than"):
        read_aedat(file(HEADER + late + special(1) + late))


WHOLE = packet(polarity(1, 1, 1, 1) + polarity(2, 2, 2, 1), 2)


@given(cut=st.integers(1, len(WHOLE) - 1))
@settings(max_examples=30, deadline=None)
def test_a_file_that_is_cut_off_within_a_packet_is_refused(tmp_path_factory, cut):
    path = tmp_path_factory.mktemp("cut") / "recording.aedat"
    path.write_bytes(HEADER + WHOLE + WHOLE[:cut])
    with pytest.raises(ValueError, match=rf"cut off|packet 1, byte {len(HEADER + WHOLE)}: .*cut off"):
        read_aedat(path)


@pytest.mark.parametrize(
    ("damaged", "problem"),
    [
        (packet(polarity(1, 1, 1, 1), 1, size=12), "its polarity events have 12 bytes, not 8"),
        (packet(polarity(1, 1, 1, 1), 1, size=0), "contradicts itself"),
        (packet(polarity(1, 1, 1, 1), 1, offset=6), "contradicts itself"),
        (packet(polarity(1, 1, 1, 1), 1, kind=-5), "contradicts itself"),
        (packet(polarity(1, 1, 1, 1), 1, overflow=-1), "contradicts itself"),
        (packet(polarity(1, 1, 1, 1), -1), "contradicts itself"),
        (packet(polarity(1, 1, 1, 1), 1, valid=2), "1 events, 2 of them valid"),
        (packet(polarity(1, 1, 1, 1), 1, capacity=9), "has room for 9"),
        (packet(polarity(1, 1, 1, 1), 2**30), "the file is cut off"),
    ],
)
def test_a_packet_that_contradicts_the_format_is_refused_with_its_place(file, damaged, problem):
    path = file(HEADER + WHOLE + damaged)
    with pytest.raises(ValueError, match=f"recording.aedat is damaged at packet 1, byte .*{problem}"):
        read_aedat(path)


def test_a_negative_timestamp_is_refused(file):
    with pytest.raises(ValueError, match="event 1 has a negative timestamp"):
        read_aedat(file(HEADER + packet(polarity(1, 1, 1, 1) + polarity(-7, 1, 1, 1), 2)))


@pytest.mark.parametrize("start", [b"#!AER-DAT2.0\r\n", b"#!AER-DAT4.0\r\n", b"\x89PNG\r\n"])
def test_another_format_is_named_in_the_error(file, start):
    with pytest.raises(ValueError, match=r"no AEDAT 3.1 file: it must begin with #!AER-DAT3.1"):
        read_aedat(file(start + WHOLE))


def test_a_header_without_an_end_is_refused(file):
    with pytest.raises(ValueError, match="its header has no line #!END-HEADER"):
        read_aedat(file(b"#!AER-DAT3.1\r\n#Format: RAW\r\n" + WHOLE))
    with pytest.raises(ValueError, match="its header has no line #!END-HEADER"):
        read_aedat(file(b"#!AER-DAT3.1\r\n#Format: R"))


@given(
    rows=st.lists(st.tuples(st.integers(0, 2**33), st.integers(0, 127), st.integers(0, 127), st.booleans())),
    size=st.integers(1, 5),
)
@settings(max_examples=30, deadline=None)
def test_what_is_written_is_read_again(tmp_path_factory, rows, size):
    rows = sorted(rows, key=lambda row: row[0])
    t, x, y, p = (np.array([row[i] for row in rows], dtype=np.int64) for i in range(4))
    path = tmp_path_factory.mktemp("written") / "recording.aedat"
    write_aedat(path, as_events({"t": t, "x": x, "y": y, "p": p}), packet=size)
    assert columns(read_aedat(path)) == [(*row[:3], int(row[3])) for row in rows]


# Other files and arrays


ROWS = [(1000, 1, 2, 1), (2000, 3, 4, 0)]
COLUMNS = {"t": [1000, 2000], "x": [1, 3], "y": [2, 4], "p": [1, 0]}
STRUCTURED = np.array(ROWS, dtype=[("t", "<i8"), ("x", "<i2"), ("y", "<i2"), ("p", "?")])


def test_the_converted_files_of_spikingjelly_and_tonic_are_read(tmp_path):
    np.savez(tmp_path / "jelly.npz", **{field: np.array(values) for field, values in COLUMNS.items()})
    np.save(tmp_path / "tonic.npy", np.array([[1, 2, 1, 1], [3, 4, 0, 2]], dtype=np.uint32))
    np.save(tmp_path / "structured.npy", STRUCTURED)
    for name in ("jelly.npz", "tonic.npy", "structured.npy"):
        assert columns(read_events(tmp_path / name)) == ROWS


@pytest.mark.parametrize(
    "source", [COLUMNS, STRUCTURED, as_events(COLUMNS), {k: np.float32(v) for k, v in COLUMNS.items()}]
)
def test_arrays_and_dicts_are_events(source):
    assert columns(as_events(source)) == ROWS


@pytest.mark.parametrize(
    ("source", "error", "message"),
    [
        (np.zeros((3, 4)), TypeError, "events are the path of a file, or a structured array or a dict .* got ndarray"),
        (None, TypeError, "got NoneType"),
        ({"t": [1], "x": [1]}, ValueError, "there is no y, p"),
        (COLUMNS | {"t": [1.0, 1e30]}, ValueError, "event 1 has t = 1e\\+30; t is from 0 to"),
        (COLUMNS | {"t": [1, 2**62]}, ValueError, f"event 1 has t = {2**62}; t is from 0 to {LATEST}"),
        (COLUMNS | {"t": np.array([1, 2**64 - 1], np.uint64)}, ValueError, "event 1 has t = 18446744073709551615"),
        (COLUMNS | {"t": [1, 2**70]}, ValueError, "t must hold whole numbers of microseconds; got object"),
        (
            COLUMNS | {"x": np.array([1, 60000], np.float16)},
            ValueError,
            "event 1 has x = 60000.0; x is from 0 to 32767",
        ),
        (COLUMNS | {"y": [1.0, np.inf]}, ValueError, "y must hold whole numbers"),
        (COLUMNS | {"x": [1, [2, 3]]}, ValueError, "x must be one number per event; its rows are of different lengths"),
        (COLUMNS | {"x": [1]}, ValueError, "of one length; got 2, 1, 2, 2"),
        (COLUMNS | {"p": [1, -1]}, ValueError, r"event 1 has p = -1; p is 0 \(darker\) or 1 \(brighter\)"),
        (COLUMNS | {"x": [-3, 1]}, ValueError, "event 0 has x = -3"),
        (COLUMNS | {"t": [-1, 1]}, ValueError, "event 0 has t = -1"),
        (COLUMNS | {"t": [0.25, 0.5]}, ValueError, "t must hold whole numbers of microseconds"),
        (COLUMNS | {"t": [1.0, float("nan")]}, ValueError, "t must hold whole numbers of microseconds"),
        (COLUMNS | {"y": ["a", "b"]}, ValueError, "y must hold whole numbers"),
        (COLUMNS | {"x": [[1, 2]]}, ValueError, r"of shape \[N\]; got shape \[1, 2\]"),
    ],
)
def test_what_is_no_events_is_refused(source, error, message):
    with pytest.raises(error, match=message):
        as_events(source)


def test_events_that_were_put_together_by_hand_are_checked_and_put_in_order():
    backwards = Events(*(np.array(column) for column in ([3, 1], [0, 1], [0, 1], [1, 0])))
    assert as_events(backwards).t.tolist() == [1, 3] and as_events(backwards).x.tolist() == [1, 0]
    with pytest.raises(ValueError, match="event 1 has p = 2"):
        as_events(Events(*(np.array(column) for column in ([1, 2], [0, 1], [0, 1], [1, 2]))))


def test_a_file_that_cannot_be_read_says_why(file, tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no event file"):
        read_events(tmp_path / "missing.aedat")
    with pytest.raises(ValueError, match=r"no event file known here; they end in .aedat, .npz, .npy"):
        read_events(file(b"x", "video.mp4"))
    for name in ("empty.aedat", "empty.npz", "empty.npy"):
        with pytest.raises(ValueError, match=f"{name} is empty"):
            read_events(file(b"", name))
    for name in ("damaged.npz", "damaged.npy"):
        with pytest.raises(ValueError, match=f"{name} is damaged"):
            read_events(file(b"PK\x03\x04 not an archive", name))
    with pytest.raises(ValueError, match=r"recording.aedat holds no events"):
        read_events(file(HEADER))
    with pytest.raises(ValueError, match="holds no events"):
        read_events(file(HEADER + packet(polarity(1, 1, 1, 1, valid=0), 1, valid=0)))


def test_a_cut_off_archive_and_a_pickle_are_refused(tmp_path):
    np.savez(tmp_path / "cut.npz", **{field: np.arange(1000) for field in COLUMNS})
    content = (tmp_path / "cut.npz").read_bytes()
    (tmp_path / "cut.npz").write_bytes(content[: len(content) // 2])
    np.save(tmp_path / "pickle.npy", np.array([{"t": 1}], dtype=object))
    for name in ("cut.npz", "pickle.npy"):
        with pytest.raises(ValueError, match=f"{name} is damaged"):
            read_events(tmp_path / name)


def test_a_packed_archive_with_a_changed_byte_is_refused(tmp_path):
    generator = np.random.default_rng(0)
    np.savez_compressed(tmp_path / "good.npz", **{field: generator.integers(0, 2, 3000) for field in COLUMNS})
    content = (tmp_path / "good.npz").read_bytes()
    for place in range(100, len(content) - 400, 97):
        (tmp_path / "bad.npz").write_bytes(content[:place] + bytes(40) + content[place + 40 :])
        with pytest.raises(ValueError, match=r"bad.npz is damaged"):
            read_events(tmp_path / "bad.npz")
    np.save(tmp_path / "array.npy", np.arange(3))
    (tmp_path / "array.npy").rename(tmp_path / "array.npz")
    with pytest.raises(ValueError, match=r"array.npz is damaged, or no .npz file"):
        read_events(tmp_path / "array.npz")


def test_errors_of_a_file_name_it(tmp_path):
    np.save(tmp_path / "tonic.npy", np.array([[1.0, 1.0, 1.0, 0.5]]))
    with pytest.raises(ValueError, match=r"tonic.npy: t, the last column, must hold whole numbers of milliseconds"):
        read_events(tmp_path / "tonic.npy")
    np.savez(tmp_path / "wrong.npz", t=[1], x=[1], y=[1], p=[2])
    with pytest.raises(ValueError, match=r"wrong.npz: event 0 has p = 2"):
        read_events(tmp_path / "wrong.npz")


@pytest.mark.parametrize("milliseconds", [2**62 // 1000 + 1, 2**61, 2**63 - 1, -1])
def test_times_in_milliseconds_that_no_recording_has_are_refused(tmp_path, milliseconds):
    np.save(tmp_path / "tonic.npy", np.array([[1, 1, 1, 0], [1, 1, 1, milliseconds]]))
    with pytest.raises(ValueError, match=f"tonic.npy: event 1 has t = {milliseconds}; t is from 0 to {LATEST // 1000}"):
        read_events(tmp_path / "tonic.npy")


def test_the_last_time_that_an_event_may_have_is_written_and_read(tmp_path):
    rows = [(0, 0, 0, 0), (LATEST, 32767, 32767, 1)]
    write_aedat(tmp_path / "late.aedat", recording(rows))
    assert columns(read_aedat(tmp_path / "late.aedat")) == rows


def test_events_that_the_format_cannot_hold_are_not_written(tmp_path):
    wrong = Events(*(np.array(column) for column in ([0, 1], [0, -1], [0, 0], [0, 1])))
    with pytest.raises(ValueError, match="event 1 has x = -1"):
        write_aedat(tmp_path / "wrong.aedat", wrong)
    assert not (tmp_path / "wrong.aedat").exists()


def test_a_file_of_more_events_than_are_read_is_refused_before_anything_is_allocated(file, monkeypatch):
    monkeypatch.setattr(events, "MOST_EVENTS", 3)
    path = file(HEADER + WHOLE + WHOLE)
    with pytest.raises(
        ValueError, match=r"recording.aedat holds 4 events, more than the 3 that are read from one file"
    ):
        read_aedat(path)


# Bins


def recording(rows: list[tuple[int, int, int, int]]) -> Events:
    t, x, y, p = (np.array([row[i] for row in rows], dtype=np.int64) for i in range(4))
    return as_events({"t": t, "x": x, "y": y, "p": p})


def test_bins_of_time_count_events_by_polarity_and_cell():
    found = recording([(100, 0, 0, 1), (101, 1, 1, 1), (109, 2, 3, 0), (110, 3, 0, 1), (131, 0, 0, 0)])
    frames = bin_events(found, Binning(4, 4, pool=2, size=10))
    expected = np.zeros((3, 2, 2, 2), np.uint8)
    expected[0, 1, 0, 0] = 2  # two brighter events in the upper left cell
    expected[0, 0, 1, 1] = 1
    expected[1, 1, 0, 1] = 1  # and nothing in the third bin; the fourth is not complete
    assert frames.dtype == np.uint8 and (frames == expected).all()


def test_bins_of_a_number_hold_that_many_events():
    found = recording([(i, i % 4, 0, 1) for i in range(8)])
    frames = bin_events(found, Binning(4, 4, pool=1, by="number", size=4))
    assert frames.shape == (2, 2, 4, 4) and (frames[:, 1, 0] == 1).all() and frames.sum() == 8
    assert len(bin_events(found[:7], Binning(4, 4, pool=1, by="number", size=4))) == 1


def test_a_count_stops_at_255():
    frames = bin_events(recording([(i, 0, 0, 1) for i in range(400)]), Binning(4, 4, 4, by="number", size=300))
    assert frames[0, 1, 0, 0] == 255


def test_times_beyond_31_bits_are_binned_from_the_first_event_on():
    base = 2**40
    found = recording([(base, 0, 0, 1), (base + 10, 1, 0, 1), (base + 20, 0, 0, 1)])
    assert bin_events(found, Binning(2, 2, 1, size=10)).sum((1, 2, 3)).tolist() == [1, 1]


streams = st.lists(st.tuples(st.integers(0, 300), st.integers(0, 3), st.integers(0, 3), st.integers(0, 1)), max_size=60)


@given(rows=streams, cuts=st.lists(st.integers(0, 60), max_size=6), by=st.sampled_from(["time", "number"]))
@settings(max_examples=100, deadline=None)
def test_bins_of_slices_are_those_of_the_whole(rows, cuts, by):
    found, binning = recording(sorted(rows)), Binning(4, 4, 2, by, 7)
    whole, stream = BinStream(binning), BinStream(binning)
    edges = [0, *sorted(min(cut, len(found)) for cut in cuts), len(found)]
    parts = [stream.push(found[start:end]) for start, end in pairwise(edges)]
    frames = whole.push(found)
    assert np.array_equal(np.concatenate(parts), frames)
    assert stream.count == whole.count == len(frames)
    complete = len(found) // 7 if by == "number" else (int(found.t[-1] - found.t[0]) // 7 if len(found) else 0)
    assert len(frames) == complete


def test_a_recording_shorter_than_one_bin_is_refused():
    found = recording([(0, 0, 0, 1), (900, 0, 0, 1)])
    with pytest.raises(ValueError, match=r"lasts 0.9 ms, less than one bin of 50 ms"):
        bin_events(found, Binning())
    with pytest.raises(ValueError, match=r"has 2 events, less than one bin of 5"):
        bin_events(found, Binning(by="number", size=5))
    with pytest.raises(ValueError, match="there are no events"):
        bin_events(found[:0], Binning())


def test_an_event_outside_of_the_camera_is_refused_and_changes_nothing():
    stream = BinStream(Binning(4, 8, 1, size=10))
    stream.push(recording([(0, 7, 3, 1)]))
    with pytest.raises(ValueError, match=r"event 1 is at x = 7, y = 4, outside of 8 by 4 pixels"):
        stream.push(recording([(15, 0, 0, 1), (16, 7, 4, 1)]))
    assert stream.push(recording([(10, 0, 0, 0)])).sum() == 1


def test_a_stream_that_goes_back_in_time_is_refused():
    stream = BinStream(Binning(4, 4, 1, size=10))
    stream.push(recording([(100, 0, 0, 1)]))
    with pytest.raises(ValueError, match="an event at 99 us comes after one at 100 us"):
        stream.push(recording([(99, 0, 0, 1)]))


def test_a_minute_without_an_event_is_refused_where_bins_are_of_time():
    found = recording([(0, 0, 0, 1), (7, 1, 0, 1), (7 + LONGEST_GAP, 0, 0, 1)])
    for refused in (lambda: bin_events(found, Binning()), lambda: BinStream(Binning()).push(found)):
        with pytest.raises(ValueError, match="there is no event for 60 s after 7 us"):
            refused()
    stream = BinStream(Binning())
    stream.push(found[:2])
    with pytest.raises(ValueError, match="there is no event for 60 s after 7 us"):
        stream.push(found[2:])
    assert len(bin_events(found, Binning(by="number", size=3))) == 1
    almost = recording([(0, 0, 0, 1), (LONGEST_GAP - 1, 1, 0, 1)])
    assert len(bin_events(almost, Binning())) == 1199


def test_a_long_recording_takes_little_more_memory_than_its_frames():
    times = np.arange(0, 2_000_000_000, 40_000_000)
    found = recording([(int(t), 5, 5, 1) for t in times])
    tracemalloc.start()
    frames = bin_events(found, Binning())
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(frames) == 39_200 and frames.sum() == 49
    assert most < frames.nbytes + 2**24


def test_a_stream_may_go_on_for_longer_than_one_push_may():
    stream, span = BinStream(Binning(2, 2, 2, size=1000)), 50_000_000
    for part in range(4):
        assert len(stream.push(recording([(part * span, 0, 0, 1), ((part + 1) * span - 1000, 0, 0, 1)]))) == 49_999 + (
            part > 0
        )
    assert stream.count == 199_999


@given(rows=streams, cells=st.integers(1, 200))
@settings(max_examples=50, deadline=None)
def test_frames_are_the_same_however_many_are_counted_at_once(rows, cells):
    found, binning = recording(sorted(rows)), Binning(4, 4, 2, "time", 7)
    whole = BinStream(binning).push(found)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(events, "COUNTS_AT_ONCE", cells)
        assert np.array_equal(BinStream(binning).push(found), whole)


def test_events_put_together_by_hand_are_binned_only_in_order_and_inside_of_the_camera():
    t, zeros, p = np.array([1, 3, 2]), np.zeros(3, np.int16), np.ones(3, bool)
    with pytest.raises(ValueError, match="not in the order of time: 2 us comes after 3 us"):
        bin_events(Events(t, zeros, zeros, p), Binning(size=1))
    with pytest.raises(ValueError, match="event 0 is at x = -1, y = 0, outside"):
        bin_events(Events(np.sort(t), zeros - 1, zeros, p), Binning(size=1))


def test_times_that_span_ages_are_refused():
    with pytest.raises(ValueError, match=r"more than 100000 bins; are their times damaged"):
        bin_events(recording([(0, 0, 0, 1), (2**50, 0, 0, 1)]), Binning())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pool": 3}, "pool must divide 128 and 128; got 3"),
        ({"size": 0}, "size must be a whole number of at least 1; got 0"),
        ({"by": "count"}, 'by must be "time" or "number"'),
    ],
)
def test_impossible_bins_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Binning(**options)


def test_some_events_are_taken_by_time():
    found = recording([(1, 1, 0, 0), (5, 2, 0, 0), (5, 3, 0, 0), (9, 4, 0, 0)])
    assert found.between(5, 9).x.tolist() == [2, 3]
    assert columns(events.join([found[:1], found[1:]])) == columns(found)


def test_zoo_events_holds_the_public_names_of_the_modules_that_define_them():
    assert {"Events", "read_events", "draw"} <= set(zoo.events.__all__)
    for name in zoo.events.__all__:
        assert getattr(zoo.events, name) is getattr(event_pictures if name == "draw" else events, name)

"""Audio: every format gives the same samples, every cut of a recording the same features, bad input one clear error."""

import os
import sys
import tracemalloc

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from zoo.inputs import audio

BANK = audio.FilterBank(bands=8)
NOISE = np.random.default_rng(0).normal(0, 0.1, 24_000).astype(np.float32)
SINE = 0.5 * np.sin(2 * np.pi * 440 * np.arange(32_000) / audio.RATE)
MEAN, DEVIATION = np.full(8, 14.0), np.full(8, 4.0)


def features(samples, cuts=(), rate=audio.RATE):
    stream, resampler = audio.FeatureStream(BANK, MEAN, DEVIATION), audio.Resampler(rate)
    steps = []
    for piece in np.split(samples, cuts):
        with resampler.push(piece) as resampled:
            steps.append(stream.push(resampled))
    return np.concatenate([*steps, stream.push(resampler.tail())])


@pytest.mark.parametrize(
    ("name", "options", "far"),
    [
        ("a.wav", {}, 1e-4),
        ("a.wav", {"subtype": "FLOAT"}, 1e-6),
        ("a.flac", {}, 1e-4),
        ("a.mp3", {}, 0.05),
        ("a.opus", {"format": "OGG", "subtype": "OPUS"}, 0.05),
        ("SA1.WAV", {"format": "NIST", "subtype": "PCM_16"}, 1e-4),
    ],
)
@pytest.mark.parametrize("channels", [1, 2])
def test_a_file_of_any_format_gives_its_samples_as_one_channel(tmp_path, name, options, far, channels):
    both = np.stack([SINE + 0.1, SINE - 0.1], axis=1) if channels == 2 else SINE
    soundfile.write(tmp_path / name, both, audio.RATE, **options)
    found = audio.read_audio(tmp_path / name)
    assert found.dtype == np.float32 and abs(len(found) - len(SINE)) <= 2400  # MP3 adds some samples at its ends
    middle = slice(8_000, 24_000)
    assert np.abs(found[middle] - SINE[middle]).max() < far


@pytest.mark.parametrize("rate", [8_000, 11_025, 22_050, 44_100, 48_000])
def test_any_rate_becomes_16_000_samples_per_second(tmp_path, rate):
    soundfile.write(tmp_path / "a.wav", 0.5 * np.sin(2 * np.pi * 440 * np.arange(2 * rate) / rate), rate)
    found = audio.read_audio(tmp_path / "a.wav")
    assert abs(len(found) - len(SINE)) <= 2
    assert np.abs(found[4000:28_000] - SINE[4000:28_000]).max() < 1e-3


@pytest.mark.parametrize("rate", [1_000, 8_000, 11_025, 16_001, 22_050, 44_100, 96_000, 767_999])
@pytest.mark.parametrize("seconds", [0.06, 2.3])
def test_a_stream_of_any_rate_has_every_sample_to_the_end(rate, seconds):
    samples = 0.5 * np.sin(2 * np.pi * 110 * np.arange(round(seconds * rate)) / rate).astype(np.float32)
    found, whole = audio.streamed(samples, rate), audio.read_audio(samples, rate)
    assert len(found) == len(whole) and np.abs(found - whole).max() < 1e-4


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("a.wav", {}),
        ("b.wav", {"format": "WAVEX"}),
        ("a.flac", {}),
        ("a.mp3", {}),
        ("a.ogg", {"subtype": "OPUS"}),
        ("a.sph", {"format": "NIST"}),
        ("a.aiff", {}),
        ("a.au", {}),
        ("a.w64", {}),
        ("a.rf64", {}),
    ],
)
@pytest.mark.parametrize("share", [0.3, 0.9])
def test_a_file_that_is_cut_off_is_one_error_that_names_it(tmp_path, name, kind, share):
    soundfile.write(tmp_path / name, np.tile(NOISE, 6), audio.RATE, **kind)
    whole = (tmp_path / name).read_bytes()
    audio.read_audio(tmp_path / name)
    (tmp_path / name).write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(ValueError, match=rf"{name} is (cut off|damaged)"):
        audio.read_audio(tmp_path / name)


@pytest.mark.parametrize("kind", ["VOC", "PAF", "MAT5", "IRCAM"])
def test_a_format_that_cannot_tell_whether_a_file_is_cut_off_is_refused(tmp_path, kind):
    soundfile.write(tmp_path / "a.sound", NOISE, audio.RATE, format=kind, subtype="PCM_16")
    with pytest.raises(ValueError, match=rf"a\.sound is of the format {kind}; those taken are WAV, "):
        audio.read_audio(tmp_path / "a.sound")


@pytest.mark.parametrize("size", [0, 0xFFFFFFFF, 0x7FFFF000])
@pytest.mark.parametrize("kind", ["WAV", "WAVEX"])
def test_a_wav_out_of_a_pipe_which_does_not_know_its_size_is_read(tmp_path, size, kind):
    for samples in (NOISE, np.zeros(16_000), np.tile(NOISE, (2, 1)).T):
        soundfile.write(tmp_path / "a.wav", samples, audio.RATE, format=kind)
        whole, content = audio.read_audio(tmp_path / "a.wav"), (tmp_path / "a.wav").read_bytes()
        place = content.index(b"data") + 4
        (tmp_path / "a.wav").write_bytes(content[:place] + size.to_bytes(4, "little") + content[place + 4 :])
        assert np.array_equal(audio.read_audio(tmp_path / "a.wav"), whole)


def test_a_wav_without_samples_is_empty(tmp_path):
    soundfile.write(tmp_path / "a.wav", NOISE[:0], audio.RATE)
    assert not len(audio.read_audio(tmp_path / "a.wav"))
    with (tmp_path / "a.wav").open("ab") as file:
        file.write(b"LIST\x04\0\0\0INFO")
    assert not len(audio.read_audio(tmp_path / "a.wav"))


@pytest.mark.skipif(sys.platform != "linux", reason="names are any bytes on Linux alone")
def test_a_file_whose_name_is_not_utf8_is_read(tmp_path):
    name = os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.wav")
    soundfile.write(tmp_path / "a.wav", NOISE, audio.RATE)
    os.rename(tmp_path / "a.wav", name)
    assert len(audio.read_audio(name)) == len(NOISE)


def test_a_faster_speed_makes_a_shorter_recording_of_a_higher_pitch():
    found = audio.read_audio(SINE.astype(np.float32), audio.RATE, speed=1.1)
    crossings = np.sum((found[:-1] < 0) & (found[1:] >= 0)) / len(found) * audio.RATE
    assert abs(len(found) - len(SINE) / 1.1) < 2 and abs(crossings - 440 * 1.1) < 2


@pytest.mark.parametrize("kind", ["int16", "int32", "float64"])
def test_an_array_of_any_type_gives_the_same_samples(kind):
    exact = np.round(NOISE.astype(np.float64) * 2**15) / 2**15
    given = exact if kind == "float64" else (exact * audio.FULL_SCALE[kind]).astype(kind)
    assert np.array_equal(audio.mono(given), exact.astype(np.float32))


@settings(max_examples=20, deadline=None)
@given(st.lists(st.integers(0, len(NOISE)), max_size=12), st.sampled_from([16_000, 8_000, 44_100]))
def test_samples_in_pieces_give_the_steps_of_the_whole_bit_for_bit(cuts, rate):
    whole = features(NOISE, rate=rate)
    assert np.array_equal(features(NOISE, sorted(cuts), rate), whole) and len(whole) > 10


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 40), st.integers(1, 5), st.data())
def test_steps_are_windows_of_frames_that_begin_stride_frames_apart(count, stack, data):
    bank = audio.FilterBank(bands=4, stack=stack, stride=data.draw(st.integers(1, stack)))
    frames = np.arange(4 * count, dtype=np.float32).reshape(count, 4)
    starts = range(0, count - stack + 1, bank.stride)
    expected = [frames[start : start + stack].ravel() for start in starts]
    assert np.array_equal(audio.stacked(frames, bank), np.array(expected, np.float32).reshape(-1, 4 * stack))
    cut = data.draw(st.integers(0, len(NOISE)))
    streams = [audio.FeatureStream(bank, np.full(4, 14.0), np.full(4, 2.0)) for _ in range(2)]
    pieces = np.concatenate([streams[0].push(NOISE[:cut]), streams[0].push(NOISE[cut:])])
    assert np.array_equal(pieces, streams[1].push(NOISE))


def test_a_step_is_made_of_frames_about_their_running_mean_and_depends_on_nothing_later():
    energies = BANK.frames(NOISE)
    mean, expected = MEAN.copy(), []
    for t, frame in enumerate(energies, 1):
        mean += (frame - mean) / min(t + audio.START, audio.WINDOW)
        expected.append((frame - mean) / DEVIATION)
    steps = len(energies) // BANK.stack
    expected = np.array(expected, np.float32)[: steps * BANK.stack].reshape(steps, -1)
    assert np.allclose(features(NOISE), expected, atol=1e-6)
    louder = NOISE.copy()
    louder[12_000:] *= 8
    before = (12_000 - audio.WINDOW_SAMPLES) // audio.SHIFT_SAMPLES // BANK.stack
    assert np.array_equal(features(louder)[:before], features(NOISE)[:before])
    assert not np.array_equal(features(louder), features(NOISE))


def test_silence_and_clipping_have_finite_features():
    for samples in (np.zeros(16_000, np.float32), np.sign(NOISE)):
        assert np.isfinite(features(samples)).all()
    assert np.all(BANK.frames(np.zeros(800, np.float32)) == audio.FLOOR)


def test_a_long_file_is_read_in_blocks_and_never_as_a_whole(tmp_path):
    path = tmp_path / "long.wav"
    with soundfile.SoundFile(path, "w", audio.RATE, 1) as file:
        for _ in range(20):
            file.write(np.zeros(30 * audio.RATE, np.int16))
    tracemalloc.start()
    rate, blocks = audio.blocks(path)
    total = sum(len(block) for block in blocks)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert total == 600 * rate and peak < 5 * audio.BLOCK_SECONDS * rate * 4


def write(name, content):
    def make(folder):
        (folder / name).write_bytes(content)
        return folder / name

    return make


def write_nan(folder):
    soundfile.write(folder / "nan.wav", np.array([0.1, 0.2, np.nan, 0.3]), audio.RATE, subtype="FLOAT")
    return folder / "nan.wav"


def write_cut(folder):
    soundfile.write(folder / "cut.flac", NOISE, audio.RATE)
    content = (folder / "cut.flac").read_bytes()
    (folder / "cut.flac").write_bytes(content[:300])
    return folder / "cut.flac"


@pytest.mark.parametrize(
    ("make", "rate", "error", "says"),
    [
        (write("text.wav", b"I am a text.\n" * 9), None, ValueError, r"text.wav is no audio file that can be read: "),
        (write("empty.wav", b""), None, ValueError, r"empty.wav is empty"),
        (lambda folder: folder, None, ValueError, r"is no audio file: it is a directory"),
        (lambda folder: folder / "none.wav", None, FileNotFoundError, r"there is no audio file .*none.wav"),
        (write_nan, None, ValueError, r"nan.wav: sample 2 is \[nan\]|nan.wav: sample 2 is nan"),
        (write("text.wav", b"x"), 8000, ValueError, r"says its own sample rate; rate= is for arrays"),
        (lambda folder: NOISE, None, ValueError, r"an array does not know its sample rate: give it, as in rate=16000"),
        (lambda folder: NOISE, 0, ValueError, r"rate must be a whole number from 1000 to 768000; got 0"),
        (lambda folder: NOISE, "16k", ValueError, r"rate must be a whole number"),
        (lambda folder: NOISE * 3e4, 16_000, ValueError, r"lie in -1 to 1, and these reach 1\d+.*; 16-bit samples"),
        (lambda folder: np.array([[0.0, np.inf]]), 16_000, ValueError, r"sample 0 is \[0.0, inf\], which is no number"),
        (lambda folder: NOISE.reshape(2, -1), 16_000, ValueError, r"shape \[N\], or \[N, channels\].*got \[2, 12000\]"),
        (lambda folder: NOISE > 0, 16_000, TypeError, r"samples are int16, int32, float32 or float64; got bool"),
        (lambda folder: ["a"], 16_000, TypeError, r"samples are int16, int32, float32 or float64; got "),
    ],
)
def test_bad_audio_is_one_clear_error(tmp_path, make, rate, error, says):
    with pytest.raises(error, match=says):
        audio.read_audio(make(tmp_path), rate)


def test_a_file_that_is_cut_off_gives_what_is_there_or_an_error_that_names_it(tmp_path):
    try:
        found = audio.read_audio(write_cut(tmp_path))
    except ValueError as error:
        assert "cut.flac" in str(error)
    else:
        assert len(found) < len(NOISE)


@pytest.mark.parametrize("package", ["soundfile", "soxr", "kaldi_native_fbank"])
def test_a_missing_library_is_named_with_the_command_that_installs_it(package, tmp_path, monkeypatch):
    soundfile.write(tmp_path / "a.wav", NOISE, 8_000)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ImportError, match=rf'audio needs {package}; install it with: pip install "snn-zoo\[speech\]"'):
        BANK.frames(audio.read_audio(tmp_path / "a.wav"))


def test_a_resampler_that_was_interrupted_takes_no_more():
    resampler = audio.Resampler(8_000)
    with pytest.raises(KeyboardInterrupt), resampler.push(NOISE):
        raise KeyboardInterrupt
    with pytest.raises(ValueError, match="interrupted while it was resampled; begin a new one"), resampler.push(NOISE):
        pass
    resampler._taken = 1
    with pytest.raises(ValueError, match="interrupted while it was resampled; begin a new one"):
        resampler.tail()


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"bands": 2}, "bands must be a whole number from 4 to 128; got 2"),
        ({"stack": 0}, "stack must be a whole number from 1 to 16; got 0"),
        ({"stride": 4}, "stride must be a whole number from 1 to 3; got 4"),
        ({"highest": 9000.0}, "highest must be a finite number from 0 to 8000; got 9000"),
        ({"lowest": 5000.0}, r"highest must be at least 1000 Hz above lowest \(5000\); got 5600"),
    ],
)
def test_an_impossible_filterbank_is_refused(options, says):
    with pytest.raises(ValueError, match=says):
        audio.FilterBank(**options)

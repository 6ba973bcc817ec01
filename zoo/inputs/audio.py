"""Audio as tensors: files and arrays as samples of 16,000 Hz, and log-mel features that stream.

**Samples.** :func:`blocks` reads an array or a file (WAV, FLAC, MP3, Ogg Opus and Vorbis, NIST SPHERE: all that
libsndfile knows), piece by piece, so that an hour of audio needs no more memory than a minute. Channels are averaged,
and any other sample rate is resampled (:class:`Resampler`).

**Features** (:class:`FeatureStream`). Every 10 ms, the logarithm of the energy in the bands of a mel filterbank, as
Kaldi defines it (``kaldi-native-fbank``: windows of 25 ms, samples as 16-bit numbers, no dither)::

    e[t] = max(log energy, FLOOR)
    m[t] = m[t-1] + (e[t] - m[t-1]) / min(t + START, WINDOW)         m before the first frame: the usual mean
    x[t] = (e[t] - m[t]) / the usual deviation

so that a frame depends on nothing that comes after it. ``stack`` frames side by side are one step of a network. Samples
that are pushed in pieces give the same steps, bit for bit, as all at once.
"""

import contextlib
import importlib
import io
import math
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numba import njit

from zoo.inputs.data_files import plain_file
from zoo.options import number, whole_number

RATE = 16_000
"""Samples per second of everything behind :func:`blocks`."""
WINDOW_SAMPLES, SHIFT_SAMPLES = 400, 160
"""A frame is made of 25 ms, and there is one every 10 ms."""
LOWEST_RATE, HIGHEST_RATE = 1_000, 768_000
MOST_CHANNELS = 64
LOUDEST = 16.0
"""Floating-point samples lie in -1 to 1; a few, out of a mixer or a filter, may lie outside. Beyond this size they are
in another unit."""
FLOOR = 5.0
"""The least log energy, near that of the last bit of 16-bit samples: digital silence has no logarithm."""
START, WINDOW = 100, 1000
"""The running mean: the usual mean counts as START frames, and frames before the last WINDOW are forgotten."""
BLOCK_SECONDS = 10
FORMATS = ("WAV", "WAVEX", "W64", "RF64", "FLAC", "MP3", "OGG", "NIST", "AIFF", "AU", "CAF")
"""The formats, by libsndfile's names, of which one can tell whether a file is cut off."""
OF_64_BITS = ("W64", "RF64")
UNKNOWN_BYTES = 2**31 - 2**24
"""A file that was written into a pipe says that it has about 2^31 or 2^32 bytes, as nobody knew how many; with sizes of
64 bits it says that it has about 2^64."""
HEADER_BYTES = 4096
"""The header of a WAV or SPHERE file lies in its first bytes, if programs wrote it that work on pipes."""
OGG_PAGE = 65_307
"""The most bytes of a page of an Ogg file; the last one is marked as the end of the stream."""
FULL_SCALE = {"int16": 2.0**15, "int32": 2.0**31, "float32": 1.0, "float64": 1.0}
"""The types of samples, each with the value of full scale."""


def need(*packages: str) -> list[Any]:
    """The modules of these packages of the extra ``speech``; ImportError with the install command for a missing one."""
    found = []
    for package in packages:
        try:
            found.append(importlib.import_module(package))
        except ImportError as error:
            raise ImportError(f'audio needs {package}; install it with: pip install "snn-zoo[speech]"') from error
    return found


# ---- Samples ----


@contextlib.contextmanager
def naming(source: Any) -> Iterator[None]:
    """Puts the name of the file ``source``, if it is one, before the message of a ValueError."""
    try:
        yield
    except ValueError as error:
        if isinstance(source, str | os.PathLike) and not str(error).startswith(str(source)):
            raise ValueError(f"{source}: {error}") from None
        raise


def is_file(source: Any) -> bool:
    return isinstance(source, str | os.PathLike)


def check_rate(rate: Any) -> int:
    """A sample rate, in samples per second; ValueError for what is none."""
    if rate is None:
        raise ValueError(f"an array does not know its sample rate: give it, as in rate={RATE}")
    return whole_number("rate", rate, LOWEST_RATE, HIGHEST_RATE)


def mono(samples: Any) -> np.ndarray:
    """Samples ``[N]`` or ``[N, channels]`` as float32 ``[N]``, the mean of the channels, full scale 1.

    Integers of 16 or 32 bits and floating-point numbers are taken. Raises TypeError for anything else; ValueError for
    another shape, for NaN and infinity, with their place, and for floating-point samples far outside of -1 to 1.
    """
    array = np.asarray(samples)
    full_scale = FULL_SCALE.get(array.dtype.name)
    if full_scale is None:
        raise TypeError(f"samples are int16, int32, float32 or float64; got {array.dtype}")
    if array.ndim not in (1, 2) or (array.ndim == 2 and not 1 <= array.shape[1] <= MOST_CHANNELS):
        raise ValueError(
            f"samples have the shape [N], or [N, channels] with up to {MOST_CHANNELS} channels; got {list(array.shape)}"
        )
    if array.dtype.kind == "f" and array.size:
        peak = float(np.abs(array).max())
        if not math.isfinite(peak):
            place = int(np.flatnonzero(~np.isfinite(array).reshape(len(array), -1).all(axis=1))[0])
            raise ValueError(f"sample {place} is {array.reshape(len(array), -1)[place].tolist()}, which is no number")
        if peak > LOUDEST:
            raise ValueError(
                f"floating-point samples lie in -1 to 1, and these reach {peak:g}; 16-bit samples are taken as int16"
            )
    if array.ndim == 2:
        array = array.mean(axis=1, dtype=np.float32)
    return (array / full_scale).astype(np.float32) if full_scale != 1 else array.astype(np.float32)


def read_file(path: str | os.PathLike) -> tuple[int, Iterator[np.ndarray]]:
    """The sample rate of an audio file, and its samples in blocks, each of one channel.

    Raises FileNotFoundError, ImportError, and ValueError, which names the file, for what is no audio or is damaged.
    """
    (soundfile,) = need("soundfile")
    path = plain_file(path, "audio file")
    try:
        file = soundfile.SoundFile(os.fsencode(path) if os.name == "posix" else path)  # any name, UTF-8 or not
        if file.format in ("WAV", "WAVEX") and not file.frames and (place := _unknown_size(path)):
            file.close()
            file = soundfile.SoundFile(_UnknownSize(path, place))
    except soundfile.SoundFileError as error:
        raise ValueError(f"{path} is no audio file that can be read: {error.error_string}") from None
    if file.format not in FORMATS:
        file.close()
        raise ValueError(f"{path} is of the format {file.format}; those taken are {', '.join(FORMATS)}")
    if not LOWEST_RATE <= file.samplerate <= HIGHEST_RATE:
        file.close()
        raise ValueError(f"{path} has {file.samplerate} samples per second; {LOWEST_RATE} to {HIGHEST_RATE} are taken")
    if file.format == "OGG" and not _is_ended(path):
        file.close()
        raise ValueError(f"{path} is cut off: its last page is not marked as the end of the recording")
    return file.samplerate, _blocks_of(path, file, soundfile)


def _start(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(HEADER_BYTES)


def _unknown_size(wav: Path) -> int:
    """The place of the size in a WAV's header, if it says 0 and samples follow; 0 if not."""
    start = _start(wav)
    rest = start.partition(b"data" + bytes(4))[2]
    is_empty = not rest or rest[:4] in (b"LIST", b"fact", b"id3 ", b"cue ", b"bext")  # another chunk, and no samples
    return 0 if is_empty else len(start) - len(rest) - 4


class _UnknownSize(io.FileIO):
    """A WAV file whose size of the samples, the 4 bytes at ``place``, reads as 2^32 - 1: as unknown."""

    def __init__(self, path: Path, place: int):
        super().__init__(path)
        self._place = place

    def readinto(self, buffer: Any) -> int:
        begin = self.tell()
        count = super().readinto(buffer) or 0
        for i in range(max(begin, self._place), min(begin + count, self._place + 4)):
            buffer[i - begin : i - begin + 1] = b"\xff"
        return count

    def __del__(self) -> None:
        self.close()  # libsndfile leaves it open


def _is_ended(ogg: Path) -> bool:
    """Whether the last page of an Ogg file is whole, and marked as the last (RFC 3533, section 6)."""
    with ogg.open("rb") as file:
        file.seek(max(0, ogg.stat().st_size - 2 * OGG_PAGE))
        _, page, rest = file.read().rpartition(b"OggS")
    if not page or len(rest) < 23:
        return False
    last, lengths = rest[1] & 4, rest[23 : 23 + rest[22]]
    return bool(last) and len(rest) >= 23 + rest[22] + sum(lengths)


def _promised(path: Path, file: Any) -> int:
    """The number of samples that an audio file's header says it holds."""
    if file.format == "NIST":
        held = re.search(rb"^sample_count -i (\d+)", _start(path), re.MULTILINE)
        return int(held[1]) if held else file.frames
    if file.format in OF_64_BITS:
        size_of, unknown = "riff|Riff size", 2**62
    else:
        size_of, unknown = "data|SSND|Data Size", UNKNOWN_BYTES
    found = re.search(rf"^ *(?:{size_of}) *: (\d+) \(should be (\d+)\)", file.extra_info, re.MULTILINE)
    if not found or int(found[1]) >= unknown:
        return file.frames
    size, there = map(int, found.groups())
    return file.frames * max(size, there) // max(1, there)


def _blocks_of(path: Path, file: Any, soundfile: Any) -> Iterator[np.ndarray]:
    with file:
        count, expected = 0, _promised(path, file)
        while True:
            try:
                block = file.read(BLOCK_SECONDS * file.samplerate, dtype="float32", always_2d=True)
            except soundfile.SoundFileError as error:
                raise ValueError(f"{path} is damaged: {error}") from None
            if not len(block):
                if count < expected:
                    there, whole = (frames / file.samplerate for frames in (count, expected))
                    raise ValueError(f"{path} is cut off: it holds {there:.3g} of {whole:.3g} seconds")
                return
            count += len(block)
            with naming(path):
                yield mono(block)


def blocks(source: Any, rate: int | None = None) -> tuple[int, Iterator[np.ndarray]]:
    """The sample rate of ``source`` and its samples, mono float32, in blocks of some seconds.

    ``source`` is the path of a file, or an array as :func:`mono` takes it, whose sample rate must be given.
    """
    if is_file(source):
        if rate is not None:
            raise ValueError(f"{source} says its own sample rate; rate= is for arrays")
        return read_file(source)
    rate = check_rate(rate)
    samples, size = mono(source), BLOCK_SECONDS * rate
    return rate, (samples[i : i + size] for i in range(0, len(samples), size))


class Resampler:
    """Samples of any rate, piece by piece, to :data:`RATE`. The latest are on their way, until more input comes.

    :meth:`tail` has them, as they are if nothing more comes. The resampler cannot go back: if a push is interrupted,
    nobody knows what it took. From then on every push is an error. It cannot be copied or pickled either.
    """

    def __init__(self, rate: int):
        self.rate = rate
        self._stream: Any = None
        if rate != RATE:
            (soxr,) = need("soxr")
            self._stream = soxr.ResampleStream(rate, RATE, 1, dtype="float32")
        self._taken = self._given = 0
        self._latest = np.empty(0, np.float32)
        """The end of the input, from a sample that lies at the time of a sample of the output."""

    @contextlib.contextmanager
    def push(self, samples: np.ndarray) -> Iterator[np.ndarray]:
        """The samples that ``samples`` complete; what is done with them may still fail."""
        if self._stream is None:
            yield samples
            return
        if self.rate < 0:
            raise ValueError("an earlier piece of this stream was interrupted while it was resampled; begin a new one")
        rate, self.rate = self.rate, -1
        found = self._stream.resample_chunk(samples)
        yield found
        self._keep(samples, len(found), rate)
        self.rate = rate

    def _keep(self, samples: np.ndarray, given: int, rate: int) -> None:
        first = self._taken - len(self._latest)
        self._taken, self._given = self._taken + len(samples), self._given + given
        apart = rate // math.gcd(rate, RATE)  # samples of the input lie so far apart that lie at one of the output
        given_to = min(self._taken, self._given * rate // RATE)
        begin = max(0, given_to - rate // 2) // apart * apart  # half a second is more than the filter's length
        self._latest = np.concatenate([self._latest, samples])[begin - first :]

    def tail(self) -> np.ndarray:
        """The samples that are on their way; more may be pushed after it, and the tail is another then."""
        if self._stream is None or not self._taken:
            return np.empty(0, np.float32)
        if self.rate < 0:
            raise ValueError("a piece of this stream was interrupted while it was resampled; begin a new one")
        (soxr,) = need("soxr")
        first = (self._taken - len(self._latest)) * RATE // self.rate
        return soxr.resample(self._latest, self.rate, RATE)[self._given - first :]

    def __getstate__(self) -> dict[str, Any]:
        if self._stream is not None:
            raise TypeError(f"a stream of {abs(self.rate)} samples per second is resampled, and cannot be copied")
        return vars(self).copy()


def streamed(source: Any, rate: int | None = None) -> np.ndarray:
    """All samples of ``source`` at :data:`RATE`, to its end, bit for bit as a stream of it has them."""
    found, parts = blocks(source, rate)
    resampler, samples = Resampler(found), [np.empty(0, np.float32)]
    for part in parts:
        with resampler.push(part) as resampled:
            samples.append(resampled)
    return np.concatenate([*samples, resampler.tail()])


def read_audio(source: Any, rate: int | None = None, speed: float = 1.0) -> np.ndarray:
    """All samples of ``source`` at :data:`RATE`, to its end; played ``speed`` times as fast, at a higher pitch."""
    found, parts = blocks(source, rate)
    samples = np.concatenate([np.empty(0, np.float32), *parts])
    played = round(found * speed)
    if played == RATE:
        return samples
    (soxr,) = need("soxr")
    return soxr.resample(samples, played, RATE)


# ---- Features ----


@dataclass(frozen=True)
class FilterBank:
    """Mel filters of equal width on the mel scale: ``bands`` of them from ``lowest`` to ``highest`` (Hz).

    ``stack`` frames of 10 ms are one step, and a step begins ``stride`` frames after the one before.
    """

    bands: int = 40
    lowest: float = 20.0
    highest: float = 5600.0
    stack: int = 3
    stride: int = 3

    def __post_init__(self) -> None:
        whole_number("bands", self.bands, 4, 128)
        whole_number("stack", self.stack, 1, 16)
        whole_number("stride", self.stride, 1, self.stack)
        number("lowest", self.lowest, 0, RATE / 2)
        number("highest", self.highest, 0, RATE / 2)
        if self.highest < self.lowest + 1000:
            raise ValueError(f"highest must be at least 1000 Hz above lowest ({self.lowest:g}); got {self.highest:g}")

    @property
    def size(self) -> int:
        """Values of a step."""
        return self.bands * self.stack

    @property
    def step_seconds(self) -> float:
        return self.stride * SHIFT_SAMPLES / RATE

    @property
    def shortest(self) -> int:
        """The fewest samples that make a step."""
        return WINDOW_SAMPLES + (self.stack - 1) * SHIFT_SAMPLES

    def frames(self, samples: np.ndarray) -> np.ndarray:
        """Log energies ``[frames, bands]`` of samples at :data:`RATE`; the first frame begins at the first sample."""
        (fbank,) = need("kaldi_native_fbank")
        options = fbank.FbankOptions()
        options.frame_opts.samp_freq = RATE
        options.frame_opts.dither = 0.0
        options.frame_opts.snip_edges = True
        options.mel_opts.num_bins = self.bands
        options.mel_opts.low_freq, options.mel_opts.high_freq = self.lowest, self.highest
        computed = fbank.OnlineFbank(options)
        computed.accept_waveform(RATE, samples * np.float32(2**15))
        count = max(0, (len(samples) - WINDOW_SAMPLES) // SHIFT_SAMPLES + 1)
        frames = np.empty((count, self.bands), np.float32)
        for i in range(count):
            frames[i] = computed.get_frame(i)
        return np.maximum(frames, np.float32(FLOOR), out=frames)


@njit(cache=True, nogil=True)
def _normalise(frames, mean, deviation, count):
    """``frames [N, bands]`` about their running mean; ``mean`` is moved on, the new count of frames is returned."""
    found = np.empty_like(frames)
    for t in range(len(frames)):
        count += 1
        for band in range(frames.shape[1]):
            mean[band] += (frames[t, band] - mean[band]) / min(count + START, WINDOW)
            found[t, band] = (frames[t, band] - mean[band]) / deviation[band]
    return found, count


def normalise(frames: np.ndarray, mean: np.ndarray, deviation: np.ndarray) -> np.ndarray:
    """All ``frames`` of a recording about their running mean, which begins at the usual ``mean``."""
    return _normalise(frames.astype(np.float32), mean.astype(np.float64), deviation.astype(np.float64), 0)[0]


def stacked(frames: np.ndarray, bank: FilterBank) -> np.ndarray:
    """``frames [N, bands]`` as steps ``[S, stack * bands]``; what is left over at the end is not used."""
    if len(frames) < bank.stack:
        return np.empty((0, bank.size), frames.dtype)
    windows = np.lib.stride_tricks.sliding_window_view(frames, bank.stack, axis=0)[:: bank.stride]
    return np.array(windows.transpose(0, 2, 1)).reshape(len(windows), bank.size)  # a window is not to be written to


class FeatureStream:
    """The steps of one recording that comes in piece by piece, about its running mean."""

    def __init__(self, bank: FilterBank, mean: np.ndarray, deviation: np.ndarray):
        self.bank, self.deviation = bank, deviation.astype(np.float64)
        self.samples = 0
        """How many there were so far."""
        self._mean, self._count = mean.astype(np.float64), 0
        self._rest = np.empty(0, np.float32)
        self._frames = np.empty((0, bank.bands), np.float32)

    def push(self, samples: np.ndarray) -> np.ndarray:
        """The steps ``[steps, size]`` that these samples at :data:`RATE` complete."""
        waiting = np.concatenate([self._rest, samples])
        frames = self.bank.frames(waiting)
        mean = self._mean.copy()
        normal, count = _normalise(frames, mean, self.deviation, self._count)
        normal = np.concatenate([self._frames, normal])
        steps = stacked(normal, self.bank)
        self._rest, self._frames = waiting[len(frames) * SHIFT_SAMPLES :], normal[len(steps) * self.bank.stride :]
        self._mean, self._count = mean, count
        self.samples += len(samples)
        return steps

    def copy(self) -> "FeatureStream":
        """Another stream that goes on from here; no array is ever changed in place."""
        twin = FeatureStream.__new__(FeatureStream)
        twin.__dict__.update(self.__dict__)
        return twin


def too_short(samples: int, bank: FilterBank) -> str:
    """The message that so few samples hold no step."""
    return f"the audio lasts {1000 * samples / RATE:g} ms; the model needs {1000 * bank.shortest / RATE:g} ms or more"

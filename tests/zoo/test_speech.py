"""Speech recognisers: a recording in pieces, in a batch or from a saved model gives the phones of the whole one."""

import copy
import itertools
import json
import os
import pickle
import warnings
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from command_line import assert_told_in_one_line, finish, start
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

import zoo
from recipes.language_model import NgramModel
from zoo import command
from zoo.networks.speech import MIXERS, PHONES, BestPath, Phone, SpeechConfig, SpeechRecogniser
from zoo.networks.words import write_lexicon

NOISE = np.random.default_rng(0).normal(0, 0.1, 24_000).astype(np.float32)
SIZES = {"bands": 8, "width": 12, "layers": 2}


@pytest.fixture(scope="module", params=MIXERS)
def model(request) -> SpeechRecogniser:
    return network(request.param)


def network(mixer: str) -> SpeechRecogniser:
    torch.manual_seed(0)
    made = SpeechRecogniser(SpeechConfig(mixer=mixer, **SIZES)).eval()
    made.set_usual(np.full(8, 14.0), np.full(8, 2.0))
    with torch.no_grad():
        made.output.weight.mul_(20)  # so that it hears phones in noise
    return made


def streamed(model, samples, cuts, rate):
    stream = model.stream(rate)
    for piece in np.split(samples, sorted(cuts)):
        stream.push(piece)
    return stream


@settings(max_examples=5, deadline=None)
@given(st.lists(st.integers(0, len(NOISE)), max_size=6), st.sampled_from([16_000, 44_100]))
def test_a_recording_in_pieces_gives_the_transcript_of_the_whole(model, cuts, rate):
    stream, whole = streamed(model, NOISE, cuts, rate), streamed(model, NOISE, [], rate)
    assert stream.path == whole.path
    assert stream.answer() == model.transcribe(NOISE, rate=rate)


@pytest.mark.parametrize("rate", [8_000, 44_100, 96_000])
def test_the_end_of_a_recording_of_another_rate_is_heard_too(model, rate):
    stream = streamed(model, np.resize(NOISE, rate), [rate // 3], rate)
    assert stream._after(stream.resampler.tail())[3].steps == streamed(model, NOISE[:16_000], [], 16_000).path.steps
    model.transcribe(NOISE[: round(0.046 * rate)], rate=rate)
    with pytest.raises(ValueError, match=r"the audio lasts 40 ms; the model needs 45 ms or more"):
        model.transcribe(NOISE[: round(0.04 * rate)], rate=rate)


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, lambda stream: pickle.loads(pickle.dumps(stream))])
def test_a_stream_is_copied_right_or_not_at_all(model, copied):
    stream = streamed(model, NOISE, [], 16_000)
    other = copied(stream)
    other.push(NOISE)
    assert stream.answer() == model.transcribe(NOISE, rate=16_000)
    stream.push(NOISE[::-1])
    assert other.answer() == model.transcribe(np.concatenate([NOISE, NOISE]), rate=16_000)
    other.log_probabilities.append(torch.zeros(1))
    assert stream.log_probabilities == []
    with pytest.raises(TypeError, match="a stream of 44100 samples per second is resampled, and cannot be copied"):
        copied(streamed(model, NOISE, [], 44_100))


@pytest.mark.parametrize("words", [3, ["a folder"], True])
def test_a_search_for_words_that_is_none_is_an_error(model, words):
    with pytest.raises(TypeError, match="words is a WordSearch, or a folder with a lexicon and a language model; got"):
        model.transcribe(NOISE, rate=16_000, words=words)


def test_a_file_gives_the_transcript_of_its_samples(model, tmp_path):
    samples = np.round(NOISE * 2**15).astype(np.int16)
    soundfile.write(tmp_path / "a.flac", samples, 16_000)
    found = model.transcribe(tmp_path / "a.flac")
    assert found == model.transcribe(samples, rate=16_000)
    assert found.text == " ".join(phone.name for phone in found.phones) and found.phones
    assert all(0 <= p.start < p.end <= 1.5 and 0 < p.confidence <= 1 for p in found.phones)


def test_a_recording_in_a_batch_has_the_logits_that_it_has_alone(model):
    x = torch.randn(40, 5, model.bank.size, generator=torch.Generator().manual_seed(0))
    x[25:, 3] = 0
    with torch.inference_mode():
        together = model(x)
        for row, length in enumerate((40, 40, 40, 25, 40)):
            assert torch.equal(together[:length, row], model(x[:length, row : row + 1])[:, 0])


def test_a_scan_leaves_the_state_that_it_is_given(model):
    x = torch.randn(20, 2, model.bank.size, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        _, state = model.scan(x[:10])
        first, _ = model.scan(x[10:], state)
        again, _ = model.scan(x[10:], state)
        assert torch.equal(first, again) and torch.equal(first, model(x)[10:])


def test_silence_and_clipping_are_transcribed(model):
    for samples in (np.zeros(16_000, np.int16), np.sign(NOISE)):
        found = model.transcribe(samples, rate=16_000)
        assert 0 <= found.confidence <= 1 and isinstance(found.text, str)


def test_what_is_too_short_or_no_number_is_one_clear_error(model, tmp_path):
    with pytest.raises(ValueError, match="the audio lasts 10 ms; the model needs 45 ms or more"):
        model.transcribe(NOISE[:160], rate=16_000)
    soundfile.write(tmp_path / "short.wav", NOISE[:160], 16_000)
    with pytest.raises(ValueError, match=r"short.wav: the audio lasts 10 ms; the model needs 45 ms or more"):
        model.transcribe(tmp_path / "short.wav")
    with pytest.raises(ValueError, match="the audio lasts 0 ms"):
        model.stream().answer()


def test_after_an_error_nothing_of_the_piece_is_taken(model):
    stream = streamed(model, NOISE, [], 16_000)
    before = stream.answer()
    with pytest.raises(ValueError, match="sample 0 is"):
        stream.push(np.array([np.nan]))
    assert stream.answer() == before
    stream.push(NOISE)
    assert stream.answer() == model.transcribe(np.concatenate([NOISE, NOISE]), rate=16_000)


def test_a_saved_model_hears_the_same(model, tmp_path):
    first = zoo.load(zoo.save(model, tmp_path / "first"))
    assert first.config == model.config
    again = zoo.load(zoo.save(first, tmp_path / "again"))
    assert again.transcribe(NOISE, rate=16_000) == first.transcribe(NOISE, rate=16_000)


def test_a_recurrent_gated_network_has_half_the_parameters_of_an_lstm():
    sizes = [sum(p.numel() for p in network(mixer).layers.parameters()) for mixer in ("recurrent-gated-lif", "lstm")]
    assert 0.45 < sizes[0] / sizes[1] < 0.55


@pytest.mark.parametrize("cut", range(9))
def test_the_best_path_joins_repeats_and_leaves_out_blanks_wherever_it_is_cut(cut):
    units = [0, 2, 2, 0, 2, 1, 1, 0]
    probabilities = torch.nn.functional.one_hot(torch.tensor(units), 3).float()
    path = BestPath().longer(probabilities[:cut]).longer(probabilities[cut:])
    assert [run[:3] for run in path.runs()] == [(2, 1, 3), (2, 4, 5), (1, 5, 7)] and path.steps == 8
    times = [("B", 0.03, 0.09), ("B", 0.12, 0.15), ("A", 0.15, 0.21)]
    assert path.transcript(["A", "B"], 0.03) == ("B B A", 1.0, [Phone(*place, 1.0) for place in times], [])


def test_where_nothing_is_heard_the_confidence_is_that_of_the_blank():
    path = BestPath().longer(torch.tensor([[0.7, 0.3], [0.9, 0.1]]))
    assert path.transcript(["A"], 0.03) == ("", 0.8, [], [])


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"mixer": "rnn"}, "mixer must be one of recurrent-gated-lif, .*; got 'rnn'"),
        ({"labels": ["A", "A"]}, "labels must be different phones, at least one"),
        ({"labels": []}, "labels must be different phones, at least one"),
        ({"width": 0}, "width must be a whole number of at least 1; got 0"),
        ({"bands": 0}, "bands must be a whole number from 4 to 128; got 0"),
    ],
)
def test_an_impossible_config_is_refused(options, says):
    with pytest.raises(ValueError, match=says):
        SpeechConfig(**options)


def test_the_command_transcribes_files_and_names_those_that_it_cannot(tmp_path, monkeypatch):
    model = network("recurrent-gated-lif")
    monkeypatch.chdir(tmp_path)
    zoo.save(model, tmp_path / "ears")
    soundfile.write("a.wav", NOISE, 16_000)
    (tmp_path / "b.wav").write_text("no audio")
    expected = zoo.load(tmp_path / "ears").transcribe(tmp_path / "a.wav")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = CliRunner().invoke(command.app, ["transcribe", "./ears", "a.wav", "b.wav"])
        said = CliRunner().invoke(command.app, ["transcribe", "./ears", "--json", "a.wav"]).stdout
    assert result.exit_code == 3 and result.stdout == f"{expected.text}\t{expected.confidence:.4f}\n\n"
    assert "argument 2: b.wav is no audio file that can be read" in result.stderr
    found = json.loads(said)
    assert found["text"] == expected.text and found["phones"][0] == expected.phones[0]._asdict()


@pytest.fixture
def ears(tmp_path, monkeypatch):
    """A saved model, in the current folder, and a search whose words are its phones."""
    zoo.save(network("recurrent-gated-lif"), tmp_path / "ears")
    lexicon = {phone.lower(): [[phone]] for phone in PHONES}
    (tmp_path / "words").mkdir()
    write_lexicon(lexicon, tmp_path / "words" / "lexicon.txt")
    NgramModel([list(lexicon)] * 2, set(lexicon), 2).write(tmp_path / "words" / "words.arpa")
    monkeypatch.chdir(tmp_path)
    return zoo.load(tmp_path / "ears")


def test_the_words_of_a_recording_in_pieces_are_those_of_the_whole(ears):
    whole = ears.transcribe(NOISE, rate=16_000, words="words")
    assert whole.text == " ".join(word.name for word in whole.words) and len(whole.words) > 3
    assert whole.phones == ears.transcribe(NOISE, rate=16_000).phones
    assert all(0 <= word.start < word.end <= 1.5 and 0 < word.confidence <= 1 for word in whole.words)
    assert all(before.end <= after.start for before, after in itertools.pairwise(whole.words))
    stream = ears.stream(words="words")
    for piece in np.split(NOISE, [1000, 7000, 7001]):
        stream.push(piece)
        if stream.path.steps:
            stream.answer()
    assert stream.answer() == whole


def test_the_command_finds_words(ears):
    soundfile.write("a.wav", NOISE, 16_000)
    expected = ears.transcribe("a.wav", words="words")
    result = CliRunner().invoke(command.app, ["transcribe", "./ears", "a.wav", "--words", "words"])
    assert result.stdout == f"{expected.text}\t{expected.confidence:.4f}\n"
    said = CliRunner().invoke(command.app, ["transcribe", "./ears", "a.wav", "--words", "words", "--json"]).stdout
    assert json.loads(said)["words"][0] == expected.words[0]._asdict()
    missing = CliRunner().invoke(command.app, ["transcribe", "./ears", "a.wav", "--words", "elsewhere"])
    assert missing.exit_code == 2 and "elsewhere" in missing.stderr


def test_raw_samples_are_transcribed_while_they_come(ears):
    samples = np.round(NOISE * 2**15).astype("<i2")
    expected = ears.transcribe(samples, rate=16_000)
    process = start("transcribe", Path.cwd() / "ears", "--raw-rate", "16000")
    process.stdin.write(samples[:16_000].tobytes()[:-1])  # ends within a sample
    process.stdin.flush()
    heard = os.read(process.stdout.fileno(), 2**16).decode()
    process.stdin.write(samples.tobytes()[31_999:])
    status, rest, told = finish(process)
    assert (status, told) == (0, "") and heard and f"{heard}{rest.decode()}" == f"{expected.text}\n"
    found = CliRunner().invoke(
        command.app, ["transcribe", "./ears", "--raw-rate", "16000", "--json"], samples.tobytes()
    )
    assert json.loads(found.stdout)["phones"][-1] == expected.phones[-1]._asdict()


@pytest.mark.parametrize(
    ("given", "more", "says"),
    [
        (b"", (), "standard input is empty: there are no samples"),
        (b"\0" * 6401, (), "standard input ends within a sample"),
        (
            b"RIFF" + b"\0" * 6400,
            (),
            "standard input begins with b'RIFF', the header of an audio file, and not with raw",
        ),
        (b"\0" * 320, (), "the audio lasts 10 ms; the model needs 45 ms or more"),
        (b"\0" * 6400, ("a.wav",), "--raw-rate reads standard input"),
        (b"\0" * 6400, ("--output", "said.txt"), "--raw-rate reads standard input"),
    ],
)
def test_raw_samples_that_cannot_be_transcribed_are_one_clear_error(ears, given, more, says):
    status, _, told = finish(start("transcribe", Path.cwd() / "ears", "--raw-rate", "16000", *more), given)
    assert status == 1
    assert_told_in_one_line(told, says)


def test_the_phones_are_those_of_the_dictionary():
    assert len(PHONES) == 39 and sorted(PHONES) == PHONES


def test_in_training_padding_takes_no_part_in_the_statistics(model):
    model = network(model.typed_config.mixer).train()
    model.dropout.probability = 0.0
    x, lengths = torch.randn(40, 3, model.bank.size), torch.tensor([40, 25, 30])
    noisy = x.clone()
    for row, length in enumerate(lengths.tolist()):
        noisy[length:, row] = 5.0
    first, second = model(x, lengths), model(noisy, lengths)
    for row, length in enumerate(lengths.tolist()):
        assert torch.equal(first[:length, row], second[:length, row])

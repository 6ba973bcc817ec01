"""The recipes of speech: folders and dictionary as they come; batches, curriculum, augmentation and scores."""

import json
import os
import warnings
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

import neurons
import zoo
from neurons import monitors
from recipes import librispeech, speech, speech_pictures, training
from recipes.pronunciations import find_dictionary, read_dictionary
from recipes.speech import Batch, Played, Training
from tests.recipes.test_recipes import DICTIONARY, write_noise, write_speech
from zoo.inputs import audio
from zoo.metrics import pictures_of
from zoo.networks.speech import SpeechConfig, SpeechRecogniser
from zoo.networks.words import search_in

CONFIG = SpeechConfig(bands=8, width=12, layers=2)
DATA = Path(os.environ.get("SNN_ZOO_DATA", Path(__file__).parents[2] / ".." / "shared" / "data"))


@pytest.fixture
def data(tmp_path):
    write_speech(tmp_path / "DATA")
    return tmp_path / "DATA"


def read(data, split="train", **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return librispeech.read(data, split, CONFIG, **options)


# ---- The dictionary ----


@pytest.mark.parametrize(
    ("word", "phones"),
    [
        ("ONE", "W AH N"),
        ("one's", "W AH N Z"),
        ("twos", "T UW Z"),
        ("pass's", "P AE S IH Z"),
        ("capped", "K AE P T"),
        ("passes", "P AE S IH Z"),
        ("bating", "B EY T IH NG"),
        ("bated", "B EY T IH D"),
        ("ponies", "P OW N IY Z"),
        ("coolly", "K UW L IY"),
        ("passpony", "P AE S P OW N IY"),
    ],
)
def test_a_word_is_in_the_dictionary_or_follows_from_one_that_is_by_a_rule(tmp_path, word, phones):
    more = "cap K AE1 P\npass P AE1 S\nbate B EY1 T\npony P OW1 N IY0\ncool K UW1 L\nread R EH1 D\nread(2) R IY1 D\n"
    (tmp_path / "cmudict.dict").write_text(DICTIONARY + more)
    dictionary = read_dictionary(find_dictionary(tmp_path / "DATA"))
    assert word in dictionary and " ".join(dictionary.pronunciations(word)[0]) == phones
    assert dictionary.pronunciations("read") == [("R", "EH", "D"), ("R", "IY", "D")]
    assert "four" not in dictionary and "s" not in dictionary


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("one W AH1 N\ntwo T QQ\n", r"line 2 of .*cmudict.dict: 'two T QQ' is no word and its phones"),
        ("one\n", r"line 1 of .*: 'one' is no word and its phones"),
        ("# nothing\n", "cmudict.dict holds no words"),
    ],
)
def test_a_damaged_dictionary_is_an_error_with_its_line(tmp_path, content, says):
    (tmp_path / "cmudict.dict").write_text(content)
    with pytest.raises(ValueError, match=says):
        read_dictionary(tmp_path / "cmudict.dict")


def test_a_missing_dictionary_is_an_error_that_says_where_to_get_it(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"holds cmudict.dict; get it from https://.* by --dictionary"):
        find_dictionary(tmp_path / "DATA")


# ---- Folders ----


def test_utterances_have_the_phones_of_their_words_and_features_at_each_speed(data):
    examples = read(data, speeds=(1.0, 0.9, 1.1))
    assert [(e.name, " ".join(e.phones), e.words) for e in examples[:3]] == [
        ("1-7-0000", "W AH N T UW", "ONE TWO"),
        ("1-7-0001", "T UW Z TH R IY", "TWO'S THREE"),
        ("1-7-0002", "TH R IY W AH N", "THREE ONE"),
    ]
    assert len(examples) == 6 and [len(frames) for frames in examples[0].frames] == [73, 81, 66]


def test_an_utterance_with_an_unknown_word_is_left_out_and_its_line_is_named(data):
    with pytest.warns(UserWarning, match=r"2 of 8 utterances of train are left out.* FOUR, line 4 of .*1-7.trans.txt"):
        librispeech.read(data, "train", CONFIG)


def test_the_official_splits_are_found_by_their_names(data):
    (data / "dev-held-out").rename(data / "dev-clean")
    (data / "dev-clean-part").rename(data / "test-clean")
    assert read(data, "val")[0].name == "3-7-0000" and read(data, "test")[0].name == "4-7-0000"


def remove_transcript(chapter):
    (chapter / "1-7.trans.txt").unlink()


def remove_recording(chapter):
    (chapter / "1-7-0001.flac").unlink()


def add_recording(chapter):
    write_noise(chapter / "1-7-0009.flac", np.random.default_rng(0))


def copy_recording(chapter):
    write_noise(chapter / "1-7-0001.wav", np.random.default_rng(0))


def write_line(line):
    def write(chapter):
        (chapter / "1-7.trans.txt").write_text(f"1-7-0000 ONE\n{line}\n")

    return write


def spoil_audio(chapter):
    (chapter / "1-7-0001.flac").write_text("no audio")


def shorten_audio(chapter):
    import soundfile

    soundfile.write(chapter / "1-7-0001.flac", np.zeros(160), 16_000)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (remove_transcript, r"there is no transcript .*1-7.trans.txt, which says what its recordings say"),
        (remove_recording, r"line 2 of .*1-7.trans.txt names 1-7-0001, and there is no recording of that name"),
        (copy_recording, r"1-7-0001.flac and .*1-7-0001.wav are recordings of one utterance; keep one of them"),
        (write_line("1-7-0000 TWO"), r"line 2 of .*1-7.trans.txt names 1-7-0000, as line 1 does already"),
        (add_recording, r"1-7.trans.txt has no line for the recording 1-7-0009.flac"),
        (write_line("1-7-0001"), r"line 2 of .*1-7.trans.txt is no name and words in upper case: '1-7-0001'"),
        (write_line("1-7-0001 one"), r"line 2 of .* is no name and words in upper case: '1-7-0001 one'"),
        (spoil_audio, r"1-7-0001.flac is no audio file that can be read"),
        (shorten_audio, r"1-7-0001.flac: the audio lasts 10 ms; the model needs 45 ms or more"),
    ],
)
def test_what_is_missing_or_wrong_is_one_error_that_names_file_and_line(data, change, says):
    change(data / "train-clean-5" / "1" / "7")
    with pytest.raises((ValueError, FileNotFoundError), match=says):
        read(data)


def test_a_folder_without_the_data_is_an_error_that_says_where_to_get_it(data, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"holds no folder train-\*; get it from https://www.openslr.org"):
        read(tmp_path)
    with pytest.raises(ValueError, match="no split is called 'dev'"):
        read(data, "dev")


def test_kept_features_are_used_again_and_made_again_if_they_are_damaged(data, tmp_path):
    first = read(data, cache=tmp_path / "kept")
    files = sorted((tmp_path / "kept").iterdir())
    before = [file.stat().st_mtime_ns for file in files]
    again = read(data, cache=tmp_path / "kept")
    assert [file.stat().st_mtime_ns for file in files] == before
    files[0].write_bytes(b"damaged")
    with pytest.warns(UserWarning, match="features that were kept are damaged and made again"):
        third = librispeech.read(data, "train", CONFIG, cache=tmp_path / "kept")
    for one, two, three in zip(first, again, third):
        assert np.array_equal(one.frames[0], two.frames[0]) and np.array_equal(one.frames[0], three.frames[0])


@pytest.mark.skipif(not (DATA / "librispeech_mini").is_dir(), reason="the parts of LibriSpeech are not here")
def test_the_transcripts_of_the_real_parts_are_read(tmp_path):
    dictionary = read_dictionary(DATA / "cmudict.dict")
    (folder,) = librispeech.folders_of(DATA / "librispeech_mini", "val")
    chapters = librispeech.read_chapters(folder)
    kept = [librispeech.pronounced(chapter, dictionary)[0] for chapter in chapters]
    assert sum(map(len, chapters)) == 256 and 190 < sum(map(len, kept)) < 256
    config = SpeechConfig()
    frames = speech.log_energies([chapters[0][0].file], config.filter_bank(), (1.0,), tmp_path, exact=True)[0][0]
    assert frames.shape[1] == 40 and 8 < frames.mean() < 20


# ---- Training ----


def examples_of(*lengths):
    return [[played(n, n), played(n, n - 1)] for n in lengths]


def played(value, steps):
    return Played(np.full((steps, 24), value, np.float16), [1, 2], np.full(steps, speech.NO_TARGET))


def test_a_batch_has_at_most_so_many_steps_with_padding_and_every_example_is_in_one():
    lengths = list(range(5, 60))
    made = speech.batches(examples_of(*lengths), 200, seed=1)
    assert sorted(int(row.steps[0, 0]) for batch in made for row in batch.rows) == lengths
    assert all(len(batch.rows) * max(len(row.steps) for row in batch.rows) <= 200 for batch in made)
    assert {len(row.steps) - int(row.steps[0, 0]) for batch in made for row in batch.rows} == {0, -1}  # both speeds
    again = speech.batches(examples_of(*lengths), 200, seed=1)
    assert [batch.seed for batch in again] == [batch.seed for batch in made]


@pytest.mark.parametrize(("progress", "longest", "count"), [(0.0, 7, 3), (0.1, 11, 6), (0.2, 14, 10), (0.9, 14, 10)])
def test_a_curriculum_begins_with_the_shortest_and_ends_with_all(progress, longest, count):
    kept = speech.shortest(examples_of(14, 5, 6, 7, 8, 9, 10, 11, 12, 13), progress, 0.2)
    lengths = [len(example[0].steps) for example in kept]
    assert len(lengths) == count and max(lengths) <= longest and {5, 6, 7} <= set(lengths)


def test_augmentation_hides_runs_of_bands_and_of_steps_and_without_noise_nothing():
    bank, x = CONFIG.filter_bank(), torch.ones(100, 2, 24)
    lengths = torch.tensor([100, 50])
    options = Training(band_width=3, time_share=0.2)
    seen = speech.hidden(x, lengths, bank, options, seed=1).unflatten(-1, (3, 8))
    assert torch.equal(seen[:, :, 0], seen[:, :, 2])  # the same bands in all frames of a step
    assert 0 < (seen == 0).float().mean() < 0.9
    assert torch.equal(speech.hidden(x, lengths, bank, options.for_scoring(), seed=1), x)
    assert options.for_scoring().speeds == (1.0,)


def test_the_loss_is_per_phone_and_padding_does_not_change_it():
    torch.manual_seed(0)
    model = SpeechRecogniser(CONFIG).eval()
    x, options = np.random.default_rng(0).normal(size=(30, 24)).astype(np.float16), Training().for_scoring()
    none = np.full(30, speech.NO_TARGET)
    first, second = Played(x, [1, 2, 2], none), Played(x[:20], [3], none[:20])
    losses = [
        float(speech.loss_of(model, model.bank, Batch(rows, 0), options, "cpu").detach()) * units
        for rows, units in (([first], 3), ([second], 1), ([first, second], 4))
    ]
    assert losses[0] + losses[1] == pytest.approx(losses[2], rel=1e-5)


def test_phone_errors_are_in_percent_of_the_right_phones():
    found = speech.phone_errors([["A", "B", "C"], ["A"]], [["A", "C", "C", "D"], []])
    assert found == {"per": 75.0, "substituted": 25.0, "deleted": 25.0, "inserted": 25.0}


def test_usual_features_are_the_mean_over_frames_and_the_deviation_within_utterances():
    parts = [np.array([[1.0, 3.0]] * 2 + [[3.0, 3.0]] * 2), np.array([[8.0, 3.0], [8.0, 5.0]])]
    examples = [speech.Example("", [part], (), "") for part in parts]
    mean, deviation = speech.usual(examples)
    assert np.allclose(mean, [4.0, 20 / 6]) and np.allclose(deviation, [np.sqrt(4 / 6) + 0.1, np.sqrt(2 / 6) + 0.1])


def test_spikes_are_exact_at_first_and_their_thresholds_rise_afterwards():
    model, options = SpeechRecogniser(CONFIG), Training(epochs=10, full_precision=0.3, threshold_rise=0.3)
    multi_bit = [m for m in model.modules() if isinstance(m, neurons.MultiBitNeuron)]
    seen = []
    for epoch in range(10):
        with training.spikes_in_training(model, options, epoch):
            seen.append({(neuron.bits, neuron.threshold_levels) for neuron in multi_bit})
        assert {(neuron.bits, neuron.threshold_levels) for neuron in multi_bit} == {(6, 3)}
    assert seen == [{(32, 3)}] * 3 + [{(6, 0)}, {(6, 1)}, {(6, 2)}] + [{(6, 3)}] * 4
    with training.spikes_in_training(model, replace(options, threshold_rise=0.0), 3):
        assert multi_bit[0].threshold_levels == 3


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"threshold_rise": 2.0}, "threshold_rise must be a finite number from 0 to 1; got 2.0"),
        ({"steps": 0}, "steps must be a whole number of at least 1; got 0"),
        ({"speed": 0.9}, "speed must be a finite number from 0 to 0.5; got 0.9"),
        ({"curriculum": -1.0}, "curriculum must be a finite number from 0 to 1; got -1.0"),
    ],
)
def test_impossible_options_are_refused(options, says):
    with pytest.raises(ValueError, match=says):
        Training(**options)


def test_the_words_of_a_split_are_scored_with_and_without_a_language_model(data, tmp_path):
    zoo.save(SpeechRecogniser(CONFIG), tmp_path / "ears")
    (tmp_path / "books").mkdir()
    (tmp_path / "books" / "a.txt").write_text("One two three .\nThree one .\n")
    called = f"language-model --data {data} --text {tmp_path / 'books'} --output {tmp_path / 'words'}"
    assert CliRunner().invoke(librispeech.command_line(), called.split()).exit_code == 0
    called = f"words {tmp_path / 'ears'} --data {data} --words {tmp_path / 'words'} --output {tmp_path / 'said.txt'}"
    result = CliRunner().invoke(librispeech.command_line(), called.split())
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert found["utterances"] == 4 and found["wer"] > 0 and found["wer_without_language_model"] > 0
    words = set((tmp_path / "said.txt").read_text().split())
    assert words <= {"one", "two", "three", "two's"}


def test_a_card_gets_the_words_of_a_model_and_of_its_twins(data, tmp_path):
    (tmp_path / "books").mkdir()
    (tmp_path / "books" / "a.txt").write_text("One two three .\nThree one .\n")
    librispeech.write_search(data, tmp_path / "books", tmp_path / "words")
    metrics = {"limits": ["It is small."]}
    zoo.save(SpeechRecogniser(CONFIG), tmp_path / "ears", metrics)
    twin = replace(CONFIG, mixer="lstm")
    zoo.save(SpeechRecogniser(twin), tmp_path / "run" / "best")
    settings = {"model": asdict(twin), "training": asdict(Training())}
    (tmp_path / "run" / "settings.json").write_text(json.dumps(settings))
    before = (tmp_path / "ears" / "model.safetensors").read_bytes()
    command = f"compare-words {tmp_path / 'ears'} --twin {tmp_path / 'run'} --data {data} --words {tmp_path / 'words'}"
    result = CliRunner().invoke(librispeech.command_line(), command.split())
    assert result.exit_code == 0, result.output
    rows = json.loads(result.stdout)
    assert [row.pop("name") for row in rows] == ["ears", "LSTM"]
    ways = ("lexicon alone", "with language model")
    assert all(list(row) == [f"word errors %, {s}, {way}" for s in ("val", "test") for way in ways] for row in rows)
    card = (tmp_path / "ears" / "README.md").read_text()
    assert "## Words" in card and f"| LSTM | {rows[1]['word errors %, val, lexicon alone']:.4g} |" in card
    assert "It is small." in card and (tmp_path / "ears" / "model.safetensors").read_bytes() == before
    alone = librispeech.score_words(
        zoo.load(tmp_path / "ears"), librispeech.read(data, "test", CONFIG, every=True), tmp_path / "words"
    )[1]
    assert rows[0]["word errors %, test, with language model"] == round(alone["wer"], 2)
    with pytest.raises(ValueError, match=r"run and .*run are both LSTM: give one run of each network"):
        librispeech.compare_words(tmp_path / "ears", [tmp_path / "run"] * 2, data, tmp_path / "words")


def test_right_phones_are_found_as_the_words_that_they_are(data, tmp_path):
    (tmp_path / "books").mkdir()
    (tmp_path / "books" / "a.txt").write_text("One two three .\n")
    librispeech.write_search(data, tmp_path / "books", tmp_path / "words")
    search = search_in(tmp_path / "words", CONFIG.labels)
    examples = librispeech.read(data, "val", CONFIG, every=True)
    certain = []
    for example in examples[:3]:
        units = [unit for number in speech.numbers_of(example.phones, CONFIG, "") for unit in (number, 0)]
        certain.append((torch.eye(40)[units] * 0.9 + 0.0025).log())
    texts, errors = librispeech.word_errors(search, certain, [example.words for example in examples[:3]])
    assert errors == 0 and texts[0] == "one two"


def test_a_card_shows_what_goes_through_the_network_and_how_far_its_gradient_reaches(data, tmp_path):
    for name, mixer in (("own", "recurrent-gated-lif"), ("plain", "multibit-lif"), ("twin", "lstm")):
        model = SpeechRecogniser(replace(CONFIG, mixer=mixer))
        model.set_usual(np.full(8, 18.0), np.full(8, 4.0))
        zoo.save(model, tmp_path / name / "best")
    groups, metrics = {name: [tmp_path / name] for name in ("own", "plain", "twin")}, {}
    assert speech_pictures.add_pictures(metrics, groups) == metrics == {}
    found = speech_pictures.add_pictures(metrics, groups, data.parent / "own.wav")
    assert pictures_of(metrics) == list(found) and len(found) == 2
    assert metrics["example"]["input"] == "own.wav"
    zoo.save(zoo.load(tmp_path / "own" / "best"), tmp_path / "bundled", metrics, found)
    assert f"![{metrics['pictures'][0]['caption']}](heard.png)" in (tmp_path / "bundled" / "README.md").read_text()
    model = zoo.load(tmp_path / "own" / "best")
    x = speech_pictures.steps_of(model, audio.read_audio(data.parent / "own.wav"))
    norms = monitors.gradient_norms({"own": model}, x).norms["own"]["input"]
    assert len(norms) == len(x) and norms[-1] > 0

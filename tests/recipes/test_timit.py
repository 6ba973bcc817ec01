"""The recipe for TIMIT: both layouts in either case, splits without a common speaker, phones folded as usual."""

import numpy as np
import pytest
import soundfile
import torch

import zoo
from recipes import speech, timit
from zoo.networks.speech import SpeechConfig, SpeechRecogniser

CONFIG = SpeechConfig(labels=timit.PHONES, bands=8, width=12, layers=2)
ALIGNMENT = "0 3000 h#\n3000 5000 bcl\n5000 6000 b\n6000 9000 q\n9000 11000 ix\n11000 12000 h#\n"


def write(folder, speakers, upper=True, sphere=True):
    for place in speakers:
        (folder / place).mkdir(parents=True)
        for name in ("sa1", "sx1"):
            for suffix in (".wav", ".phn"):
                file = folder / place / (f"{name}{suffix}".upper() if upper else f"{name}{suffix}")
                if suffix == ".phn":
                    file.write_text(ALIGNMENT)
                else:
                    noise = np.random.default_rng(0).normal(0, 0.1, 12_000)
                    soundfile.write(file, noise, 16_000, format="NIST" if sphere else "WAV", subtype="PCM_16")


LDC = ("TRAIN/DR1/FCJF0", "TEST/DR1/FAKS0", "TEST/DR1/MDAB0", "TEST/DR2/FSLB1")
SAMPLE = ("dr1-fvmh0", "dr4-falr0", "dr2-faem0")


@pytest.mark.parametrize("upper", [True, False], ids=["upper case", "lower case"])
@pytest.mark.parametrize("sphere", [True, False], ids=["SPHERE", "RIFF"])
def test_ldc_s_layout_is_read_and_its_splits_have_no_speaker_in_common(tmp_path, upper, sphere):
    write(tmp_path, [place if upper else place.lower() for place in LDC], upper, sphere)
    found = {split: timit.read(tmp_path, split, CONFIG) for split in timit.SPLITS}
    names = {split: [example.name for example in examples] for split, examples in found.items()}
    assert names == {"train": ["FCJF0-SX1"], "val": ["FAKS0-SX1"], "test": ["MDAB0-SX1"]}
    assert found["train"][0].phones == ("sil", "vcl", "b", "ix", "sil")
    assert found["train"][0].frames[0].shape == (73, 8)


def test_nltk_s_sample_is_read_with_the_stated_speakers_held_out(tmp_path):
    write(tmp_path, SAMPLE, upper=False, sphere=False)
    names = [[example.name for example in timit.read(tmp_path, split, CONFIG)] for split in timit.SPLITS]
    assert names == [["FVMH0-SX1"], ["FALR0-SX1"], ["FAEM0-SX1"]]


def test_61_phones_are_folded_to_48_and_39():
    assert len(timit.FOLDED_48) == 61 and len(timit.PHONES) == 48
    assert len(set(timit.FOLDED_39.values())) == 39 and set(timit.FOLDED_39) == set(timit.PHONES)
    aligned = [timit.Aligned(0, 1, phone) for phone in ("h#", "tcl", "t", "ux", "q", "axr", "zh", "eng", "epi")]
    folded = timit.fold_48(aligned)
    assert folded == ("sil", "cl", "t", "uw", "er", "zh", "ng", "epi")
    assert timit.fold_39(folded) == ["sil", "sil", "t", "uw", "er", "sh", "ng", "sil"]


def test_the_speakers_of_the_sets_are_24_and_50_and_no_one_is_in_both():
    assert len(timit.CORE_TEST) == 24 and len(timit.DEVELOPMENT) == 50
    assert not timit.CORE_TEST & timit.DEVELOPMENT and not timit.SAMPLE_TEST & timit.SAMPLE_VAL
    assert sum(name.startswith("F") for name in timit.CORE_TEST) == 8


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("0 3000 h#\n3000 xx b\n", r"line 2 of .*SX1.PHN is no start, end and phone: '3000 xx b'"),
        ("0 3000 h#\n3000 4000 zz\n", r"line 2 of .*SX1.PHN is no start, end and phone: '3000 4000 zz'"),
        ("0 3000 h#\n3000 999999 b\n", r"the last line of .*SX1.PHN ends after 62.5 seconds, its recording after 0.7"),
        ("0 3000 h#\n2000 1000 b\n", r"line 2 of .*SX1.PHN runs backwards: '2000 1000 b'"),
        ("\n", r"SX1.PHN holds no phones"),
        (None, r"SX1.WAV has no alignment \(.PHN\) beside it"),
    ],
)
def test_a_wrong_or_missing_alignment_is_one_error_with_its_line(tmp_path, content, says):
    write(tmp_path, LDC)
    file = tmp_path / "TRAIN/DR1/FCJF0/SX1.PHN"
    file.unlink() if content is None else file.write_text(content)
    with pytest.raises(ValueError, match=says):
        timit.read(tmp_path, "train", CONFIG)


def test_a_recording_that_is_missing_and_a_folder_without_any_are_errors(tmp_path):
    with pytest.raises(FileNotFoundError, match="holds no sentences of TIMIT"):
        timit.read(tmp_path, "train", CONFIG)
    write(tmp_path, LDC)
    (tmp_path / "TRAIN/DR1/FCJF0/SX1.WAV").unlink()
    with pytest.raises(ValueError, match=r"SX1.PHN has no recording beside it"):
        timit.read(tmp_path, "train", CONFIG)


def test_a_model_of_the_dictionary_s_phones_hears_the_nearest_of_timit_s(tmp_path):
    torch.manual_seed(0)
    model = SpeechRecogniser(SpeechConfig(bands=8, width=12, layers=2)).eval()
    x = torch.randn(10, 1, 24)
    with torch.no_grad():
        own, made = model(x), timit.with_timit_phones(model).eval()(x)
    for phone in ("ax", "iy", "el"):
        near = model.typed_config.labels.index(timit.NEAREST[phone])
        assert torch.equal(made[..., 1 + timit.PHONES.index(phone)], own[..., 1 + near])
    assert torch.equal(made[..., 0], own[..., 0])
    again = timit.with_timit_phones(model)
    assert timit.with_timit_phones(again) is again
    with pytest.raises(ValueError, match="knows the phones of TIMIT or of the dictionary"):
        timit.with_timit_phones(SpeechRecogniser(SpeechConfig(labels=["A"], bands=8, width=12)))


def test_a_training_from_a_model_of_the_dictionary_s_phones_is_resumed(tmp_path):
    write(tmp_path / "data", LDC)
    model = SpeechRecogniser(SpeechConfig(bands=8, width=12, layers=2))
    zoo.save(model, tmp_path / "start")
    for epochs in (1, 1):
        options = timit.Training(epochs=epochs, steps=500)
        trainer = timit.trainer(tmp_path / "data", tmp_path / "run", CONFIG, options, initial=str(tmp_path / "start"))
        trainer.train()
    assert zoo.load(tmp_path / "run" / "best").typed_config.labels == timit.PHONES


@pytest.mark.parametrize("speed", [1.0, 2.0])
def test_frame_targets_are_the_phones_in_the_middle_of_each_step(tmp_path, speed):
    write(tmp_path, LDC)
    (example,) = timit.read(tmp_path, "train", CONFIG)
    found = speech.targets_of(example, int(24 / speed), speed, CONFIG)
    middles = [(0.03 * step + 0.0225) * speed * 16_000 for step in range(len(found))]
    spoken = timit.read_alignment(tmp_path / "TRAIN/DR1/FCJF0/SX1.PHN")
    named = [next((a.phone for a in spoken if middle < a.end), "h#") for middle in middles]
    folded = [timit.FOLDED_48[phone] for phone in named]
    expected = [1 + timit.PHONES.index(phone) if phone else speech.NO_TARGET for phone in folded]
    assert found.tolist() == expected and speech.NO_TARGET in expected


def test_the_frame_loss_asks_for_the_phone_and_not_for_the_blank():
    targets = np.array([1, 2, speech.NO_TARGET])
    row = speech.Played(np.zeros((3, 24), np.float16), [1, 2], targets)
    right = torch.tensor([[50.0, 9.0, 0.0], [50.0, 0.0, 9.0], [0.0, 0.0, 0.0]]).unsqueeze(1)
    assert speech.frame_loss(right, speech.Batch([row], 0)) < 1e-3
    assert speech.frame_loss(right.flip(0), speech.Batch([row], 0)) > 0.3

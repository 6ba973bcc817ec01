"""Speech in the engine: the recogniser, step by step and in a batch, with the logits and the state of its modules."""

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

import zoo
from zoo import files
from zoo.engine.program import NotInIntegers
from zoo.networks.mixers import RECURRENT
from zoo.networks.speech import MIXERS, SpeechConfig, SpeechRecogniser

SPIKING = [mixer for mixer in MIXERS if mixer not in RECURRENT]
SPIKES = {"six bits": {}, "one bit": {"bits": 1, "threshold_levels": 0}, "eight": {"bits": 8, "threshold_levels": 9}}
NOISE = np.random.default_rng(0).normal(0, 0.1, 24_000).astype(np.float32)


def network(mixer: str, **options) -> SpeechRecogniser:
    """With random weights, which are rounded to the integers that the engine computes with."""
    torch.manual_seed(0)
    model = SpeechRecogniser(SpeechConfig(mixer=mixer, bands=8, width=12, layers=2, **options))
    model(torch.randn(30, 4, model.bank.size))  # gives batch norm some statistics
    model.eval().round_weights()
    return model


def features(steps: int, batch: int, size: int = 24) -> Tensor:
    return torch.randn(steps, batch, size, generator=torch.Generator().manual_seed(1))


def numbers(state) -> list[Tensor]:
    """The membranes and currents of a network's state; the spikes that recurrent neurons remember are levels."""
    if isinstance(state, Tensor):
        return [state]
    fields = getattr(state, "_fields", [""] * len(state))
    return [part for name, inner in zip(fields, state) if name != "spikes" for part in numbers(inner)]


@pytest.mark.parametrize("options", SPIKES.values(), ids=SPIKES)
@pytest.mark.parametrize("mixer", SPIKING)
@torch.inference_mode()
def test_every_piece_leaves_the_state_and_the_logits_of_the_modules(mixer, options):
    model = network(mixer, **options)
    steps, state, before = model.steps(), None, None
    for x in features(40, 3).split([1, 1, 7, 20, 1, 10]):
        logits, state = steps(x, state)
        expected, before = model.scan(x, before)
        torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-4)
        whole = torch.cat(numbers(before), dim=1)
        torch.testing.assert_close(torch.from_numpy(state.numbers), whole, rtol=1e-3, atol=1e-4)
    assert model.last_precision == "int8"


@pytest.mark.parametrize("mixer", SPIKING)
@torch.inference_mode()
def test_a_recording_has_the_same_bits_alone_in_pieces_and_in_a_batch(mixer):
    model, x = network(mixer), features(50, 9)
    together, _ = model.steps()(x, None)
    for row in (0, 4, 8):
        alone, _ = model.steps()(x[:, row : row + 1], None)
        assert torch.equal(together[:, row], alone[:, 0])
        pieces, state = [], None
        for piece in x[:, row : row + 1].split([3, 1, 40, 6]):
            logits, state = model.steps()(piece, state)
            pieces.append(logits)
        assert torch.equal(torch.cat(pieces), alone)


@pytest.mark.parametrize("mixer", SPIKING)
def test_rounded_weights_are_stored_as_integers_and_load_as_they_were(mixer, tmp_path):
    model = network(mixer)
    folder = zoo.save(model, tmp_path / "rounded")
    stored = load_file(folder / files.WEIGHTS)
    names = {name for name, parameter in model.named_parameters() if parameter.dim() > 1}
    assert {name for name, tensor in stored.items() if tensor.dtype == torch.int8} == names
    loaded = zoo.load(folder)
    assert all(torch.equal(model.get_parameter(name), loaded.get_parameter(name)) for name in names)


def test_a_transcript_is_that_of_floats():
    model = network("recurrent-gated-lif")
    model.set_usual(np.full(8, 14.0), np.full(8, 2.0))
    with torch.no_grad():
        model.output.weight.mul_(16)
    found = model.transcribe(NOISE, rate=16_000)
    assert model.last_precision == "int8" and found.phones
    model.precision = "float32"
    assert model.transcribe(NOISE, rate=16_000).text == found.text
    assert model.last_precision == "float32"


def test_a_stream_ends_where_the_precision_changes():
    model = network("recurrent-gated-lif")
    for precision, other in (("int8", "float32"), ("float32", "int8")):
        model.precision = precision
        stream = model.stream()
        stream.push(NOISE[:8000])
        model.precision, before = other, stream.answer()
        with pytest.raises(ValueError, match="begin another with stream"):
            stream.push(NOISE[8000:16000])
        assert stream.answer() == before


@pytest.mark.parametrize("mixer", RECURRENT)
def test_a_twin_without_spikes_runs_in_floats_and_says_so(mixer):
    model = SpeechRecogniser(SpeechConfig(mixer=mixer, bands=8, width=12, layers=2)).eval()
    model.transcribe(NOISE, rate=16_000)
    assert model.last_precision == "float32"
    model.precision = "int8"
    with pytest.raises(NotInIntegers, match="it has no spikes"):
        model.transcribe(NOISE, rate=16_000)

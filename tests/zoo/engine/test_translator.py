"""A translator in integers: what it computes, that nothing beside a sentence changes it, and when it runs in floats."""

import copy
import gzip
import os
import pickle
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch
from tiny_translator import PAIRS, token_batch, translator

import neurons
import zoo
from zoo.engine.integers import quantised
from zoo.engine.program import NotInIntegers
from zoo.networks.translation import BEGIN, PAD

SENTENCES = [german for german, _ in PAIRS]


def in_steps_of_integers(model):
    """The same network with every product's weights rounded to what eight bits hold."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() == 2:
                found = quantised(parameter, name)
                parameter.copy_(torch.from_numpy((found.levels * found.scale).T))
    return model


def steps_in_integers(model, source, target):
    """Log-probabilities of every token ``[T, B, V]`` and the states, of the target's tokens one after another."""
    next_tokens, memory = model.programs().reading(source)
    found, states, state = [], [], None
    for tokens in target.numpy():
        likely, state = next_tokens(tokens, state, memory, model.typed_config.vocabulary)
        values, places = map(torch.from_numpy, likely)
        found.append(torch.full_like(values, -torch.inf).scatter(1, places, values))
        states.append(torch.from_numpy(state[0]))
    return torch.stack(found), torch.stack(states)


def states_of_modules(model, source, target):
    """The same of the modules: logits that can come, and the floats of all neurons' states ``[T, B, ...]``."""
    context, state, found, states = model.encode(source), None, [], []
    for tokens in target:
        s, state = model.scan(tokens.unsqueeze(0), state, context)
        found.append(model.logits(s[0]))
        *layers, last = state
        parts = []
        for stream, (_, gated), context_spikes in layers:
            parts += [*stream, *gated, *context_spikes]
        states.append(torch.cat([*parts, *last], dim=-1))
    return torch.stack(found), torch.stack(states)


@torch.no_grad()
@pytest.mark.parametrize("bits", [4, 8])
def test_a_step_is_that_of_the_modules_state_for_state(bits):
    model = in_steps_of_integers(translator(bits=bits))
    source, target = token_batch(model, 0), token_batch(model, 1)
    target = torch.cat([torch.full_like(target[:1], BEGIN), target])[:, : source.shape[1]]
    logits, states = states_of_modules(model, source, target)
    logits[..., [0, 1, 3]] = -torch.inf
    found, found_states = steps_in_integers(model, source, target)
    # Sums in another order may move a spike by a level, here and there.
    one_level = 2 / 2 ** (bits - 1)
    difference = (found_states - states).abs()
    assert (difference > 1e-3).float().mean() < 0.01
    assert difference.max() < 3 * one_level
    there = torch.isfinite(found)
    assert torch.equal(there, torch.isfinite(logits))
    torch.testing.assert_close(found[there], logits.log_softmax(-1)[there], rtol=0, atol=0.05)


@pytest.mark.parametrize("beam_size", [1, 5])
def test_a_translation_and_its_score_are_the_same_bits_in_any_batch_and_on_any_number_of_threads(beam_size):
    model = translator()
    expected = [model.translate_scored([sentence], beam_size)[0] for sentence in SENTENCES]
    assert model.last_precision == "int8"
    threads = torch.get_num_threads()
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            for batch_size, times in ((2, 1), (3, 2), (64, 26)):
                found = model.translate_scored(SENTENCES * times, beam_size, batch_size=batch_size)
                assert found == expected * times
    finally:
        torch.set_num_threads(threads)


def test_without_integer_units_the_same_bits_come_out(monkeypatch):
    model = translator()
    expected = model.translate_scored(SENTENCES * 20)
    monkeypatch.setattr("zoo.engine.integers.has_integer_units", lambda: False)
    assert translator().translate_scored(SENTENCES * 20) == expected


@pytest.mark.slow
@pytest.mark.parametrize("most", ["SSE41", "AVX2", "AVX512_CORE"])
def test_a_lesser_instruction_set_gives_the_same_bits(most):
    script = (
        "import zoo; model = zoo.load('lite-snn-multi30k')\n"
        "print(model.translate_scored(['Ein Hund rennt durch den Schnee.', 'Zwei Kinder spielen im Garten.'] * 40))"
    )
    run = [sys.executable, "-c", script]
    found = [
        subprocess.run(run, env=os.environ | more, capture_output=True, text=True, check=True).stdout
        for more in ({}, {"ONEDNN_MAX_CPU_ISA": most})
    ]
    assert found[0] == found[1] and "dog" in found[0]


@pytest.mark.slow
def test_no_sentence_of_the_validation_data_depends_on_its_batch():
    path = Path(os.environ.get("SNN_ZOO_DATA", "../shared/data")) / "multi30k" / "val.de.gz"
    if not path.is_file():
        pytest.skip(f"needs Multi30k's val.de.gz in {path.parent}")
    with gzip.open(path, "rt", encoding="utf-8") as file:
        sentences = file.read().splitlines()
    model = zoo.load("lite-snn-multi30k", precision="int8")
    for beam_size in (1, 5):
        together = model.translate_scored(sentences, beam_size)
        assert model.translate_scored(sentences, beam_size, batch_size=3) == together
        assert [model.translate_scored([sentence], beam_size)[0] for sentence in sentences] == together


def change_a_weight(model):
    with torch.no_grad():
        model.decoder[0].output.weight.mul_(-1)


def change_by_data(model):
    model.decoder[1].output.weight.data.mul_(-1)


def change_the_bits(model):
    for module in model.modules():
        if isinstance(module, neurons.neuron.MultiBitNeuron):
            module.bits = 2


def change_a_range(model):
    model.decoder_spikes.neuron.spike_range.current.mul_(0.3)


def put_in_a_layer(model):
    torch.manual_seed(3)
    layer = type(model.decoder[0].output)(64, 32, bias=False)
    torch.nn.init.normal_(layer.weight)
    model.decoder[0].output = layer


@pytest.mark.parametrize("change", [change_a_weight, change_by_data, change_the_bits, change_a_range, put_in_a_layer])
def test_a_network_that_was_changed_runs_as_it_is_now_without_being_told(change):
    model, other = translator(), translator()
    before = model.translate_scored(SENTENCES)
    change(model)
    change(other)
    after = model.translate_scored(SENTENCES)
    assert model.last_precision == other.precision.replace("auto", "int8")
    assert after != before
    assert after == other.translate_scored(SENTENCES)


def test_a_network_in_training_runs_in_integers_when_it_translates_and_is_left_in_training():
    model = translator()
    expected = model.translate_scored(SENTENCES)
    assert model.train().translate_scored(SENTENCES) == expected
    assert model.training and model.last_precision == "int8"


def hook(model):
    model.decoder[0].register_forward_hook(lambda *_: None)


def half(model):
    model.bfloat16()


def reference_scan(model):
    model.decoder_spikes.neuron.backend = "torch"


def full_precision(model):
    for module in model.modules():
        if isinstance(module, neurons.neuron.MultiBitNeuron):
            module.bits = 32


def own_forward(model):
    model.decoder[0].output.forward = model.decoder[0].output.forward


def own_layer(model):
    class Wrapped(type(model.decoder[0].output)):
        def forward(self, x):
            return super().forward(x) * 2

    model.decoder[0].output.__class__ = Wrapped


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (hook, "a hook looks at its DecoderLayer"),
        (half, "bfloat16"),
        (reference_scan, 'backend="torch"'),
        (full_precision, "full precision"),
        (own_forward, "Linear does not say"),
        (own_layer, "Wrapped does not say"),
    ],
)
def test_what_integers_cannot_express_runs_in_floats_and_says_why_where_integers_are_asked_for(change, why):
    model = translator()
    change(model)
    model.translate(SENTENCES[:1])
    assert model.last_precision == "float32"
    model.precision = "int8"
    with pytest.raises(NotInIntegers, match=why):
        model.translate(SENTENCES[:1])


@pytest.mark.parametrize("mixer", ["relu", "lstm", "gru"])
def test_a_twin_without_spikes_has_nothing_to_compute_in_integers(mixer):
    model = translator(mixer)
    model.translate(SENTENCES[:1])
    assert model.last_precision == "float32"
    model.precision = "int8"
    with pytest.raises(NotInIntegers, match=r"no spikes|does not say"):
        model.translate(SENTENCES[:1])


def test_floats_are_had_for_the_asking():
    model = translator()
    model.precision = "float32"
    model.translate(SENTENCES[:1])
    assert model.last_precision == "float32"
    with pytest.raises(ValueError, match="did you mean 'float32'"):
        model.precision = "float"


def test_a_weight_that_is_nan_is_named_and_nothing_is_translated():
    model = translator()
    with torch.no_grad():
        model.decoder[1].output.weight[0, 0] = float("nan")
    with pytest.raises(ValueError, match=r"decoder\.1\.output\.weight has values that are not finite"):
        model.translate(SENTENCES[:1])


def test_a_membrane_that_is_nan_is_an_error():
    model = translator()
    with torch.no_grad():
        model.decoder[1].mixer.norm.bias[0] = float("nan")
    with pytest.raises(ValueError, match="a membrane is NaN"):
        model.translate(SENTENCES[:1])


def test_copies_and_pickles_of_a_network_that_ran_are_networks_of_their_own():
    model = translator()
    expected = model.translate_scored(SENTENCES)
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model.encoder))):
        assert isinstance(other, torch.nn.Module)
    other = copy.deepcopy(model)
    change_a_weight(other)
    assert other.translate_scored(SENTENCES) != expected
    assert model.translate_scored(SENTENCES) == expected


def test_threads_that_translate_at_once_do_not_disturb_one_another():
    model = translator()
    expected = [model.translate_scored(SENTENCES[i:]) for i in range(4)]
    found = [None] * 4

    def work(place):
        for _ in range(2):
            found[place] = model.translate_scored(SENTENCES[place:])

    workers = [threading.Thread(target=work, args=(place,)) for place in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert found == expected


def test_padding_is_nothing():
    model = translator()
    source = token_batch(model, 0)
    longer = torch.cat([source, torch.full((7, source.shape[1]), PAD)])
    assert model.search(source, 3, 1.0) == model.search(longer, 3, 1.0)


def test_without_a_numba_that_compiles_a_network_runs_in_floats_and_says_why_where_integers_are_asked_for():
    script = (
        "import warnings; warnings.simplefilter('ignore')\n"
        "from tiny_translator import PAIRS, translator\n"
        "model = translator()\n"
        "model.translate([PAIRS[0][0]])\n"
        "print(model.last_precision)\n"
        "model.precision = 'int8'\n"
        "try: model.translate([PAIRS[0][0]])\n"
        "except ValueError as error: print(error)\n"
    )
    environment = os.environ | {"NUMBA_DISABLE_JIT": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True)
    assert done.stdout.startswith("float32\n") and "NUMBA_DISABLE_JIT is set" in done.stdout, done.stderr

"""Explicit state and streams follow one protocol, for every network that has them."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from recipes.multi30k import train_tokenizer
from zoo.engine.precision import set_precision
from zoo.inputs.events import Events
from zoo.networks import gesture, speech, translation
from zoo.networks.decoding import select
from zoo.networks.gesture import GestureConfig, GestureNetwork
from zoo.networks.speech import SpeechConfig, SpeechRecogniser
from zoo.networks.translation import Translator, TranslatorConfig
from zoo.registry import architecture
from zoo.tasks import TASKS

# All networks here have spikes of full precision: another order of a sum cannot change a level.
STEPS, BATCH = 6, 3
PAIRS = [("ein hund rennt", "a dog runs"), ("zwei hunde im schnee", "two dogs in the snow")]


def small_translator(mixer: str):
    """The network, ``x_seq`` and the context of one batch."""
    tokenizer = train_tokenizer(PAIRS, 60)
    config = TranslatorConfig(tokenizer.get_vocab_size(), 16, 1, 2, heads=2, mixer=mixer, bits=32)
    model = Translator(config, tokenizer).eval()
    tokens = torch.randint(4, config.vocabulary, (2, STEPS, BATCH))
    with torch.no_grad():
        return model, tokens[0], (model.encode(tokens[1]),)


def small_gesture_network(mixer: str):
    sizes = {"bin_size": 100, "channels": 4, "blocks": 2, "head": 6}
    config = GestureConfig(["a", "b"], 8, 8, 1, **sizes, mixer=mixer, bits=32, threshold_levels=0)
    return GestureNetwork(config).eval(), torch.randint(0, 5, (STEPS, BATCH, 2, 8, 8)), ()


def small_recogniser(mixer: str):
    config = SpeechConfig(width=8, layers=2, mixer=mixer, bits=32, threshold_levels=0)
    model = SpeechRecogniser(config).eval()
    return model, torch.randn(STEPS, BATCH, model.bank.size), ()


SMALL = {
    "translator": (small_translator, translation.MIXERS),
    "gesture-network": (small_gesture_network, gesture.MIXERS),
    "speech-recogniser": (small_recogniser, speech.MIXERS),
}
EVERY = [(name, mixer) for name, (_, mixers) in SMALL.items() for mixer in mixers]


def build(name: str, mixer: str):
    torch.manual_seed(0)
    return SMALL[name][0](mixer)


def parts_of(state) -> list[Tensor]:
    """The tensors of a state."""
    if isinstance(state, Tensor):
        return [state]
    return [] if state is None else [part for inner in state for part in parts_of(inner)]


def test_every_network_with_explicit_state_is_tested_here():
    names = [name for task in TASKS.values() for name in task.networks]
    assert {name for name in names if hasattr(architecture(name), "scan")} == set(SMALL)
    assert {name for name in names if hasattr(architecture(name), "stream")} <= set(SMALL)


@pytest.mark.parametrize("task", TASKS.values(), ids=TASKS)
def test_the_networks_of_a_task_stream_where_its_record_says_so(task):
    assert {hasattr(architecture(name), "stream") for name in task.networks} == {task.streams is not None}


@pytest.mark.parametrize(("name", "mixer"), EVERY)
@torch.no_grad()
def test_a_sequence_in_pieces_gives_what_the_whole_gives(name, mixer):
    model, x_seq, context = build(name, mixer)
    whole, last = model.scan(x_seq, None, *context)
    state, pieces = None, []
    for piece in x_seq.split([1, 3, 1, 1]):
        y_seq, state = model.scan(piece, state, *context)
        pieces.append(y_seq)
    torch.testing.assert_close(torch.cat(pieces), whole, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(parts_of(state), parts_of(last), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("name", "mixer"), EVERY)
@torch.no_grad()
def test_a_scan_leaves_the_state_that_it_was_given_as_it_was(name, mixer):
    model, x_seq, context = build(name, mixer)
    _, state = model.scan(x_seq[:3], None, *context)
    before = [part.clone() for part in parts_of(state)]
    first, _ = model.scan(x_seq[3:], state, *context)
    again, _ = model.scan(x_seq[3:], state, *context)
    assert parts_of(state) and all(map(torch.equal, parts_of(state), before))
    assert torch.equal(first, again)


@pytest.mark.parametrize(("name", "mixer"), EVERY)
@torch.no_grad()
def test_state_has_the_batch_first_so_that_rows_of_it_go_on_by_themselves(name, mixer):
    model, x_seq, context = build(name, mixer)
    _, state = model.scan(x_seq[:3], None, *context)
    assert {len(part) for part in parts_of(state)} == {BATCH}
    rows = torch.tensor([2, 0])
    together, _ = model.scan(x_seq[3:], state, *context)
    some, _ = model.scan(x_seq[3:, rows], select(state, rows), *(select(part, rows) for part in context))
    torch.testing.assert_close(some, together[:, rows], rtol=1e-4, atol=1e-4)


# Streams. Each kind of piece has its input here, to be cut into pieces of any length.


def events() -> Events:
    random = np.random.default_rng(0)
    x, y, p = random.integers(0, [[8], [8], [2]], (3, 300))
    return Events(np.sort(random.integers(0, 1000, 300)), x.astype(np.int16), y.astype(np.int16), p.astype(bool))


def samples() -> np.ndarray:
    return np.random.default_rng(0).normal(0, 0.1, 12_000).astype(np.float32)


INPUTS = {"events": (events(), {}), "samples": (samples(), {"rate": 16_000})}
"""For each kind of piece that a task streams, one whole input that can be sliced, and what the method needs beside."""
STREAMING = [(name, TASKS[architecture(name).task]) for name in SMALL if TASKS[architecture(name).task].streams]
MODELS = {name: build(name, SMALL[name][1][0])[0] for name, _ in STREAMING}


@pytest.mark.parametrize(("name", "task"), STREAMING, ids=dict(STREAMING))
@given(cuts=st.sets(st.integers(0, 300)))
@settings(max_examples=15, deadline=None)
def test_a_stream_answers_as_the_method_does_however_it_was_cut(name, task, cuts):
    model, (whole, named) = MODELS[name], INPUTS[task.streams]
    stream, undivided = model.stream(), model.stream()
    places = [0, *(cut * len(whole) // 300 for cut in sorted(cuts)), len(whole)]
    steps = sum(stream.push(whole[start:end]) for start, end in pairwise(places))
    assert steps == undivided.push(whole) > 0
    assert stream.answer() == undivided.answer() == getattr(model, task.method)(whole, **named)


@pytest.mark.parametrize(("name", "task"), STREAMING, ids=dict(STREAMING))
def test_a_stream_has_no_answer_before_its_first_step(name, task):
    with pytest.raises(ValueError):
        MODELS[name].stream().answer()


@pytest.mark.parametrize(
    ("name", "task", "mixer"), [(name, task, mixer) for name, task in STREAMING for mixer in SMALL[name][1]]
)
def test_nothing_of_a_piece_is_taken_where_an_error_ends_it(name, task, mixer, monkeypatch):
    model, (whole, named) = build(name, mixer)[0], INPUTS[task.streams]
    third = len(whole) // 3
    set_precision(model, "float32")  # so that each step calls scan
    stream, scan = model.stream(), model.scan
    stream.push(whole[:third])
    before = stream.answer()

    def interrupted(*given):
        scan(*given)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setitem(vars(model), "scan", interrupted)
        with pytest.raises(KeyboardInterrupt):
            stream.push(whole[third:])
    assert stream.answer() == before
    stream.push(whole[third:])
    assert stream.answer() == getattr(model, task.method)(whole, **named)

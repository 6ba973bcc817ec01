"""Programs in operations of torch, as they run on a GPU, against the compiled kernels: instruction by instruction, and
whole networks. Without a GPU the same operations run on the CPU."""

import copy
import threading
from typing import NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_translator import PAIRS, token_batch, translator
from torch._subclasses import FakeTensorMode

import neurons
import zoo
from zoo.engine import instructions, on_device, precision
from zoo.engine.on_device import OnDevice, held, integer_product
from zoo.engine.program import Context, NotInIntegers, Program, State, part
from zoo.networks.speech import MIXERS, SpeechConfig, SpeechRecogniser

NO_GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
DEVICES = [torch.device("cpu"), pytest.param(torch.device("cuda", 0), marks=[pytest.mark.gpu, NO_GPU])]
GERMAN = [german for german, _ in PAIRS]
BUNDLED = "Ein Hund rennt durch den Schnee.", "Zwei Kinder spielen im Garten.", "Eine Frau in einem roten Kleid singt."
NOISE = np.random.default_rng(0).normal(0, 0.1, 24_000).astype(np.float32)
CPU = torch.device("cpu")

# ---- Products ----


def cuda_rules(levels: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """The exact product, for tensors that ``torch._int_mm`` takes on CUDA."""
    assert levels.dtype == weights.dtype == torch.int8 and levels.is_contiguous() and weights.is_contiguous()
    rows, inputs = levels.shape
    assert rows > 16 and inputs % 8 == 0 and inputs > 0 and weights.shape[1] % 8 == 0 and weights.shape[1] > 0
    return (levels.long() @ weights.long()).int()


def random_integers(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(-127, 128, shape, generator=torch.Generator().manual_seed(seed), dtype=torch.int8)


@settings(max_examples=60, deadline=None)
@given(rows=st.integers(1, 40), inputs=st.integers(1, 70), outputs=st.integers(1, 70), seed=st.integers(0, 99))
def test_products_of_any_size_are_padded_to_what_cuda_takes_and_stay_exact(rows, inputs, outputs, seed):
    levels, weights = random_integers(rows, inputs, seed=seed), random_integers(inputs, outputs, seed=seed + 1)
    expected = levels.long() @ weights.long()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(on_device, "has_integer_units", lambda: True)
        patch.setattr(torch, "_int_mm", cuda_rules)
        found = integer_product(levels, held(weights, CPU), outputs)
    assert found.dtype == torch.int32 and torch.equal(found.long(), expected)


@pytest.mark.parametrize("device", DEVICES, ids=str)
@pytest.mark.parametrize("rows", range(1, 18))
@pytest.mark.parametrize("sizes", [(1, 1), (7, 9), (16, 8), (24, 40), (257, 33)])
def test_products_are_exact(device, rows, sizes):
    levels, weights = random_integers(rows, sizes[0]), random_integers(*sizes, seed=1)
    found = integer_product(levels.to(device), held(weights, device), sizes[1])
    assert torch.equal(found.cpu().long(), levels.long() @ weights.long())


def test_the_largest_sums_are_exact_without_integer_units_too(monkeypatch):
    monkeypatch.setattr(on_device, "has_integer_units", lambda: False)
    levels, weights = torch.full((3, 1100), 127, dtype=torch.int8), torch.full((1100, 5), -127, dtype=torch.int8)
    assert (integer_product(levels, held(weights, CPU), 5) == -1100 * 127**2).all()


# ---- Instruction by instruction ----

EXACT = {instructions.EMBED, instructions.WINDOWS, instructions.PRODUCT, instructions.RESCALE, instructions.PATCHES,
         instructions.INTEGRATOR}  # fmt: skip
"""Integers, or floats with one rounding after another in the same order: the same bits."""
CLOSE = {"rtol": 1e-5, "atol": 5e-6}
"""Sums of up to some hundred floats in another order: some last bits (2^-24) of values of about 1 to 10. The largest
difference in the bundled networks was 1e-6."""
MOVED = 0.001
"""The largest share of spikes that may differ by a level, with the same currents: a sigmoid may differ in its last bit,
and that moves a spike only where a membrane is within about 1e-6 of a level. On the CPU none of some 100,000 moved."""


class Case(NamedTuple):
    """A program with the arguments of a run."""

    program: Program
    inputs: np.ndarray
    lengths: np.ndarray
    state: State | None = None
    context: Context | None = None
    count: int = 0

    def started(self, runner: OnDevice) -> on_device.Run:
        return runner.started(*self[1:])


def cut(program: Program, count: int) -> Program:
    """The first ``count`` instructions of a program: what the last of them writes is then a result."""
    other = copy.copy(program)
    other.code = program.code[:count]
    return other.finish()


def written_by(code: list, result, case: Case) -> np.ndarray:
    """What the last instruction of ``code`` wrote in a run on the CPU."""
    out = [a for a in code[-1] if hasattr(a, "kind")]
    steps, batch = case.inputs.shape[:2]
    if code[-1][0] == instructions.PRODUCT:
        first, width = out[-1].place * steps * batch, out[-1].width
        return result.arrays["sums"][first : first + steps * batch * width].reshape(steps, batch, width).copy()
    out = out[0] if code[-1][0] in (instructions.EMBED, instructions.RESCALE) else out[1]
    return part(out, result, steps, batch).copy()


def compare(operation: int, found: torch.Tensor, expected: np.ndarray) -> None:
    found, expected = found.cpu(), torch.from_numpy(expected)
    assert found.dtype == expected.dtype and found.shape == expected.shape
    if operation in EXACT:
        assert torch.equal(found, expected)
    elif found.dtype == torch.int8:
        difference = (found.int() - expected.int()).abs()
        assert difference.max() <= 1 and (difference > 0).float().mean() <= MOVED
    else:
        torch.testing.assert_close(found, expected, **CLOSE)


def compare_state(run: on_device.Run, expected: State) -> None:
    """What an instruction has written of the state; all else is still NaN or -128."""
    for found, values, empty in zip(run.after, expected, (np.nan, -128)):
        found = found.cpu().numpy()
        there = ~np.isnan(found) if np.isnan(empty) else found != empty
        away = np.abs(found[there].astype(np.float64) - values[there]) > 1e-4
        assert away.mean() <= MOVED if away.size else True


def compare_instructions(case: Case, device: torch.device) -> set[int]:
    """Run each instruction on ``device`` on what the CPU has computed before it; return the operations that ran."""
    program, values = case.program, {}
    runner = OnDevice(program, device)
    for place, (operation, *arguments) in enumerate(program.code):
        run = case.started(runner)
        run.values.update(values)
        run.after.numbers.fill_(torch.nan)
        run.after.levels.fill_(-128)
        on_device._INSTRUCTIONS[operation](run, *arguments)
        expected = cut(program, place + 1).run(*case[1:])
        if operation == instructions.BEST:
            values_found, places_found = (best.flatten(0, 1).cpu() for best in run.best)
            torch.testing.assert_close(values_found, torch.from_numpy(expected.values), **CLOSE)
            assert (places_found.numpy() == expected.places).all()
            continue
        (out,) = [buffer for buffer in run.values if run.values[buffer] is not values.get(buffer, run.given)]
        wrote = written_by(program.code[: place + 1], expected, case)
        compare(operation, run.values[out], wrote)
        compare_state(run, expected.state)
        values[out] = torch.from_numpy(wrote).to(device)
    return {code[0] for code in program.code}


def translating(part_of: str) -> Case:
    programs = zoo.load("lite-snn-multi30k").programs()
    random = np.random.default_rng(0)
    tokens = random.integers(4, 4000, (7, 4))
    lengths = np.array([7, 3, 5, 1])
    tokens[np.arange(7)[:, None] >= lengths] = 0
    if part_of == "encoder":
        return Case(programs.encoder, tokens, lengths)
    width = programs.memories[0].width // 2
    memory = random.normal(0, 1, (len(programs.memories), 4, 2, width * 16)).astype(np.float32)
    context = Context(memory, 16, np.array([0, 0, 1, 2, 3, 3]), lengths)
    state = None
    for token in random.integers(4, 4000, (3, 1, 6)):
        state = programs.decoder.run(token, lengths, state, context, 1).state
    return Case(programs.decoder, random.integers(4, 4000, (1, 6)), lengths, state, context, 10)


def recognising(name: str) -> Case:
    model = zoo.load(name)
    random = np.random.default_rng(0)
    first, then = (random.normal(0, 1, (20, 2, model.bank.size)).astype(np.float32) for _ in range(2))
    program = model.programs().program
    return Case(program, then, np.full(2, 20), program.run(first, np.full(2, 20)).state)


def watching() -> Case:
    model = zoo.load("lite-snn-dvs-gesture")
    planes, height, width = model.binning.shape
    random = np.random.default_rng(0)
    shape = (3, 2, height * width * planes)
    first, then = (np.log1p(random.integers(1, 6, shape) * (random.random(shape) < 0.1)) for _ in range(2))
    program = model.programs().program
    state = program.run(first.astype(np.float32), np.full(2, 3)).state
    return Case(program, then.astype(np.float32), np.full(2, 3), state)


CASES = {
    "translator, reading": lambda: translating("encoder"),
    "translator, writing": lambda: translating("decoder"),
    "phones of LibriSpeech": lambda: recognising("improved-snn-librispeech"),
    "phones of TIMIT": lambda: recognising("improved-snn-timit"),
    "gestures": watching,
}


@pytest.mark.parametrize("device", DEVICES, ids=str)
@pytest.mark.parametrize("name", CASES)
def test_every_instruction_of_a_bundled_network_computes_what_the_compiled_kernels_do(name, device):
    compare_instructions(CASES[name](), device)


NEURONS = {
    "learnable LIF": lambda: neurons.LearnableLIF(torch.linspace(0.0, 0.95, 6), 0.7),
    "multi-bit LIF": lambda: neurons.MultiBitLIF(torch.linspace(0.0, 0.95, 6), bits=4),
    "one bit": lambda: neurons.MultiBitLIF(0.9, bits=1),
    "multi-bit synaptic LIF": lambda: neurons.MultiBitSynapticLIF(6, torch.linspace(0.1, 1.0, 6), bits=4),
    "input-gated LIF": lambda: neurons.InputGatedLIF(bits=4, threshold_levels=1),
    "recurrent-gated LIF": lambda: neurons.RecurrentGatedLIF(6, bits=6),
}


@pytest.mark.parametrize("device", DEVICES, ids=str)
@pytest.mark.parametrize("options", [{"keeps_state": True}, {"keeps_state": False, "masked": True, "backwards": True}])
@pytest.mark.parametrize("name", NEURONS)
def test_neurons_fire_and_keep_what_the_compiled_kernels_do(name, options, device):
    torch.manual_seed(0)
    neuron = NEURONS[name]().eval()
    width = neuron.inputs_per_neuron * 6
    program = Program(neuron)
    program.neuron(neuron, program.given(width + 3), first=2, inputs=width, **options)
    program.finish()
    first, then = (2 * torch.randn(9, 4, width + 3).numpy() for _ in range(2))
    lengths = np.array([9, 1, 4, 7])
    compare_instructions(Case(program, then, lengths, program.run(first, lengths).state), device)


@pytest.mark.parametrize("device", DEVICES, ids=str)
@pytest.mark.parametrize("name", [name for name in NEURONS if name != "recurrent-gated LIF"])
def test_neurons_on_a_picture_do_too(name, device):
    torch.manual_seed(0)
    neuron = NEURONS[name]().eval()
    program = Program(neuron)
    width = 15 * 6 * neuron.inputs_per_neuron
    program.neuron(neuron, program.given(width), keeps_state=True, places=15)
    x = 2 * torch.randn(4, 2, width).numpy()
    compare_instructions(Case(program.finish(), x, np.full(2, 4)), device)


@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("sides", [(1, 1), (1, 5), (6, 4), (7, 7)])
def test_convolutions_of_odd_pictures_do_too(sides, stride):
    torch.manual_seed(0)
    layers = [torch.nn.Conv2d(*sizes, 3, stride, padding=1, bias=False).eval() for sizes in ((2, 5), (5, 3))]
    program = Program(torch.nn.ModuleList(layers))
    x = program.convolution(program.given(2 * sides[0] * sides[1]), layers[0], torch.rand(5), torch.randn(5), *sides)
    spikes = program.neuron(neurons.MultiBitLIF(0.5, bits=4).eval(), x, keeps_state=False, places=x.width // 5)
    around = [-(-side // stride) for side in sides]
    program.convolution(spikes, layers[1], torch.rand(3), torch.randn(3), *around)
    counts = torch.randn(2, 3, 2 * sides[0] * sides[1]).numpy()
    ran = compare_instructions(Case(program.finish(), counts, np.full(3, 2)), CPU)
    assert {instructions.SPARSE_CONVOLUTION, instructions.PATCHES, instructions.PRODUCT} <= ran


def test_of_equal_outputs_the_earlier_is_better_and_what_cannot_come_has_no_place():
    layer = torch.nn.Linear(4, 6)
    with torch.no_grad():
        layer.weight.copy_(torch.ones(6, 4))
    program = Program(layer)
    spikes = program.neuron(neurons.MultiBitLIF(0.5, bits=4).eval(), program.given(4), keeps_state=False)
    program.best(spikes, layer.weight, torch.tensor([-torch.inf, 0, 0, -torch.inf, 0, 0]))
    x = np.ones((1, 2, 4), np.float32)
    expected = program.finish().run(x, np.ones(2, np.int64), count=8)
    found = OnDevice(program, CPU).run(x, np.ones(2, np.int64), count=8)
    assert found.places[0].tolist() == expected.places[0].tolist() == [1, 2, 4, 5, 0, 0, 0, 0]
    np.testing.assert_allclose(found.values, expected.values, atol=1e-6)


def test_an_instruction_that_is_not_there_is_named():
    program = cut(CASES["gestures"]().program, 3)
    program.code = [*program.code, [99]]
    with pytest.raises(NotInIntegers, match=r"on cpu there are no instructions number \[99\]"):
        OnDevice(program, CPU)


@pytest.mark.parametrize("name", CASES)
def far(x):
    """A tensor like ``x`` on another device, without values."""
    return x.to("meta") if isinstance(x, torch.Tensor) else x


@pytest.mark.parametrize("name", CASES)
def test_no_instruction_takes_tensors_from_elsewhere(name):
    """torch refuses operations on tensors of two devices, of which "meta" is one that is always there."""
    case = CASES[name]()
    runner = OnDevice(case.program, CPU)
    runner.run(*case[1:])
    run = case.started(runner)
    runner.constants = far(runner.constants)
    runner._matrices = {key: far(matrix) for key, matrix in runner._matrices.items()}
    run.values = {buffer: far(values) for buffer, values in run.values.items()}
    for field, value in vars(run).items():
        several = isinstance(value, on_device.Remembered | on_device.Attended)
        setattr(run, field, type(value)(*map(far, value)) if several else far(value))
    for operation, *arguments in case.program.code:
        on_device._INSTRUCTIONS[operation](run, *arguments)
    assert {values.device.type for values in [*run.values.values(), *run.after, run.strange]} == {"meta"}


# ---- Networks ----


@pytest.fixture(params=DEVICES, ids=str)
def elsewhere(request, monkeypatch):
    """A device that no compiled kernels run on: a GPU, or the CPU, of which that is said here."""
    monkeypatch.setattr(precision, "compiled", lambda device: False)
    return request.param


def in_both(model, device, action):
    """The answers of the compiled kernels and of operations on ``device``."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(precision, "compiled", lambda device: True)
        model.precision = "int8"
        expected = action(model)
    other = copy.deepcopy(model).to(device)
    found = action(other)
    assert other.last_precision == model.last_precision == "int8"
    return expected, found


@pytest.mark.parametrize("beam_size", [1, 5])
def test_translations_are_those_of_the_compiled_kernels(elsewhere, beam_size):
    for model, sentences in ((zoo.load("lite-snn-multi30k"), BUNDLED), (translator(), GERMAN)):
        expected, found = in_both(
            model, elsewhere, lambda one, text=list(sentences): one.translate_scored(text, beam_size)
        )
        assert [one.text for one in found] == [one.text for one in expected]
        assert [one.score for one in found] == pytest.approx([one.score for one in expected], abs=1e-3)


@pytest.mark.parametrize("mixer", MIXERS[:4])
def test_transcripts_are_those_of_the_compiled_kernels(elsewhere, mixer):
    torch.manual_seed(0)
    model = SpeechRecogniser(SpeechConfig(mixer=mixer, bands=8, width=12, layers=2))
    model(torch.randn(30, 4, model.bank.size))
    model.set_usual(np.full(8, 14.0), np.full(8, 2.0))
    expected, found = in_both(model.eval(), elsewhere, lambda one: one.transcribe(NOISE, rate=16_000))
    assert found.text == expected.text and found.confidence == pytest.approx(expected.confidence, abs=0.01)


@pytest.mark.parametrize("name", ["improved-snn-librispeech", "improved-snn-timit"])
def test_transcripts_of_a_bundled_network_are_those_of_the_compiled_kernels(elsewhere, name):
    expected, found = in_both(zoo.load(name), elsewhere, lambda one: one.transcribe(NOISE, rate=16_000))
    assert found.text == expected.text and found.confidence == pytest.approx(expected.confidence, abs=0.01)


def recording(model, seed: int = 0) -> dict[str, np.ndarray]:
    random, binning = np.random.default_rng(seed), model.binning
    t = np.sort(random.integers(0, 8 * binning.size, 4000))
    x, y, p = random.integers(0, [[binning.width], [binning.height], [2]], (3, len(t)))
    return {"t": t, "x": x, "y": y, "p": p}


def test_gestures_are_those_of_the_compiled_kernels(elsewhere):
    model = zoo.load("lite-snn-dvs-gesture")
    expected, found = in_both(model, elsewhere, lambda one: one.predict(recording(model)))
    assert found.label == expected.label
    assert found.probabilities == pytest.approx(expected.probabilities, abs=0.01)


@pytest.mark.parametrize("start", [True, False])
def test_a_stream_goes_on_after_a_move(start, monkeypatch):
    """The state of either executor is one for the other."""
    model = zoo.load("lite-snn-dvs-gesture", precision="int8")
    expected, whole, stream = model.predict(recording(model)), recording(model), model.stream()
    for first, compiled in ((0, start), (2000, not start)):
        monkeypatch.setattr(precision, "compiled", lambda device, compiled=compiled: compiled)
        model.output.weight.data = model.output.weight.data.clone()  # as a move does, it takes new memory
        stream.push({field: column[first : first + 2000] for field, column in whole.items()})
    assert isinstance(stream.state.numbers, torch.Tensor if start else np.ndarray)
    assert stream.answer().probabilities == pytest.approx(expected.probabilities, abs=0.01)


# ---- What runs where ----


def test_integers_are_computed_elsewhere_only_if_they_are_asked_for(elsewhere):
    model = translator().to(elsewhere)
    model.translate(GERMAN[:1])
    assert model.last_precision == "float32"
    model.precision = "int8"
    model.translate(GERMAN[:1])
    assert model.last_precision == "int8" and isinstance(model.programs().decoder, OnDevice)
    model.precision = "float32"
    model.translate(GERMAN[:1])
    assert model.last_precision == "float32"


def test_weights_are_moved_once_and_anew_only_after_a_change(elsewhere):
    model = translator().to(elsewhere)
    model.precision = "int8"
    before, programs = model.translate_scored(GERMAN), model.programs()
    kept = dict(programs.decoder._matrices), programs.decoder.constants
    assert model.translate_scored(GERMAN) == before and model.programs() is programs
    assert all(programs.decoder._matrices[key] is matrix for key, matrix in kept[0].items()) and kept[0]
    assert programs.decoder.constants is kept[1]
    model.decoder[0].output.weight.data.mul_(-1)
    assert model.translate_scored(GERMAN) != before and model.programs() is not programs


def hook(model):
    model.decoder[0].register_forward_hook(lambda *_: None)


def fused_scan(model):
    model.decoder_spikes.neuron.backend = "cpu"


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (hook, "a hook looks at its DecoderLayer"),
        (lambda model: model.half(), "float16"),
        (lambda model: model.train(), "training mode"),
        (fused_scan, 'backend="cpu"'),
    ],
    ids=["a hook", "half precision", "training", "a backend"],
)
def test_what_is_refused_on_the_cpu_is_refused_elsewhere(elsewhere, change, why):
    model = translator().to(elsewhere)
    change(model)
    model.precision = "int8"
    with pytest.raises(NotInIntegers, match=why):
        model.programs()


def test_a_device_without_integers_is_named_with_those_that_have_them():
    model = translator().to("meta")
    assert model.programs() is None and model.last_precision == "float32"
    model.precision = "int8"
    with pytest.raises(NotInIntegers, match="it is on meta; integers are computed on the CPU and on CUDA devices"):
        model.programs()


def test_on_a_gpu_auto_is_floats():
    model = translator()
    with FakeTensorMode():
        for module in model.modules():
            for name, parameter in module._parameters.items():
                if parameter is not None:
                    like = torch.empty(parameter.shape, device="cuda")  # fake, so a GPU need not be there
                    module._parameters[name] = torch.nn.Parameter(like)
    assert next(model.parameters()).device.type == "cuda"
    assert model.programs() is None and model.last_precision == "float32"


def test_a_network_on_two_devices_is_refused():
    model = translator()
    model.decoder[1].to("meta")
    model.precision = "int8"
    with pytest.raises(NotInIntegers, match="it is on cpu and on meta; integers are computed on one device"):
        model.programs()


def test_a_gpu_on_which_torch_multiplies_no_integers_is_named(elsewhere, monkeypatch):
    def unsupported(*_):
        raise RuntimeError("_int_mm_out_cuda not compiled for this platform.\nmore")

    model = translator().to(elsewhere)
    model.precision = "int8"
    on_device.why_not.cache_clear()
    with monkeypatch.context() as patch:
        patch.setattr(torch, "_int_mm", unsupported)
        patch.setattr(on_device, "has_integer_units", lambda: True)
        with pytest.raises(NotInIntegers, match=r"does not multiply integers on .*: _int_mm_out_cuda not compiled"):
            model.programs()
    on_device.why_not.cache_clear()
    assert isinstance(model.programs().decoder, OnDevice)


def test_a_membrane_that_is_nan_is_an_error_elsewhere_too(elsewhere):
    model = translator()
    with torch.no_grad():
        model.decoder[1].mixer.norm.bias[0] = float("nan")
    model.to(elsewhere).precision = "int8"
    with pytest.raises(ValueError, match="a membrane is NaN"):
        model.translate(GERMAN[:1])


def test_threads_do_not_disturb_one_another(elsewhere):
    model = translator().to(elsewhere)
    model.precision = "int8"
    expected, found = [model.translate(GERMAN[i:]) for i in range(3)], [None] * 3

    def work(place):
        found[place] = model.translate(GERMAN[place:])

    workers = [threading.Thread(target=work, args=(place,)) for place in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert found == expected


def test_weights_are_rounded_where_they_are(elsewhere):
    model, other = translator().to(elsewhere), translator()
    model.round_weights()
    other.round_weights()
    assert all(torch.equal(mine.cpu(), its) for mine, its in zip(model.parameters(), other.parameters()))


def test_logits_of_every_token_are_close(elsewhere):
    model = translator().to(elsewhere)
    source = token_batch(model, 0)
    programs = translator().lower()
    found, expected = (
        run.reading(source)[0](np.full(5, 1), None, np.arange(5), 7)[0]
        for run in (on_device.on_device(model.lower(), elsewhere), programs)
    )
    np.testing.assert_allclose(found.log_probabilities, expected.log_probabilities, atol=1e-3)

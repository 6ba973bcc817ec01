"""Bad input to a neuron is one clear error that says what was wrong and what would be right."""

import inspect
import re

import numpy as np
import pytest
import torch
from registered import EVERY, MULTI_BIT, build, currents

import neurons
from neurons import kernels
from neurons.checks import Setting
from neurons.spike import check_bits

every_neuron = pytest.mark.parametrize("name", EVERY)
multi_bit_neuron = pytest.mark.parametrize("name", MULTI_BIT)
TWO_HALVES = ["input-gated-lif", "recurrent-gated-lif"]
NAN, INF = float("nan"), float("inf")


def raises(error, *says):
    """Expect exactly this type of error, whose message holds all of ``says`` in this order."""
    return pytest.raises(error, match=".*".join(re.escape(part) for part in says))


def both_ways(neuron):
    """A call on a sequence and a call on a step, each with the index of the first dimension after time."""
    return (neuron, "[T, B, C, ...]"), (neuron.single_step, "[B, C, ...]")


# Input


@every_neuron
@pytest.mark.parametrize("wrong", [None, 3.0, [[[1.0]]], "current"])
def test_input_that_is_no_tensor_is_refused(name, wrong):
    for call, layout in both_ways(build(name, 3)):
        with raises(
            TypeError, "LIF" if "lif" in name else "Integrator", f"takes a tensor {layout}", type(wrong).__name__
        ):
            call(wrong)


@every_neuron
@pytest.mark.parametrize("dtype", [torch.int64, torch.uint8, torch.bool, torch.complex64])
def test_input_that_is_not_floating_point_is_refused(name, dtype):
    neuron = build(name, 3)
    x = currents(neuron, 4, 2, 3, seed=0).to(dtype)
    for call, given in ((neuron, x), (neuron.single_step, x[0])):
        with raises(TypeError, "takes floating-point input", str(dtype), ".float()"):
            call(given)


@every_neuron
def test_sparse_input_is_refused(name):
    neuron = build(name, 3)
    x = currents(neuron, 4, 2, 3, seed=0)
    for call, given in ((neuron, x), (neuron.single_step, x[0])):
        with raises(TypeError, "takes a dense tensor; got one of layout torch.sparse_coo", ".to_dense()"):
            call(given.to_sparse())


@every_neuron
def test_input_of_too_few_dimensions_is_refused(name):
    neuron = build(name, 3)
    for call, layout in both_ways(neuron):
        with raises(ValueError, f"takes input of shape {layout}", "got [6]"):
            call(torch.zeros(6))
    with raises(ValueError, "takes input of shape [T, B, C, ...]", "got [4, 6]"):
        neuron(torch.zeros(4, 6))


@pytest.mark.parametrize("name", TWO_HALVES)
@pytest.mark.parametrize("channels", [1, 5, 7])
def test_an_odd_number_of_channels_where_two_halves_are_needed_is_refused(name, channels):
    neuron = build(name, 3)
    for call, shape in ((neuron, (4, 2, channels)), (neuron.single_step, (2, channels))):
        with raises(ValueError, "takes 2 input channels per neuron", "a multiple of 2", f"got {channels}"):
            call(torch.zeros(shape))


SIZED = [
    ("multibit-synaptic-lif", {"channels": 3}),
    ("recurrent-gated-lif", {"channels": 3}),
    ("learnable-lif", {"leak": torch.full((3,), 0.9)}),
    ("learnable-lif", {"threshold": torch.ones(3)}),
    ("multibit-lif", {"leak": torch.full((3,), 0.9)}),
]


@pytest.mark.parametrize(("name", "size"), SIZED)
@pytest.mark.parametrize("neurons_given", [1, 2, 4])
def test_another_number_of_channels_than_the_neuron_has_is_refused(name, size, neurons_given):
    neuron = neurons.create(name, **size)
    per = neuron.inputs_per_neuron
    for call, shape in ((neuron, (4, 2, per * neurons_given)), (neuron.single_step, (2, per * neurons_given))):
        with raises(ValueError, f"has 3 neurons and takes {3 * per} channels", f"got {per * neurons_given}"):
            call(torch.zeros(shape))


def test_dimensions_beyond_the_channels_where_the_recurrence_has_no_place_for_them_are_refused():
    # As many pixels as neurons: the matrix product alone would not raise.
    neuron = build("recurrent-gated-lif", 3)
    with raises(ValueError, "takes input of shape [T, B, 2N]", "got [4, 2, 6, 3]"):
        neuron(torch.zeros(4, 2, 6, 3))
    with raises(ValueError, "takes input of shape [B, 2N]", "got [2, 6, 3]"):
        neuron.single_step(torch.zeros(2, 6, 3))


@pytest.mark.parametrize("name", [n for n in EVERY if n not in ("integrator",)])
def test_input_on_another_device_than_the_neuron_is_refused(name):
    neuron = build(name, 3)
    x = currents(neuron, 4, 2, 3, seed=0).to("meta")
    for call, given in ((neuron, x), (neuron.single_step, x[0])):
        with raises(ValueError, "is on cpu and its input on meta", ".to(device)"):
            call(given)


# State


def good(name):
    """A neuron, input, and a state that fits it."""
    neuron = build(name, 3)
    x = currents(neuron, 4, 2, 3, seed=0)
    return neuron, x, neuron.initial_state(x)


def refused(neuron, x, state, error, *says):
    for call, given in ((neuron, x), (neuron.single_step, x[0])):
        with raises(error, type(neuron).__name__, *says):
            call(given, state)


@every_neuron
def test_a_state_that_fits_is_taken_as_a_named_tuple_a_tuple_or_a_list(name):
    neuron, x, state = good(name)
    for same in (state, tuple(state), list(state)):
        assert type(neuron(x, same)[1]) is neuron.State
        assert type(neuron.single_step(x[0], same)[1]) is neuron.State


@every_neuron
@pytest.mark.parametrize("wrong", [3, "state", {"membrane": torch.zeros(2, 3)}, torch.zeros(3, 2, 3)])
def test_a_state_that_is_no_tuple_of_tensors_is_refused(name, wrong):
    neuron, x, _ = good(name)
    fields = ", ".join(neuron.State._fields)
    refused(neuron, x, wrong, ValueError, f"takes a state of {len(neuron.State._fields)} tensors ({fields})", "got")


@every_neuron
def test_a_state_of_too_many_or_too_few_parts_is_refused(name):
    neuron, x, state = good(name)
    count = len(state)
    refused(neuron, x, (*state, state[0]), ValueError, f"takes a state of {count} tensors", f"got {count + 1} parts")
    refused(neuron, x, (), ValueError, f"takes a state of {count} tensors", "got 0 parts")


@every_neuron
def test_each_part_of_a_state_is_checked_and_named(name):
    neuron, x, state = good(name)
    for field in state._fields:

        def with_part(part, state=state, field=field):
            return state._replace(**{field: part})

        refused(neuron, x, with_part(None), TypeError, f"the state's {field} must be a tensor", "NoneType")
        refused(neuron, x, with_part(0.0), TypeError, f"the state's {field} must be a tensor", "float")
        refused(
            neuron, x, with_part(torch.zeros(5, 3)), ValueError, f"the state's {field} has shape [5, 3]", "needs [2, 3]"
        )
        # Shapes that would broadcast are wrong too.
        refused(neuron, x, with_part(torch.zeros(1, 3)), ValueError, f"the state's {field} has shape [1, 3]", "[2, 3]")
        refused(neuron, x, with_part(torch.zeros(())), ValueError, f"the state's {field} has shape []", "[2, 3]")
        refused(
            neuron, x, with_part(torch.zeros(2, 3, device="meta")), ValueError, f"the state's {field} is on meta", "cpu"
        )
        for dtype in (torch.float64, torch.int64, torch.float16):
            refused(
                neuron,
                x,
                with_part(torch.zeros(2, 3, dtype=dtype)),
                TypeError,
                f"the state's {field} is {dtype}",
                "torch.float32 input keeps its state in torch.float32",
            )


@every_neuron
def test_the_state_of_half_precision_input_must_be_float32(name):
    neuron, x, state = good(name)
    half = state._replace(**{field: part.half() for field, part in state._asdict().items()})
    refused(
        neuron, x.half(), half, TypeError, "is torch.float16", "torch.float16 input keeps its state in torch.float32"
    )


@pytest.mark.parametrize("name", TWO_HALVES)
def test_a_state_of_the_inputs_width_where_two_inputs_go_to_a_neuron_is_refused(name):
    neuron, x, state = good(name)
    wide = state._replace(membrane=torch.zeros(2, 6))
    refused(neuron, x, wide, ValueError, "the state's membrane has shape [2, 6]", "this input needs [2, 3]")


@multi_bit_neuron
def test_a_refused_call_leaves_the_tracked_range_as_it_was(name):
    neuron, x, state = good(name)
    with pytest.raises(ValueError):
        neuron(x, state._replace(membrane=torch.zeros(5, 3)))
    neuron.finish_sequence()
    assert neuron.spike_range.updates == 0


# Construction


@multi_bit_neuron
@pytest.mark.parametrize("bits", [0, -1, 9, 16, 31, 33, 2.0, 4.5, "4", None, True])
def test_bits_outside_the_range_are_refused(name, bits):
    with raises(ValueError, "bits must be a whole number from 1 to 8, or 32 for full precision", f"got {bits!r}"):
        build(name, 3, bits=bits)


# At b bits the top level is 2^(b-1) - 1 (1 at one bit), and at least one level must be left to fire.
@multi_bit_neuron
@pytest.mark.parametrize(
    ("bits", "highest"), [(1, 0), (2, 0), (3, 2), (4, 6), (5, 14), (6, 30), (7, 62), (8, 126), (32, 0)]
)
def test_a_threshold_above_which_no_level_is_left_is_refused(name, bits, highest):
    assert build(name, 3, bits=bits, threshold_levels=highest).threshold_levels == highest
    for wrong in (highest + 1, -1, 0.5, None):
        with raises(
            ValueError, f"threshold_levels must be a whole number from 0 to {highest} at {bits} bits", f"got {wrong!r}"
        ):
            build(name, 3, bits=bits, threshold_levels=wrong)


@pytest.mark.parametrize("bits", [*range(1, 9), 32])
def test_the_highest_threshold_still_fires(bits):
    highest = max(2 ** (bits - 1) - 2, 0) if bits < 32 else 0
    check_bits(bits, highest)
    assert neurons.MultiBitSpike(torch.tensor(1.0), bits, highest)(torch.tensor(1.0)) > 0


@multi_bit_neuron
@pytest.mark.parametrize("initial_range", [0, -1.0, 1e-30, INF, NAN, 1e300, "wide", None])
def test_an_initial_range_that_is_no_positive_number_is_refused(name, initial_range):
    with raises(ValueError, "initial_range must be a finite number of membrane units", f"got {initial_range!r}"):
        build(name, 3, initial_range=initial_range)


@multi_bit_neuron
@pytest.mark.parametrize("tracking", ["steps", "", None, 1])
def test_an_unknown_range_tracking_is_refused(name, tracking):
    with raises(ValueError, "range tracking must be one of sequence, step, fixed", f"got {tracking!r}"):
        build(name, 3, range_tracking=tracking)


@multi_bit_neuron
@pytest.mark.parametrize("momentum", [0, -0.1, 1.1, NAN, "slow", None])
def test_a_range_momentum_outside_zero_to_one_is_refused(name, momentum):
    with raises(ValueError, "range momentum must lie in (0, 1]", f"got {momentum!r}"):
        build(name, 3, range_momentum=momentum)


@pytest.mark.parametrize("name", ["learnable-lif", "multibit-lif"])
def test_a_leak_that_is_neither_one_number_nor_one_per_channel_is_refused(name):
    with raises(ValueError, "leak is one number, or one per channel [N]", "got shape [2, 3]"):
        neurons.create(name, leak=torch.ones(2, 3))
    for wrong in ("slow", None, ["slow"]):
        with raises(TypeError, "leak is one number, or one per channel [N]", f"got {wrong!r}"):
            neurons.create(name, leak=wrong)


@pytest.mark.parametrize("threshold", [0.0, -1.0, NAN, torch.tensor([1.0, 0.0])])
def test_a_threshold_that_is_not_positive_is_refused(threshold):
    with raises(ValueError, "threshold must be positive", "got"):
        neurons.LearnableLIF(threshold=threshold)


def test_a_threshold_that_is_neither_one_number_nor_one_per_channel_is_refused():
    with raises(ValueError, "threshold is one number, or one per channel [N]", "got shape [2, 3]"):
        neurons.LearnableLIF(threshold=torch.ones(2, 3))


def test_a_leak_and_a_threshold_for_different_numbers_of_channels_are_refused():
    with raises(ValueError, "leak and threshold", "one length", "got 3 and 4"):
        neurons.LearnableLIF(leak=torch.full((3,), 0.9), threshold=torch.ones(4))


@pytest.mark.parametrize("name", ["multibit-synaptic-lif", "recurrent-gated-lif"])
@pytest.mark.parametrize("channels", [0, -3, 2.0, "3", None, True])
def test_a_number_of_channels_that_is_none_is_refused(name, channels):
    with raises(ValueError, "channels is the number of neurons, a whole number of at least 1", f"got {channels!r}"):
        neurons.create(name, channels=channels)


@every_neuron
def test_an_option_that_the_neuron_does_not_have_is_refused(name):
    size = {"channels": 3} if build(name, 3).channels else {}
    with raises(TypeError, "bitz"):
        neurons.create(name, **size, bitz=3)


# A value that is not a number, for every option


def options(name):
    """The names of all options of the constructor, and of the spike's options if it fires multi-bit spikes."""
    classes = [neurons.neuron_class(name), *([neurons.MultiBitNeuron] if name in MULTI_BIT else [])]
    found = [p for one in classes for p in inspect.signature(one).parameters.values()]
    return sorted({p.name for p in found if p.kind is p.POSITIONAL_OR_KEYWORD})


EVERY_OPTION = [(name, option) for name in EVERY for option in options(name)]
NONSENSE = [
    "x",
    None,
    NAN,
    INF,
    -INF,
    -3,
    1j,
    [],
    {},
    object(),
    torch.tensor([NAN, 0.5]),
    torch.zeros(0),
    np.float64("nan"),
]


@pytest.mark.parametrize("library", neurons.registry.LIBRARIES)
@pytest.mark.parametrize(("name", "option"), EVERY_OPTION)
@pytest.mark.parametrize("wrong", NONSENSE, ids=lambda wrong: str(wrong)[:20])
def test_nonsense_is_refused_by_the_name_of_the_option(name, option, wrong, library):
    size = {"channels": 3} if build(name, 3).channels else {}
    with raises((ValueError, TypeError), option.replace("range_", ""), "got"):
        neurons.create(name, library=library, **size | {option: wrong})


@pytest.mark.parametrize(("name", "option"), [(n, o) for n, o in EVERY_OPTION if not o.startswith("learn_")])
def test_a_bool_is_no_number(name, option):
    size = {"channels": 3} if build(name, 3).channels else {}
    for wrong in (True, torch.tensor(True)):
        with raises((ValueError, TypeError), option.replace("range_", ""), "got"):
            neurons.create(name, **size | {option: wrong})


@pytest.mark.parametrize(("name", "option"), [(n, o) for n, o in EVERY_OPTION if o.startswith("learn_")])
def test_a_number_is_no_bool(name, option):
    size = {"channels": 3} if build(name, 3).channels else {}
    for wrong in (1, 0, "yes"):
        with raises(ValueError, f"{option} must be True or False", f"got {wrong!r}"):
            neurons.create(name, **size | {option: wrong})


@pytest.mark.parametrize("name", ["learnable-lif", "multibit-lif"])
@pytest.mark.parametrize("leak", [-3, -1e-6, 1.0001, 2.0, torch.tensor([0.5, 1.5]), np.float32(1.5)])
def test_a_leak_outside_zero_to_one_is_refused(name, leak):
    with raises(ValueError, "leak must lie in [0, 1]", "got"):
        neurons.create(name, leak=leak)


@pytest.mark.parametrize("library", neurons.registry.LIBRARIES)
@pytest.mark.parametrize("name", ["learnable-lif", "multibit-lif"])
def test_a_time_constant_for_a_leak_is_told_the_leak_that_it_makes(name, library):
    with raises(ValueError, "SpikingJelly's tau is no leak", "1 - 1/tau = 0.5", "got 2"):
        neurons.create(name, 2.0, library=library)


@pytest.mark.parametrize("tau", [-0.1, 1.5, torch.tensor([0.5, 0.5, 2.0])])
def test_a_synaptic_decay_outside_zero_to_one_is_refused(tau):
    with raises(ValueError, "tau must lie in [0, 1]", "got"):
        neurons.MultiBitSynapticLIF(3, tau=tau)


def test_a_synaptic_decay_per_channel_fits_the_channels():
    assert neurons.MultiBitSynapticLIF(3, tau=torch.tensor([0.1, 0.2, 0.3])).tau.tolist() == pytest.approx(
        [0.1, 0.2, 0.3]
    )
    with raises(ValueError, "tau is one number, or one per channel: 3 here", "got 2"):
        neurons.MultiBitSynapticLIF(3, tau=[0.1, 0.2])


@pytest.mark.parametrize("threshold", [1e-4, INF, 1e-60])
def test_a_threshold_that_would_be_clipped_where_it_is_used_is_refused(threshold):
    with raises(ValueError, "threshold must be positive, 0.001 at least", "got"):
        neurons.LearnableLIF(threshold=threshold)


@pytest.mark.parametrize("gamma", [0, -0.3, 1e300, 1e-300, torch.tensor(0.3), None])
def test_a_height_of_the_surrogate_that_is_no_positive_number_is_refused(gamma):
    with raises(ValueError, "gamma must be a finite number above 0", "got"):
        neurons.LearnableLIF(gamma=gamma)


@pytest.mark.parametrize(
    ("surrogate", "hint"),
    [("arctn", 'did you mean "arctan"?'), ("Triangular", 'did you mean "triangular"?'), (["arctan"], ""), (None, "")],
)
def test_an_unknown_surrogate_gradient_is_refused_with_the_names_that_there_are(surrogate, hint):
    with raises(ValueError, 'surrogate must be "triangular" or "arctan"', f"got {surrogate!r}", hint):
        neurons.LearnableLIF(surrogate=surrogate)


@pytest.mark.parametrize("scan", ["torch", "cpu"])
def test_an_unknown_surrogate_gradient_is_refused_by_the_scan_itself(scan):
    x, state = torch.ones(4, 2, 3), neurons.MembraneState(torch.zeros(2, 3))
    constants = neurons.LearnableLIFParameters(torch.tensor(0.9), torch.tensor(1.0), 0.3, "arctn")
    with raises(ValueError, 'surrogate must be "triangular" or "arctan"', 'did you mean "arctan"?'):
        if scan == "torch":
            neurons.reference_scan(neurons.learnable_lif_step, x, state, constants)
        else:
            kernels.scan("learnable-lif", x, state, constants)


def test_numbers_of_numpy_are_numbers():
    lif = neurons.LearnableLIF(leak=np.float32(0.5), threshold=np.float64(2), gamma=np.float32(0.5))
    assert (lif.leak, lif.threshold, lif.gamma, type(lif.gamma)) == (0.5, 2, 0.5, float)
    gated = neurons.RecurrentGatedLIF(np.int64(3), bits=np.int32(5), threshold_levels=np.int64(2))
    assert (gated.channels, gated.bits, gated.threshold_levels, type(gated.bits)) == (3, 5, 2, int)
    assert neurons.MultiBitLIF(leak=np.array([0.1, 0.9])).channels == 2


# Settings that are set later


@pytest.mark.parametrize("library", neurons.registry.LIBRARIES)
@every_neuron
def test_a_setting_that_is_set_later_is_checked_as_in_the_constructor(name, library):
    size = {"channels": 3} if build(name, 3).channels else {}
    neuron = neurons.create(name, library=library, **size)
    settings = [
        (module, setting)
        for module in neuron.modules()
        for setting in {
            s for base in type(module).__mro__ for s, value in vars(base).items() if isinstance(value, Setting)
        }
    ]
    for module, setting in [*settings, (neuron, "backend")]:
        before = getattr(module, setting)
        for wrong in ("x", None, NAN, 0.5j, *([-1] if setting != "channel_dim" else [])):
            with pytest.raises(ValueError, match=f"{setting} must"):
                setattr(module, setting, wrong)
            assert getattr(module, setting) == before
        setattr(module, setting, before)


@multi_bit_neuron
def test_bits_and_threshold_set_later_leave_a_level_that_fires(name):
    neuron = build(name, 3, bits=4, threshold_levels=6)
    with raises(ValueError, "threshold_levels must be a whole number from 0 to 2 at 3 bits", "got 6"):
        neuron.bits = 3
    with raises(ValueError, "threshold_levels must be a whole number from 0 to 6 at 4 bits", "got 7"):
        neuron.threshold_levels = 7
    neuron.bits = 32  # and back, as in training that begins in full precision
    neuron.bits, neuron.threshold_levels = 4, 2
    neuron.bits = 3
    assert (neuron.bits, neuron.threshold_levels) == (3, 2)

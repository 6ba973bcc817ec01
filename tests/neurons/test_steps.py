"""Each neuron on a few steps worked out by hand: outputs, state and gradients.

In the multi-bit neurons the range is chosen so that one level is one unit of membrane: at three bits
r = 4 * 0.9999, so that s = 1 and Q truncates the membrane towards zero to a whole number between -3 and 3.
"""

import copy
import math
import pickle

import pytest
import torch
from torch import nn

import neurons
from neurons.neuron import clip
from neurons.spike import MARGIN
from neurons.surrogate import SURROGATES

UNIT_LEVELS = {"bits": 3, "initial_range": 4 * MARGIN, "range_tracking": "fixed"}
LN3 = math.log(3)  # sigmoid(ln 3) = 3/4, sigmoid(-ln 3) = 1/4, sigmoid(0) = 1/2


def sequence(*steps) -> torch.Tensor:
    """``[T, 1, C]`` from one number or one list of channels per step."""
    return torch.tensor([[s if isinstance(s, list) else [s]] for s in steps], dtype=torch.float32)


def trajectory(neuron, x_seq):
    """Outputs and the states after every step, one step at a time."""
    outputs, states, state = [], [], None
    for x in x_seq:
        y, state = neuron.single_step(x, state)
        outputs.append(y)
        states.append(state)
    return torch.stack(outputs), states


def check_trajectory(neuron, x_seq, y_seq, **state_seq) -> None:
    """Assert that single steps give the outputs and every state, and every backend's scan outputs and last state."""
    assert set(state_seq) == set(neuron.State._fields)
    y, states = trajectory(neuron, x_seq)
    torch.testing.assert_close(y, y_seq, atol=1e-5, rtol=1e-5)
    for field, expected in state_seq.items():
        torch.testing.assert_close(torch.stack([getattr(s, field) for s in states]), expected, atol=1e-5, rtol=1e-5)
    for backend in ("torch", "auto"):
        neuron.backend = backend
        y, state = neuron(x_seq)
        torch.testing.assert_close(y, y_seq, atol=1e-5, rtol=1e-5)
        for field, expected in state_seq.items():
            torch.testing.assert_close(getattr(state, field), expected[-1], atol=1e-5, rtol=1e-5)


@pytest.fixture(params=["torch", "auto"])
def run_by(request):
    """Make a neuron's scan run as the step repeated in plain torch, or with the default backend."""

    def run(neuron):
        neuron.backend = request.param
        return neuron

    return run


def check_gradient(actual, *expected) -> None:
    torch.testing.assert_close(actual.flatten(), torch.tensor(expected), atol=1e-5, rtol=1e-5)


# Trajectories


def test_learnable_lif_by_hand():
    # U before the reset, leak 1/2 and threshold 2:
    #   1.5 | 0.75 + 1.5 = 2.25 fires, 0.25 left | 0.125 + 1 = 1.125 | 0.5625 + 3 = 3.5625 fires, 1.5625 left
    #   0.78125 - 1 = -0.21875 | -0.109375 + 2.109375 = 2, at the threshold, not above it | 1 + 1.5 = 2.5 fires
    check_trajectory(
        neurons.LearnableLIF(leak=0.5, threshold=2.0),
        sequence(1.5, 1.5, 1, 3, -1, 2.109375, 1.5),
        sequence(0, 1, 0, 1, 0, 0, 1),
        membrane=sequence(1.5, 0.25, 1.125, 1.5625, -0.21875, 2.0, 0.5),
    )


def test_learnable_lif_with_one_leak_and_threshold_per_channel_by_hand():
    # leak 0: U = x.  leak 1, threshold 1: 0.75 | 1.5 fires, 0.5 left | 1.25 fires, 0.25 left
    check_trajectory(
        neurons.LearnableLIF(leak=torch.tensor([0.0, 1.0]), threshold=torch.tensor([2.0, 1.0])),
        sequence([0.75, 0.75], [2.5, 0.75], [0.75, 0.75]),
        sequence([0, 0], [1, 1], [0, 1]),
        membrane=sequence([0.75, 0.75], [0.5, 0.5], [0.75, 0.25]),
    )


def test_integrator_by_hand():
    check_trajectory(neurons.Integrator(), sequence(1, -2, 4), sequence(1, -1, 3), membrane=sequence(1, -1, 3))


def test_multibit_lif_by_hand():
    # U before the reset, leak 1/2: 2.5 | 0.25 - 3 = -2.75 | -0.375 + 0.5 = 0.125 | 0.0625 + 9 = 9.0625, clipped
    #   3.03125 - 1.5 = 1.53125
    check_trajectory(
        neurons.MultiBitLIF(leak=0.5, **UNIT_LEVELS),
        sequence(2.5, -3, 0.5, 9, -1.5),
        sequence(2, -2, 0, 3, 1),
        membrane=sequence(0.5, -0.75, 0.125, 6.0625, 0.53125),
    )


def test_multibit_lif_holds_back_spikes_up_to_the_threshold_by_hand():
    # Threshold of one level. U: 1.5, q = 1 held back | 0.75 + 1.75 = 2.5 | 0.25 - 1.75 = -1.5 held back | -0.75 - 2
    check_trajectory(
        neurons.MultiBitLIF(leak=0.5, threshold_levels=1, **UNIT_LEVELS),
        sequence(1.5, 1.75, -1.75, -2),
        sequence(0, 2, 0, -2),
        membrane=sequence(1.5, 0.5, -1.5, -0.75),
    )


def test_multibit_lif_at_one_bit_by_hand():
    # One positive level of one unit. U: 0.6 | 0.3 + 0.8 = 1.1 fires | 0.05 - 5 = -4.95 | -2.475 + 7 = 4.525 fires
    check_trajectory(
        neurons.MultiBitLIF(leak=0.5, bits=1, initial_range=2 * MARGIN, range_tracking="fixed"),
        sequence(0.6, 0.8, -5, 7),
        sequence(0, 1, 0, 1),
        membrane=sequence(0.6, 0.1, -4.95, 3.525),
    )


def test_multibit_lif_at_two_bits_by_hand():
    # Levels -1, 0, 1. U: 0.6 | 0.3 + 0.8 = 1.1 | 0.05 - 5 = -4.95 | -1.975 + 1.5 = -0.475
    check_trajectory(
        neurons.MultiBitLIF(leak=0.5, bits=2, initial_range=2 * MARGIN, range_tracking="fixed"),
        sequence(0.6, 0.8, -5, 1.5),
        sequence(0, 1, -1, 0),
        membrane=sequence(0.6, 0.1, -3.95, -0.475),
    )


def test_multibit_lif_at_full_precision_by_hand():
    # Clip to [-2, 2]. U: 3 | 0.5 - 0.25 = 0.25 | -7 | -2.5
    check_trajectory(
        neurons.MultiBitLIF(leak=0.5, bits=32, initial_range=2.0, range_tracking="fixed"),
        sequence(3, -0.25, -7, 0),
        sequence(2, 0.25, -2, -2),
        membrane=sequence(1, 0, -5, -0.5),
    )


def test_multibit_synaptic_lif_by_hand():
    # tau 1/2: I = 1.5 | 0.75 + 0.5 = 1.25 | 0.625 - 3 = -2.375;  V = 1.5 | 0.5 + 1.25 | 0.75 - 2.375 = -1.625
    # tau 1:   I = 1.5 | 1.75 | 1.25;                              V = 1.5 | 0.5 + 1.75 | 0.25 + 1.25
    neuron = neurons.MultiBitSynapticLIF(2, **UNIT_LEVELS)
    assert torch.equal(neuron.tau, torch.ones(2)), "tau starts at 1"
    neuron.tau.data[0] = 0.5
    check_trajectory(
        neuron,
        sequence([1.5, 1.5], [0.5, 0.25], [-3, -0.5]),
        sequence([1, 1], [1, 2], [-1, 1]),
        synaptic_current=sequence([1.5, 1.5], [1.25, 1.75], [-2.375, 1.25]),
        membrane=sequence([0.5, 0.5], [0.75, 0.25], [-0.625, 0.5]),
    )


def test_input_gated_lif_by_hand():
    # F = 1/2: I = 3/2, V = 1.5
    # F = 3/4: I = 1.125 + 5/4 = 2.375, V = 0.5 + 2.375
    # F = 1/4, C = relu(-4) = 0: I = 0.59375, V = 0.875 + 0.59375
    # F = 1/2, C = 0: I = 0.296875, V = 0.46875 + 0.296875
    check_trajectory(
        neurons.InputGatedLIF(**UNIT_LEVELS),
        sequence([0, 3], [LN3, 5], [-LN3, -4], [0, -1]),
        sequence(1, 2, 1, 0),
        synaptic_current=sequence(1.5, 2.375, 0.59375, 0.296875),
        membrane=sequence(0.5, 0.875, 0.46875, 0.765625),
    )


def test_the_gate_half_comes_first_and_pairs_channel_by_channel():
    # Neuron 0 keeps its current (F near 1), neuron 1 replaces it by the input (F near 0).
    _, state = neurons.InputGatedLIF(**UNIT_LEVELS)(sequence([40, -40, 2, 2]))
    torch.testing.assert_close(state.synaptic_current, torch.tensor([[0.0, 2.0]]))


def recurrent_by_hand() -> neurons.RecurrentGatedLIF:
    """Spikes of neuron 0 raise its own f by ln 3 and neuron 1's c by 1; those of neuron 1 raise neuron 0's c by 2."""
    neuron = neurons.RecurrentGatedLIF(2, **UNIT_LEVELS)
    neuron.recurrent_weight.data = torch.tensor([[LN3, 0, 0, 1], [0, 0, 2, 0]])
    return neuron


def test_recurrent_gated_lif_by_hand():
    # 1: f = 0, 0        c = 3, 1              I = 1.5, 0.5          V = 1.5, 0.5         y = 1, 0
    # 2: f = ln 3, 0     c = 1, 2 + 1          I = 1.125 + 0.25,     V = 0.5 + 1.375,     y = 1, 2
    #                                              0.25 + 1.5            0.5 + 1.75
    # 3: f = -ln 3 + ln 3, ln 3                I = 0.6875 + 1.5,     V = 0.875 + 2.1875,  y = 3, 1
    #    c = -1 + 2 * 2, -2 + 1 (relu 0)           0.75 * 1.75           0.25 + 1.3125
    check_trajectory(
        recurrent_by_hand(),
        sequence([0, 0, 3, 1], [0, 0, 1, 2], [-LN3, LN3, -1, -2]),
        sequence([1, 0], [1, 2], [3, 1]),
        synaptic_current=sequence([1.5, 0.5], [1.375, 1.75], [2.1875, 1.3125]),
        membrane=sequence([0.5, 0.5], [0.875, 0.25], [0.0625, 0.5625]),
        spikes=sequence([1, 0], [1, 2], [3, 1]),
    )


def test_the_recurrent_weight_starts_orthogonal():
    weight = neurons.RecurrentGatedLIF(5).recurrent_weight
    torch.testing.assert_close(weight @ weight.T, torch.eye(5))


def test_multibit_lif_with_a_leak_of_one_is_the_published_input_encoder():
    x = torch.randn(12, 3, 4, generator=torch.Generator().manual_seed(0))
    encoder = neurons.MultiBitLIF(leak=1.0, bits=6, threshold_levels=3, initial_range=2.0).eval()
    accumulator, spikes = torch.zeros(3, 4), []
    for step in x:
        accumulator = accumulator + step
        spikes.append(encoder.spike()(accumulator))
        accumulator = accumulator - spikes[-1]
    assert torch.equal(encoder(x)[0], torch.stack(spikes))


# Gradients


def test_learnable_lif_gradients_by_hand(run_by):
    # leak 1/2, threshold 2, L = s1 + s2 + s3, M the membrane before the reset, u = M/2 - 1, g = 0.3 max(0, 1 - |u|):
    #   M = 1.5, 2.25, 1.125   u = -0.25, 0.125, -0.4375   s = 0, 1, 0   g = 0.225, 0.2625, 0.16875   U = 1.5, 0.25
    # ds/dM = g/2, ds/dtheta = -g M / 4; dU/dM = 1 and dU/dtheta = -s, as the reset passes nothing through s.
    #   dL/dM3 = 0.084375
    #   dL/dU2 = 0.0421875     dL/dM2 = 0.0421875 + 0.13125 = 0.1734375
    #   dL/dU1 = 0.08671875    dL/dM1 = 0.08671875 + 0.1125 = 0.19921875
    #   leak: dL/dM2 U1 + dL/dM3 U2 = 0.26015625 + 0.02109375
    #   theta: -(0.225 * 1.5 + 0.2625 * 2.25 + 0.16875 * 1.125) / 4 - dL/dU2 = -0.2794921875 - 0.0421875
    neuron = run_by(neurons.LearnableLIF(leak=0.5, threshold=2.0))
    x = sequence(1.5, 1.5, 1).requires_grad_()
    neuron(x)[0].sum().backward()
    check_gradient(x.grad, 0.19921875, 0.1734375, 0.084375)
    check_gradient(neuron.leak.grad, 0.28125)
    check_gradient(neuron.threshold.grad, -0.3216796875)


def test_learnable_lif_gradients_with_the_arctan_surrogate_by_hand(run_by):
    # As above, with g = 1 / (1 + u^2):
    #   M = -2, 4, -4   u = -2, 1, -3   s = 0, 1, 0   g = 0.2, 0.5, 0.1   U = -2, 2
    #   dL/dM3 = 0.05
    #   dL/dU2 = 0.025    dL/dM2 = 0.025 + 0.25 = 0.275
    #   dL/dU1 = 0.1375   dL/dM1 = 0.1375 + 0.1 = 0.2375
    #   leak: dL/dM2 U1 + dL/dM3 U2 = -0.55 + 0.1
    #   theta: -(0.2 * -2 + 0.5 * 4 + 0.1 * -4) / 4 - dL/dU2 = -0.3 - 0.025
    neuron = run_by(neurons.LearnableLIF(leak=0.5, threshold=2.0, gamma=1.0, surrogate="arctan"))
    x = sequence(-2, 5, -5).requires_grad_()
    neuron(x)[0].sum().backward()
    check_gradient(x.grad, 0.2375, 0.275, 0.05)
    check_gradient(neuron.leak.grad, -0.45)
    check_gradient(neuron.threshold.grad, -0.325)


def test_the_reset_of_learnable_lif_passes_gradient_to_the_threshold_and_not_through_the_spike(run_by):
    # U2 = (U1 / 2 + x2) - 2 s2 with s1 = 0, s2 = 1: by x it is 1/2 and 1, by leak U1 = 1.5, by theta -s2 = -1.
    neuron = run_by(neurons.LearnableLIF(leak=0.5, threshold=2.0))
    x = sequence(1.5, 1.5).requires_grad_()
    neuron(x)[1].membrane.sum().backward()
    check_gradient(x.grad, 0.5, 1.0)
    check_gradient(neuron.leak.grad, 1.5)
    check_gradient(neuron.threshold.grad, -1.0)


# theta = 1, one step from rest, so u = x - 1
@pytest.mark.parametrize(
    ("x", "gradient"), [(-0.5, 0.0), (0.0, 0.0), (0.25, 0.125), (1.0, 0.5), (1.5, 0.25), (2.0, 0.0), (3.0, 0.0)]
)
def test_the_surrogate_gradient_is_a_triangle_of_height_gamma(run_by, x, gradient):
    x = sequence(x).requires_grad_()
    run_by(neurons.LearnableLIF(threshold=1.0, gamma=0.5))(x)[0].sum().backward()
    check_gradient(x.grad, gradient)


# u = x - 1 here too
@pytest.mark.parametrize(
    ("x", "gradient"), [(-2.0, 0.05), (-1.0, 0.1), (0.0, 0.25), (1.0, 0.5), (2.0, 0.25), (4.0, 0.05), (8.0, 0.01)]
)
def test_the_arctan_surrogate_has_the_height_gamma_and_a_tail_that_is_zero_nowhere(run_by, x, gradient):
    x = sequence(x).requires_grad_()
    run_by(neurons.LearnableLIF(threshold=1.0, gamma=0.5, surrogate="arctan"))(x)[0].sum().backward()
    check_gradient(x.grad, gradient)


@pytest.mark.parametrize("surrogate", SURROGATES)
def test_the_forward_mode_derivative_is_that_of_the_surrogate_gradient(surrogate):
    neuron = neurons.LearnableLIF(leak=0.5, surrogate=surrogate)
    neuron.backend = "torch"
    x, along = sequence(-2, 2.5, 0.5), sequence(1, -2, 3)

    def rate(x: torch.Tensor) -> torch.Tensor:
        return neuron(x)[0].sum()

    _, forward = torch.func.jvp(rate, (x,), (along,))
    torch.testing.assert_close(forward, (torch.func.grad(rate)(x) * along).sum())


@pytest.mark.parametrize("library", neurons.registry.LIBRARIES)
def test_the_surrogate_gradient_is_that_of_the_neuron_in_every_library_and_in_copies(library):
    lif = neurons.create("learnable-lif", library=library, threshold=1.0, gamma=0.5, surrogate="arctan")
    for twin in (lif, copy.deepcopy(lif), pickle.loads(pickle.dumps(lif))):
        x = sequence(-1)[0].requires_grad_()  # a library's neuron is called on a step
        y = twin(x[None])[0] if library == "torch" else twin(x)
        (y[0] if isinstance(y, tuple) else y).sum().backward()
        check_gradient(x.grad, 0.1)
        assert "surrogate='arctan'" in repr(twin)


@pytest.mark.parametrize("steps", [1, 9])
def test_the_surrogate_gradient_changes_nothing_of_the_forward(run_by, steps):
    x = 2 * torch.randn(steps, 3, 4, generator=torch.Generator().manual_seed(steps))
    triangular, arctan = (run_by(neurons.LearnableLIF(surrogate=name))(x) for name in SURROGATES)
    assert torch.equal(triangular[0], arctan[0]) and torch.equal(triangular[1].membrane, arctan[1].membrane)


def test_multibit_lif_gradients_by_hand(run_by):
    # leak 1/2, L = y1 + y2 + y3. M = 1.5 | 0.25 + 9 = 9.25, outside the range | 3.125 - 1 = 2.125
    # Inside, y gets the whole gradient and the reset leaves none: dy/dM = 1, dU/dM = 0; outside 0 and 1.
    #   dL/dM3 = 1   dL/dM2 = 0 + 1/2   dL/dM1 = 1 + 0   leak: dL/dM2 U1 + dL/dM3 U2 = 0.5 * 0.5 + 6.25
    neuron = run_by(neurons.MultiBitLIF(leak=0.5, **UNIT_LEVELS))
    x = sequence(1.5, 9, -1).requires_grad_()
    neuron(x)[0].sum().backward()
    check_gradient(x.grad, 1.0, 0.5, 1.0)
    check_gradient(neuron.leak.grad, 6.5)


def test_multibit_synaptic_lif_gradients_by_hand(run_by):
    # tau 1/2, L = y2, all inside the range: V1 after the reset passes nothing on, so L follows I2 = tau I1 + x2 alone.
    neuron = run_by(neurons.MultiBitSynapticLIF(1, tau=0.5, **UNIT_LEVELS))
    x = sequence(1.5, 0.25).requires_grad_()
    neuron(x)[0][1].sum().backward()
    check_gradient(x.grad, 0.5, 1.0)
    check_gradient(neuron.tau.grad, 1.5)


def test_input_gated_lif_gradients_by_hand(run_by):
    # L = y2 = I2 + (nothing from V1) with I1 = 1.5, F2 = 3/4, C2 = 5:
    #   c2: 1 - F = 0.25      f2: (I1 - C2) F (1 - F) = -3.5 * 0.1875
    #   I1: 0.75, so          c1: 0.75 * 0.5, f1: 0.75 * (0 - 3) * 0.25
    x = sequence([0, 3], [LN3, 5]).requires_grad_()
    run_by(neurons.InputGatedLIF(**UNIT_LEVELS))(x)[0][1].sum().backward()
    check_gradient(x.grad, -0.5625, 0.375, -0.65625, 0.25)


def test_recurrent_gated_lif_gradients_by_hand(run_by):
    # The first two steps above, L = sum of y2; y1 = (1, 0).
    #   neuron 0: F = 3/4, I1 - C = 0.5: f 0.5 * 0.1875 = 0.09375, c 0.25
    #   neuron 1: F = 1/2, I1 - C = -2.5: f -2.5 * 0.25 = -0.625, c 0.5
    #   U: y1 times these, a row of them and a row of zeros.
    #   y1 = these times U: (0.09375 ln 3 + 0.5, 2 * 0.25), straight through to I1, beside F = (3/4, 1/2)
    #   I1: a = 1.25 + 0.09375 ln 3, b = 1;  c1: (a, b) / 2;  f1: (a, b) * -(3, 1) / 4
    neuron = run_by(recurrent_by_hand())
    x = sequence([0, 0, 3, 1], [0, 0, 1, 2]).requires_grad_()
    neuron(x)[0][1].sum().backward()
    a, b = 1.25 + 0.09375 * LN3, 1.0
    second = 0.09375, -0.625, 0.25, 0.5
    check_gradient(x.grad, -0.75 * a, -0.25 * b, a / 2, b / 2, *second)
    check_gradient(neuron.recurrent_weight.grad, *second, 0, 0, 0, 0)


def test_integrator_gradients_by_hand(run_by):
    # L = y1 + 10 y2 + 100 y3: every input counts in all later outputs.
    x = sequence(1, -2, 4).requires_grad_()
    y, _ = run_by(neurons.Integrator())(x)
    (y.flatten() * torch.tensor([1.0, 10.0, 100.0])).sum().backward()
    check_gradient(x.grad, 111.0, 110.0, 100.0)


# What is learned


@pytest.mark.parametrize("neuron", [neurons.LearnableLIF, neurons.MultiBitLIF])
@pytest.mark.parametrize(("leak", "used"), [(-0.5, 0.0), (0.0, 0.0), (0.3, 0.3), (1.0, 1.0), (1.7, 1.0)])
def test_a_leak_that_training_moved_out_of_zero_to_one_is_clipped_where_it_is_used(run_by, neuron, leak, used):
    neuron = run_by(neuron(leak=0.5).eval())
    neuron.leak.data.fill_(leak)
    # The first input is too weak to fire.
    _, state = neuron(sequence(0.1, 0.02))
    torch.testing.assert_close(state.membrane, torch.tensor([[used * 0.1 + 0.02]]))


LEARNED = [
    ("learnable-lif", {}, {"leak": (), "threshold": ()}),
    ("learnable-lif", {"leak": torch.full((3,), 0.9)}, {"leak": (3,), "threshold": ()}),
    ("learnable-lif", {"threshold": torch.full((3,), 0.9)}, {"leak": (), "threshold": (3,)}),
    ("learnable-lif", {"learn_leak": False}, {"threshold": ()}),
    ("learnable-lif", {"learn_threshold": False}, {"leak": ()}),
    ("integrator", {}, {}),
    ("multibit-lif", {}, {"leak": ()}),
    ("multibit-lif", {"leak": torch.full((3,), 0.9)}, {"leak": (3,)}),
    ("multibit-lif", {"learn_leak": False}, {}),
    ("multibit-synaptic-lif", {"channels": 3}, {"tau": (3,)}),
    ("multibit-synaptic-lif", {"channels": 3, "learn_tau": False}, {}),
    ("input-gated-lif", {}, {}),
    ("recurrent-gated-lif", {"channels": 3}, {"recurrent_weight": (3, 6)}),
]


@pytest.mark.parametrize(("name", "options", "learned"), LEARNED)
def test_exactly_the_parameters_that_are_learned_receive_gradient(run_by, name, options, learned):
    neuron = run_by(neurons.create(name, **options))
    shape = (6, 2, 3 * neuron.inputs_per_neuron)
    x = torch.randn(shape, generator=torch.Generator().manual_seed(1)).requires_grad_()
    neuron(x)[0].square().sum().backward()
    received = {n: tuple(p.grad.shape) for n, p in neuron.named_parameters() if p.grad is not None}
    assert received == learned
    assert all(p.grad.any() for n, p in neuron.named_parameters() if n in learned)
    assert x.grad.any()


def accuracy_of_a_small_net(surrogate: str, seed: int) -> float:
    """Accuracy of two layers of learnable LIF after 100 updates, on three separable classes of constant currents."""
    torch.manual_seed(seed)
    first, second = (neurons.LearnableLIF(surrogate=surrogate) for _ in range(2))
    net = nn.ModuleList([nn.Linear(8, 16), first, nn.Linear(16, 3), second])
    label = torch.arange(3).repeat(20)
    x = torch.rand(3, 8)[label] + 0.1 * torch.randn(60, 8)

    def rates() -> torch.Tensor:
        spikes, _ = first(net[0](x.expand(8, -1, -1)))
        return second(net[2](spikes))[0].mean(0)

    optimiser = torch.optim.Adam(net.parameters(), lr=1e-2)
    for _ in range(100):
        optimiser.zero_grad()
        nn.functional.cross_entropy(5 * rates(), label).backward()
        optimiser.step()
    return (rates().argmax(-1) == label).float().mean().item()


@pytest.mark.parametrize("seed", [0, 5, 7])
def test_a_small_net_that_is_stuck_with_the_triangular_surrogate_learns_with_the_tail_of_the_arctan(seed):
    assert accuracy_of_a_small_net("triangular", seed) < 0.7
    assert accuracy_of_a_small_net("arctan", seed) > 0.95


@pytest.mark.parametrize("start", [1.2, -0.2])
def test_a_leak_that_training_took_out_of_its_interval_comes_back(start):
    neuron, wanted = neurons.create("learnable-lif"), 0.5
    nn.init.constant_(neuron.leak, start)
    x = torch.full((3, 1, 1), 0.3)  # below every threshold, so that only the membrane reveals the leak
    optimiser = torch.optim.SGD([neuron.leak], lr=0.5)
    goal = sum(0.3 * wanted**i for i in range(3))
    for _ in range(60):
        optimiser.zero_grad()
        (neuron(x)[1].membrane - goal).square().sum().backward()
        optimiser.step()
    assert neuron.leak.item() == pytest.approx(wanted, abs=0.02)


def test_a_multibit_leak_outside_its_interval_gets_gradient_back_into_it_alone():
    neuron = neurons.create("multibit-lif", leak=torch.tensor([0.0, 1.0]), threshold_levels=3)
    neuron.leak.data = torch.tensor([-0.2, 1.2])
    y, _ = neuron(torch.full((2, 1, 2), 0.3))
    (back,) = torch.autograd.grad((y * torch.tensor([-1.0, 1.0])).sum(), neuron.leak, retain_graph=True)
    (out,) = torch.autograd.grad((y * torch.tensor([1.0, -1.0])).sum(), neuron.leak)
    assert back.tolist() == pytest.approx([-0.3, 0.3]) and out.tolist() == [0, 0]


def test_a_gradient_that_leads_further_out_of_the_interval_is_stopped():
    value = torch.tensor([-0.5, -0.5, 0.0, 0.5, 1.0, 1.5, 1.5], requires_grad=True)
    gradient = torch.tensor([1.0, -1.0, 1.0, -1.0, 1.0, 1.0, -1.0])
    clipped = clip(value, 0.0, 1.0)
    clipped.backward(gradient)
    assert clipped.tolist() == [0, 0, 0, 0.5, 1, 1, 1]
    assert value.grad.tolist() == [0, -1, 1, -1, 1, 1, 0]


def test_a_threshold_that_training_took_below_zero_stays_positive_where_it_is_used():
    neuron = neurons.create("learnable-lif")
    with torch.no_grad():
        neuron.threshold.fill_(-0.1)
    y, _ = neuron(torch.tensor([[[-1.0]], [[2.0]]]))
    assert neuron.step_parameters().threshold.item() == pytest.approx(1e-3)
    assert y.flatten().tolist() == [0, 1]

"""Every neuron reproduces the numbers of the papers' own code."""

import numpy as np
import pytest
from published import PR22, PublishedNetwork, check_published_learnable_lif, check_published_network

import neurons


@pytest.mark.parametrize("bits", [6, 3])
@pytest.mark.parametrize("kind", PR22)
def test_the_published_network_is_reproduced_in_training_and_evaluation(reference_folder, kind, bits):
    numbers = np.load(reference_folder / f"{kind}_{bits}bit.npz")
    network = PublishedNetwork(kind, bits, int(numbers["threshold"]))
    check_published_network(network, numbers)


def test_the_published_learnable_lif_is_reproduced(reference_folder):
    check_published_learnable_lif(np.load(reference_folder / "rr24_lif.npz"), neurons.create)

"""A small saved model, and a zoo in which it is the only bundled one."""

import copy

import pytest
import tiny_network

import zoo


@pytest.fixture
def network():
    return tiny_network.trained()


@pytest.fixture
def metrics():
    return copy.deepcopy(tiny_network.METRICS)


@pytest.fixture
def saved(network, metrics, tmp_path):
    """The folder of a saved model."""
    return zoo.save(network, tmp_path / "cards" / "tiny", metrics)


@pytest.fixture
def bundled(saved, monkeypatch):
    """The same folder, bundled under the name "tiny"."""
    monkeypatch.setattr(zoo.registry, "MODEL_CARDS", saved.parent)
    return saved

"""Programs as users of snnTorch and SpikingJelly write them, each one file with a ``main(seed)`` that returns a score.

They follow the libraries' tutorials and examples in small: the same layers, calls and losses, on data that is at hand.
Each takes its neuron by one import, the line that :mod:`benchmarks.plugging_in` replaces.
"""

"""The networks: one file per architecture, and one file per part that they share.

:mod:`zoo.networks.translation`, :mod:`zoo.networks.sentiment` and :mod:`zoo.networks.gesture` are architectures. They
share basic layers (:mod:`zoo.networks.layers`: products in whole groups of rows, normalisation, convolution over time),
what mixes a sequence along time, in them and in their twins (:mod:`zoo.networks.mixers`), search
(:mod:`zoo.networks.decoding`) and probabilities of labels (:mod:`zoo.networks.probabilities`). Each file is imported
when a model needs it.
"""

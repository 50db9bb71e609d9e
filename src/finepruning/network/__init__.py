"""The network and how data passes through it: layers as matrices, and the one engine for passes.

A new kind of layer is a subclass of :class:`~finepruning.network.layers.Layer` and one line in
:mod:`~finepruning.network.kinds`.
"""

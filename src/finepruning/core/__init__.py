"""The method on plain arrays: statistics, fits, plan, read-out, neighbours.

Nothing here knows a network, a file or PyTorch: every function takes NumPy arrays, and those that
work on a layer's weights take PyTorch tensors alike. So an engine without PyTorch can use it.
"""

"""The steps of a personalisation, in order: observe, norms, read out, plan, prune (or paper).

Each takes the engine and what the steps before have found, and returns a frozen record.
"""

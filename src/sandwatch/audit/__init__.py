"""From a model, a raster, a revision or an experiment to the exact labels behind it, and back.

``forward`` follows the chain and verifies each hash on the way, ``backward`` asks what a label touched, ``diff``
compares two models, ``verify`` derives everything again. ``record`` holds what they answer with; ``history`` reads git,
``objects`` reads DVC's cache and remote, ``chain`` checks one link each.
"""

"""How a network learns: needs torch, smp, lightning, numpy, pyarrow and pydantic only, as :mod:`sandwatch.model`."""

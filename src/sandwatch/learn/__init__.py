"""Learning: needs torch, smp, lightning, numpy, pyarrow and pydantic only, so that it runs on a bare GPU machine."""

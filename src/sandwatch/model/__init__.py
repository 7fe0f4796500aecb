"""What a network is and how it predicts.

Needs torch, smp, numpy, requests and pydantic only, so that it runs on a bare GPU machine.
"""

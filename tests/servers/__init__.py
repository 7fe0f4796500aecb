"""Servers on loopback that behave as the services that we use do, for the real client libraries to talk to."""

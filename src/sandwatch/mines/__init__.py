"""Mines with an identity: what is seen at one place from month to month, and what changed between two months."""

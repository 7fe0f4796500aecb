"""sandwatch: find illegal and unregulated sand mines on rivers, reproducibly, from Sentinel-1/2 imagery.

Importing this package costs nothing: every module imports its heavy libraries where they are used, so that the
command line and the data stages start quickly.
"""

__version__ = "0.1.0"

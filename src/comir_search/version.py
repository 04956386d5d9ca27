"""The version of this program, as it was installed."""

from importlib.metadata import version

__version__ = version("napari-comir-search")

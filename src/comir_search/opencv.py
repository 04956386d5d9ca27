"""OpenCV, imported here and nowhere else.

The full OpenCV wheels point Qt at plugins and fonts of their own when they are
imported, and PyQt then aborts on Linux. Only the headless wheel is a dependency,
but another package may have brought the full one, so the two variables are put
back as they were.
"""

import os

_QT_VARIABLES = ("QT_QPA_PLATFORM_PLUGIN_PATH", "QT_QPA_FONTDIR")
_before = {name: os.environ.get(name) for name in _QT_VARIABLES}

import cv2  # noqa: E402

for _name, _value in _before.items():
    if _value is None:
        os.environ.pop(_name, None)
    else:
        os.environ[_name] = _value

__all__ = ["cv2"]

"""OpenCV. All other modules import it from here.

When a full OpenCV wheel is imported, it sets two environment variables to its own Qt
plugins and fonts, and PyQt then aborts on Linux. Only the headless wheel is a dependency,
but another package may have installed the full one. Therefore both variables are set back.
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

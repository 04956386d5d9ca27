"""Reading slides needs neither torch nor a display."""


def test_slides_import_without_torch_qt_and_napari(run_python):
    loaded = run_python(
        "import sys, comir_search.slides\n"
        "late = ('torch', 'sklearn', 'napari', 'qtpy', 'openslide', 'zarr', 'dask')\n"
        "print([name for name in late if name in sys.modules])"
    )
    assert loaded.strip() == "[]"


def test_qt_variables_are_left_as_they_were(run_python):
    names = ("QT_QPA_PLATFORM_PLUGIN_PATH", "QT_QPA_FONTDIR")
    left = run_python(
        "import os\n"
        "os.environ.pop('QT_QPA_FONTDIR', None)\n"
        "os.environ['QT_QPA_PLATFORM_PLUGIN_PATH'] = 'mine'\n"
        "from comir_search.opencv import cv2\n"
        f"print([os.environ.get(name) for name in {names}])"
    )
    assert left.strip() == "['mine', None]"

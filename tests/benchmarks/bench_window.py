"""Measure how the window answers while a slide is indexed and searched, and what closing gives back.

A timer in the event loop ticks every 10 ms; how late it comes is how long the window
did not answer. Painting by software OpenGL, which a virtual display needs, is taken off
and told beside it. On a machine that does other work as well, the window also waits for
a core: "own" counts no more of a late tick than the processor time that all threads of
this process took meanwhile, which on one core is what the window waited for itself.

    xvfb-run -a -s "-screen 0 1600x1000x24" python tests/benchmarks/bench_window.py SLIDE.svs
"""

import argparse
import gc
import json
import tempfile
import time
from pathlib import Path

import napari
import numpy as np
import psutil
import vispy.app
from qtpy import API_NAME
from qtpy.QtCore import QTimer
from qtpy.QtWidgets import QApplication

from napari_comir_search.widgets.dock import SearchDock

vispy.app.use_app(API_NAME.lower())  # before its Qt canvas can be imported

from vispy.app.backends._qt import CanvasBackendDesktop  # noqa: E402

TICK_MS = 10
LIMIT_S = 3600.0


class Stopwatch:
    """Notes how late a timer comes, and how much of that was OpenGL painting."""

    def __init__(self):
        self.late_ms, self.own_ms, self.painting_ms = [], [], []
        self._painted_s = self._painted_cpu_s = self._cpu_s = 0.0
        self._expected_s = 0.0
        self._timer = QTimer()
        self._timer.setInterval(TICK_MS)
        self._timer.timeout.connect(self._tick)
        self._paint = CanvasBackendDesktop.paintGL

    def paint(self, canvas):
        """Paint a canvas, and wait until it is painted."""
        started_s, started_cpu_s = time.perf_counter(), time.process_time()
        self._paint(canvas)
        if canvas._vispy_canvas is not None:
            canvas._vispy_canvas.context.finish()
        self._painted_s += time.perf_counter() - started_s
        self._painted_cpu_s += time.process_time() - started_cpu_s

    def start(self):
        """Begin."""
        CanvasBackendDesktop.paintGL = lambda canvas: self.paint(canvas)
        self._expected_s = time.perf_counter() + TICK_MS / 1000
        self._cpu_s = time.process_time()
        self._timer.start()

    def stop(self):
        """End."""
        self._timer.stop()
        CanvasBackendDesktop.paintGL = self._paint

    def _tick(self):
        now_s, cpu_s = time.perf_counter(), time.process_time()
        painted_s, self._painted_s = self._painted_s, 0.0
        painted_cpu_s, self._painted_cpu_s = self._painted_cpu_s, 0.0
        late_s = max(now_s - self._expected_s - painted_s, 0.0)
        self.late_ms.append(1000 * late_s)
        self.own_ms.append(1000 * min(late_s, cpu_s - self._cpu_s - painted_cpu_s))
        self.painting_ms.append(1000 * painted_s)
        self._expected_s, self._cpu_s = now_s + TICK_MS / 1000, cpu_s

    def summary(self):
        """Return what was seen."""
        late, own, painting = (np.array(values) for values in (self.late_ms, self.own_ms, self.painting_ms))
        return {
            "ticks": len(late),
            "p99_ms": round(float(np.percentile(late, 99)), 1),
            "max_ms": round(float(late.max()), 1),
            "over_500_ms": int((late > 500).sum()),
            "own_p99_ms": round(float(np.percentile(own, 99)), 1),
            "own_max_ms": round(float(own.max()), 1),
            "own_over_500_ms": int((own > 500).sum()),
            "painting_max_ms": round(float(painting.max()), 1),
        }


def memory_mib():
    """Return the memory that this process holds."""
    gc.collect()
    return psutil.Process().memory_info().rss / 2**20


def wait(condition, seconds=0.0):
    """Let the window live until something is so, and so many seconds longer."""
    app = QApplication.instance()
    end_s = time.monotonic() + LIMIT_S
    while not condition() and time.monotonic() < end_s:
        app.processEvents()
        time.sleep(0.001)
    end_s = time.monotonic() + seconds
    while time.monotonic() < end_s:
        app.processEvents()
        time.sleep(0.001)


def main():
    """Open, index, search, look, close; print what was measured as JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("slide", type=Path)
    parser.add_argument("--pixel-size", type=float, help="um per pixel, where the slide states none")
    parser.add_argument(
        "--rounds", type=int, default=2, help="projects opened and closed one after the other"
    )
    arguments = parser.parse_args()
    import torch

    with tempfile.TemporaryDirectory() as folder:
        viewer = napari.Viewer(show=True)
        viewer.window.resize(1280, 800)
        dock = SearchDock(viewer, folder=Path(folder) / "projects")
        viewer.window.add_dock_widget(dock, name="CoMIR search", area="right")
        workbench, session = dock.workbench, dock.session

        def calm():
            return not any(runner.is_running for runner in workbench.runners)

        wait(calm, 1.0)
        report = {"rounds": []}
        for number in range(arguments.rounds):
            watch = Stopwatch()
            seen = {"memory_before_mib": round(memory_mib())}
            watch.start()
            workbench.take([arguments.slide])
            wait(calm, 0.5)
            item = session.slides[0]
            if arguments.pixel_size:
                workbench.set_pixel_size(item.fingerprint, arguments.pixel_size)
            workbench.open_index(Path(folder) / f"{number}.comirindex")
            wait(calm)
            started_s = time.monotonic()
            workbench.index(session.slides)
            wait(calm)
            seen["indexing_s"] = round(time.monotonic() - started_s, 1)
            layer = workbench.view.layer(item.fingerprint)
            side = round(400 / session.slides[0].info.pixel_size_um)
            full = layer.data[0] if layer.multiscale else layer.data
            top, left = (extent // 2 for extent in full.shape[:2])
            patch = np.asarray(full[top : top + side, left : left + side])
            size_um = session.slides[0].info.pixel_size_um
            session.add_query("patch", patch, modality="bf", pixel_size_um=size_um)
            wait(calm)
            started_s = time.monotonic()
            workbench.search(10, False)
            wait(calm, 0.5)
            seen["search_s"] = round(time.monotonic() - started_s, 1)
            seen["found"] = session.result.found
            workbench.show_heat_map(True)
            wait(calm, 0.3)
            for _ in range(3):
                session.step_candidate(1)
                wait(calm, 0.3)
            seen["memory_open_mib"] = round(memory_mib())
            watch.stop()
            workbench.show_heat_map(False)
            workbench.new_project()
            wait(calm, 1.0)
            seen["memory_after_mib"] = round(memory_mib())
            seen["torch_threads"] = torch.get_num_threads()
            report["rounds"].append(seen | watch.summary())
        dock.leave()
        wait(calm, 0.5)
    print(json.dumps(report, indent=1))
    viewer.window._qt_window.close(quit_app=False, confirm_need=False)


if __name__ == "__main__":
    main()

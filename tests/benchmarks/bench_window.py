"""Measure how the window answers while a slide is indexed and searched, and what closing gives back.

A process that has used its libraries once is larger ever after, whatever it was used
for. So the memory is told three times: with the window just opened, after a first
project on a slide of 1 MiB, and around each project on the slide in question.

A timer in the event loop ticks every 10 ms; how late it comes is how long the window
did not answer. Painting by software OpenGL, which a virtual display needs, is taken off
and told beside it. On a machine that does other work as well, the window also waits for
a core: "own" counts no more of a late tick than the processor time that all threads of
this process took meanwhile, which on one core is what the window waited for itself.

    xvfb-run -a -s "-screen 0 1600x1000x24" python tests/benchmarks/bench_window.py SLIDE.svs
"""

import argparse
import json
import tempfile
import time
from pathlib import Path

import napari
import numpy as np
import psutil
import tifffile
import vispy.app
from qtpy import API_NAME
from qtpy.QtCore import QEventLoop, QTimer

from comir_search.retrieval.options import SearchOptions
from napari_comir_search.widgets.dock import SearchDock

vispy.app.use_app(API_NAME.lower())  # before its Qt canvas can be imported

from vispy.app.backends._qt import CanvasBackendDesktop  # noqa: E402

TICK_MS, LOOK_MS = 10, 5
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
            "over_100_ms": int((late > 100).sum()),
            "over_500_ms": int((late > 500).sum()),
            "own_p99_ms": round(float(np.percentile(own, 99)), 1),
            "own_max_ms": round(float(own.max()), 1),
            "own_over_500_ms": int((own > 500).sum()),
            "painting_max_ms": round(float(painting.max()), 1),
        }


def memory_mib():
    """Return the memory that this process holds: all, and on Linux what of it is no file's.

    What is a file's is the code of libraries: it is shared, and the system takes it back when it needs room.
    """
    held = {"all": psutil.Process().memory_info().rss}
    status = Path("/proc/self/status")
    if status.is_file():
        lines = dict(line.split(":", 1) for line in status.read_text().splitlines())
        held["anonymous"] = int(lines["RssAnon"].split()[0]) * 1024
        held["file"] = int(lines["RssFile"].split()[0]) * 1024
    return {kind: round(count / 2**20) for kind, count in held.items()}


def wait(condition, seconds=0.0):
    """Let the window live until something is so, and so many seconds longer."""
    loop = QEventLoop()  # Qt deletes widgets in a loop alone, not for a call of processEvents
    began_s, since_s = time.monotonic(), []

    def look():
        if condition() or time.monotonic() - began_s > LIMIT_S:
            since_s.append(time.monotonic())
        if since_s and time.monotonic() - since_s[0] >= seconds:
            loop.quit()

    timer = QTimer()
    timer.setInterval(LOOK_MS)
    timer.timeout.connect(look)
    timer.start()
    loop.exec_()
    timer.stop()


def write_small_slide(path):
    """Write a slide on which a project uses every library, but holds next to nothing."""
    image = np.random.default_rng(0).integers(0, 255, (1024, 1024, 3), np.uint8)
    metadata = {"axes": "YXS", "PhysicalSizeX": 0.5, "PhysicalSizeY": 0.5}
    with tifffile.TiffWriter(path, ome=True) as file:
        file.write(image, tile=(256, 256), photometric="rgb", metadata=metadata)


class Story:
    """What is done with a project, from its first slide to leaving it."""

    def __init__(self, dock, slide, index, pixel_size_um=None):
        self.workbench, self.session = dock.workbench, dock.session
        self.slide, self.index, self.pixel_size_um = slide, index, pixel_size_um
        self.seen = {}

    def calm(self):
        """Whether nothing runs."""
        return not any(runner.is_running for runner in self.workbench.runners)

    def timed(self, name, act, *arguments):
        """Note how long something takes."""
        started_s = time.monotonic()
        act(*arguments)
        wait(self.calm)
        self.seen[name] = round(time.monotonic() - started_s, 1)

    def cut_patch(self):
        """Add a query of 400 um from the middle of the slide; nothing of it is held here."""
        item = self.session.slides[0]
        layer, size_um = self.workbench.view.layer(item.fingerprint), item.info.pixel_size_um
        full = layer.data[0] if layer.multiscale else layer.data
        side = round(400 / size_um)
        top, left = (extent // 2 for extent in full.shape[:2])
        patch = np.array(full[top : top + side, left : left + side])
        self.session.add_query("patch", patch, modality="bf", pixel_size_um=size_um)

    def work(self):
        """Open, index, search, look."""
        workbench, session = self.workbench, self.session
        workbench.take([self.slide])
        wait(self.calm, 0.5)
        if self.pixel_size_um:
            workbench.set_pixel_size(session.slides[0].fingerprint, self.pixel_size_um)
        workbench.open_index(self.index)
        wait(self.calm)
        self.timed("indexing_s", workbench.index, session.slides)
        self.cut_patch()
        wait(self.calm)
        self.timed("search_s", workbench.search, SearchOptions())
        wait(self.calm, 0.5)
        self.seen["found"] = session.result.found
        workbench.show_heat_map(True)
        wait(self.calm, 0.3)
        for _ in range(3):
            session.step_candidate(1)
            wait(self.calm, 0.3)

    def leave(self):
        """Close the project as it stands, with its heat map and its comparison."""
        self.workbench.new_project()
        wait(self.calm, 1.0)


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
    with tempfile.TemporaryDirectory() as folder:
        viewer = napari.Viewer(show=True)
        viewer.window.resize(1280, 800)
        dock = SearchDock(viewer, folder=Path(folder) / "projects")
        viewer.window.add_dock_widget(dock, name="CoMIR search", area="right")
        small = Story(dock, Path(folder) / "small.ome.tif", Path(folder) / "small.comirindex")
        write_small_slide(small.slide)
        wait(small.calm, 1.0)
        report = {"memory_at_start_mib": memory_mib()}
        small.work()
        small.leave()
        report["memory_after_small_project_mib"] = memory_mib()
        report["rounds"] = []
        for number in range(arguments.rounds):
            index = Path(folder) / f"{number}.comirindex"
            story = Story(dock, arguments.slide, index, arguments.pixel_size)
            story.seen["memory_before_mib"] = memory_mib()
            watch = Stopwatch()
            watch.start()
            story.work()
            story.seen["memory_open_mib"] = memory_mib()
            n_ticks = len(watch.late_ms)
            story.leave()
            watch.stop()
            story.seen["memory_after_mib"] = memory_mib()
            story.seen["closing_max_ms"] = round(max(watch.late_ms[n_ticks:]), 1)
            report["rounds"].append(story.seen | watch.summary())
        dock.leave()
        wait(small.calm, 0.5)
    print(json.dumps(report, indent=1))
    viewer.window._qt_window.close(quit_app=False, confirm_need=False)


if __name__ == "__main__":
    main()

"""Export: tables, QuPath annotations, a report."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from qtpy.QtWidgets import QCheckBox, QFileDialog, QGridLayout, QPushButton, QWidget

from napari_comir_search.widgets.actions import Workbench
from napari_comir_search.widgets.progress_row import ProgressRow

KINDS = (
    ("csv", "Table …", "CSV (*.csv)", "Write the candidates as CSV, in pixels and in µm, with the verdicts."),
    (
        "geojson",
        "QuPath …",
        "GeoJSON (*.geojson)",
        "Write the candidates as annotations for QuPath (GeoJSON): one file for each slide.",
    ),
    (
        "html",
        "Report …",
        "HTML (*.html)",
        "Write one report (HTML) with pictures side by side, verdicts, settings and fingerprints.",
    ),
)


class ExportWidget(QWidget):
    """Write the results to files.

    Parameters
    ----------
    workbench : Workbench
    """

    def __init__(self, workbench: Workbench, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.workbench, self.session = workbench, workbench.session
        layout = QGridLayout(self)
        layout.setContentsMargins(0, 0, 0, 4)
        self.buttons: dict[str, QPushButton] = {}
        for column, (kind, text, filters, tip) in enumerate(KINDS):
            button = QPushButton(text)
            button.setToolTip(tip)
            button.clicked.connect(partial(self._export, kind, filters))
            self.buttons[kind] = button
            layout.addWidget(button, 0, column)
        self.all_queries = QCheckBox("All queries of the project")
        self.all_queries.setChecked(True)
        self.all_queries.setToolTip(
            "Write the results of all queries. Otherwise only those of the current query."
        )
        layout.addWidget(self.all_queries, 1, 0, 1, len(KINDS))
        self.progress = ProgressRow(workbench.exporting, "Stop", "Stop. No incomplete file is left.")
        layout.addWidget(self.progress, 2, 0, 1, len(KINDS))
        self.session.events.result.connect(self.refresh)
        self.session.events.queries.connect(self.refresh)
        self.refresh()

    def close_down(self) -> None:
        """Disconnect from the session."""
        self.session.events.result.disconnect(self.refresh)
        self.session.events.queries.disconnect(self.refresh)

    def refresh(self) -> None:
        """Enable what can be written."""
        can_export = any(query.result is not None for query in self.session.queries)
        tips: dict[str, str] = {kind: tip for kind, _, _, tip in KINDS}
        for kind, button in self.buttons.items():
            button.setEnabled(can_export)
            button.setToolTip(
                tips[kind] if can_export else "Search for a query first: there are no results yet."
            )

    def export(self, kind: str, path: str | Path) -> None:
        """Write results of one kind to a file."""
        self.workbench.export(kind, Path(path), all_queries=self.all_queries.isChecked())

    def _export(self, kind: str, filters: str) -> None:
        default = self.session.project.path.with_suffix(f".{kind}")
        path, _ = QFileDialog.getSaveFileName(self, "Export", str(default), filters)
        if path:
            self.export(kind, path if Path(path).suffix else f"{path}.{kind}")

"""The training widget, from two folders to a model in use."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from qtpy.QtCore import QMimeData, QPointF, Qt, QUrl
from qtpy.QtGui import QDropEvent
from qtpy.QtWidgets import QAbstractButton, QAbstractSpinBox, QFileDialog

from comir_search.model.model import load_model
from comir_search.opencv import cv2
from comir_search.training import run as training_run
from comir_search.training.trainer import Recipe
from napari_comir_search.jobs.training import suggest_kept_back, suggest_out
from napari_comir_search.state.items import IndexState
from napari_comir_search.widgets.dock import SearchDock
from napari_comir_search.widgets.training import TrainingWidget

from .conftest import paint_tissue


@pytest.fixture
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    """Four pairs, one of them shifted, and a recipe that is quick enough for a test."""

    def small(architecture: str, steps: int | None, seed: int) -> Recipe:
        return Recipe(architecture, comir_channels=2, steps=steps or 3, batch=2, crop_px=96, seed=seed)

    monkeypatch.setattr(training_run, "_recipe", small)
    few_words = partial(training_run.learn_vocabulary_steps, n_words=16, dimensions=4)
    monkeypatch.setattr(training_run, "learn_vocabulary_steps", few_words)
    made = tmp_path / "pairs" / "bf", tmp_path / "pairs" / "shg"
    for folder in made:
        folder.mkdir(parents=True)
    for seed, name in enumerate(("core 1", "core 2", "core 3", "core 4")):
        image = paint_tissue((240, 260), seed)
        signal = 255 - image[..., 1]
        cv2.imwrite(str(made[0] / f"{name}.png"), image[..., ::-1])
        cv2.imwrite(str(made[1] / f"{name}.png"), np.roll(signal, 30 if name == "core 3" else 0, axis=1))
    return made


@pytest.fixture
def widget(qtbot, make_napari_viewer) -> Iterator[TrainingWidget]:
    viewer = make_napari_viewer()
    widget = TrainingWidget(use_model=lambda path: None)
    viewer.window.add_dock_widget(widget, name="CoMIR training", area="right")
    yield widget
    widget.leave()
    qtbot.waitUntil(lambda: not widget.training.is_running and not widget.checking.is_running, timeout=60_000)


def settle(qtbot, widget: TrainingWidget) -> None:
    qtbot.waitUntil(
        lambda: not widget.training.is_running and not widget.checking.is_running, timeout=120_000
    )


def choose(qtbot, widget: TrainingWidget, folders: tuple[Path, Path], monkeypatch) -> None:
    for side, folder in zip(("first", "second"), folders, strict=True):
        monkeypatch.setattr(QFileDialog, "getExistingDirectory", lambda *_, folder=folder: str(folder))
        widget.folder_buttons[side].click()
    settle(qtbot, widget)


def test_an_empty_widget_says_what_to_do(widget: TrainingWidget) -> None:
    assert "Choose two folders" in widget.strip.hint.text() and not widget.strip.hint.isHidden()
    assert "Brightfield and SHG" in widget.answer.text()
    assert not widget.train_button.isEnabled() and widget.finish_button.isHidden()
    controls = [*widget.findChildren(QAbstractButton), *widget.findChildren(QAbstractSpinBox)]
    assert len(controls) > 10
    assert [control for control in controls if not control.toolTip()] == []


def test_pairs_are_shown_and_bad_ones_named(qtbot, widget: TrainingWidget, folders, monkeypatch) -> None:
    choose(qtbot, widget, folders, monkeypatch)
    assert len(widget.checked.pairs) == 4
    assert "core 3: the two images seem to be" in widget.problems.text()
    assert widget.strip._names[0].text() == "⚠ core 3"  # what speaks against comes first
    assert not widget.strip._cells[0][0].pixmap().isNull()
    widget.strip.after_button.click()
    assert widget.strip.count_label.text() == "Pairs 4–4 of 4"
    assert widget.kept_back.value() == 1
    assert widget.out == folders[0].parent / "model.safetensors"
    assert widget.train_button.isEnabled()


def test_folders_can_be_dropped(qtbot, widget: TrainingWidget, folders) -> None:
    mime = QMimeData()
    mime.setUrls([QUrl.fromLocalFile(str(folder)) for folder in folders])
    event = QDropEvent(
        QPointF(5, 5),
        Qt.DropAction.CopyAction,
        mime,
        Qt.MouseButton.LeftButton,
        Qt.KeyboardModifier.NoModifier,
    )
    widget.dropEvent(event)
    settle(qtbot, widget)
    assert widget.folder_labels["first"].text() == "bf" and widget.folder_labels["second"].text() == "shg"
    assert len(widget.checked.pairs) == 4


def test_folders_without_pairs_are_told(qtbot, widget: TrainingWidget, folders, monkeypatch) -> None:
    for path in folders[1].iterdir():
        path.rename(path.with_name(f"x{path.name}"))
    choose(qtbot, widget, folders, monkeypatch)
    assert "share no image name" in widget.message.text
    assert not widget.train_button.isEnabled()


def test_curves_grow_and_the_model_is_written(qtbot, widget: TrainingWidget, folders, monkeypatch) -> None:
    choose(qtbot, widget, folders, monkeypatch)
    widget.steps.setValue(5)
    widget.train_button.click()
    assert widget.training.is_running and widget.train_button.isHidden()
    settle(qtbot, widget)
    assert not widget.message.text, widget.message.text
    assert [step for step, _ in widget.plot.losses] == [1, 2, 3, 4, 5]
    assert len(widget.plot.hit_rates) == 5
    assert "trained for 5 steps on 3 pairs; at step" in widget.answer.text()
    assert not widget.use_button.isHidden()
    assert load_model(widget.out, "cpu").card["validation"]["images"]
    before = widget.plot.grab().toImage()
    widget.plot.clear(5)
    assert before != widget.plot.grab().toImage()


def test_stop_and_keep_the_best(qtbot, widget: TrainingWidget, folders, monkeypatch) -> None:
    choose(qtbot, widget, folders, monkeypatch)
    widget.steps.setValue(5000)
    widget.train_button.click()
    qtbot.waitUntil(lambda: len(widget.plot.losses) >= 2, timeout=60_000)
    widget.finish_button.click()
    settle(qtbot, widget)
    assert widget.trained.path == widget.out and widget.out.is_file()
    assert load_model(widget.out, "cpu").card["training"]["steps_done"] < 5000
    assert not widget.resume.isVisible()


def test_a_paused_training_goes_on(qtbot, widget: TrainingWidget, folders, monkeypatch) -> None:
    choose(qtbot, widget, folders, monkeypatch)
    widget.steps.setValue(12)
    widget.train_button.click()
    qtbot.waitUntil(lambda: len(widget.plot.losses) >= 2, timeout=60_000)
    widget.progress.stop_button.click()
    settle(qtbot, widget)
    assert not widget.out.exists()
    assert widget.train_button.text() == "Resume training" and not widget.resume.isHidden()
    done = widget.plot.losses[-1][0]
    widget.train_button.click()
    settle(qtbot, widget)
    assert widget.plot.losses[0][0] >= done and widget.plot.losses[-1][0] == 12
    assert widget.out.is_file()


def test_a_training_that_was_paused_earlier_goes_on_with_its_own_settings(
    qtbot, widget: TrainingWidget, folders, monkeypatch
) -> None:
    choose(qtbot, widget, folders, monkeypatch)
    widget.pixel_size.setValue(1.5)
    settle(qtbot, widget)
    widget.steps.setValue(12)
    widget.kept_back.setValue(2)
    widget.train_button.click()
    qtbot.waitUntil(lambda: len(widget.plot.losses) >= 2, timeout=60_000)
    widget.progress.stop_button.click()
    settle(qtbot, widget)
    done = widget.paused.done
    assert done >= 2 and f"at step {done} of 12" in widget.resume.text()

    again = TrainingWidget(use_model=lambda path: None)  # as in another session
    qtbot.addWidget(again)
    choose(qtbot, again, folders, monkeypatch)
    assert again.out == widget.out and again.train_button.text() == "Resume training"
    assert (again.steps.value(), again.kept_back.value(), again.pixel_size.value()) == (12, 2, 1.5)
    assert not again.steps.isEnabled() and not again.kept_back.isEnabled()  # they are the paused training's
    again.resume.click()
    assert again.steps.isEnabled() and again.train_button.text() == "Train"
    again.resume.click()
    again.train_button.click()
    settle(qtbot, again)
    assert not again.message.text, again.message.text
    assert again.plot.losses[0][0] >= done and again.plot.losses[-1][0] == 12
    again.leave()


def test_the_new_model_is_used_at_once(
    qtbot, make_napari_viewer, study, folders, tmp_path: Path, monkeypatch
) -> None:
    viewer = make_napari_viewer()
    dock = SearchDock(viewer, folder=tmp_path / "projects")
    viewer.window.add_dock_widget(dock, name="CoMIR search", area="right")

    def calm() -> bool:
        return not any(runner.is_running for runner in dock.workbench.runners)

    dock.workbench.take([study.slides])
    qtbot.waitUntil(lambda: calm() and dock.session.index is not None, timeout=60_000)
    before = dock.session.index.model_fingerprint
    dock.open_training()
    dock.open_training()  # twice is once
    widget = dock.training
    choose(qtbot, widget, folders, monkeypatch)
    widget.steps.setValue(2)
    widget.train_button.click()
    settle(qtbot, widget)
    widget.use_button.click()
    qtbot.waitUntil(calm, timeout=60_000)
    assert dock.session.index is None and "is used from now on" in dock.message.text
    assert [item.state for item in dock.session.slides] == [IndexState.NONE] * 2
    dock.workbench.index(dock.session.slides[1:])
    qtbot.waitUntil(calm, timeout=120_000)
    assert not dock.message.text, dock.message.text
    assert dock.session.slides[1].state is IndexState.DONE
    assert dock.session.index.model_fingerprint == load_model(widget.out, "cpu").words_fingerprint != before
    assert dock.session.index_path.name == "model.comirindex"
    dock.leave()
    widget.leave()
    qtbot.waitUntil(calm, timeout=60_000)


def test_suggestions(tmp_path: Path) -> None:
    assert [suggest_kept_back(count) for count in (0, 1, 2, 3, 4, 10, 23)] == [0, 0, 0, 1, 1, 2, 5]
    (tmp_path / "model.safetensors").write_bytes(b"")
    assert suggest_out(tmp_path / "bf") == tmp_path / "model 2.safetensors"

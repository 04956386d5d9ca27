"""The form of a search is made from the options of a search."""

from __future__ import annotations

from comir_search.retrieval.options import SearchOptions

from .conftest import settle


def test_the_method_that_is_chosen_is_searched_with_and_kept(qtbot, searched_dock) -> None:
    dock, form = searched_dock, searched_dock.search.form
    assert list(form["method"].choices) == ["auto", "correlation", "words"]
    assert dock.search.options == SearchOptions()
    assert all(field.tooltip.endswith(".") for field in form.values())
    form["top"].value, form["method"].value = 3, "words"
    assert dock.session.search_options == SearchOptions(top=3, method="words")
    assert "the search method was auto, now words" in dock.search.state.text()
    dock.search.go_button.click()
    settle(qtbot, dock)
    assert dock.session.result.provenance.options["method"] == "words"
    assert len(dock.session.candidates) <= 3 and dock.session.answer_state == ""
    path = dock.session.project.path
    dock.workbench.new_project()
    settle(qtbot, dock)
    assert dock.search.options == SearchOptions()
    dock.workbench.open_project(path)
    settle(qtbot, dock)
    assert dock.search.options == SearchOptions(top=3, method="words")

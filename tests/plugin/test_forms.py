"""magicgui makes forms of the options classes."""

from __future__ import annotations

import pytest
from magicgui.widgets import Container, create_widget

from comir_search import IndexOptions, SearchOptions, TrainOptions
from comir_search.options import list_form_rows


@pytest.mark.parametrize("options", [SearchOptions, IndexOptions, TrainOptions])
def test_a_form_begins_with_the_defaults(qapp, options):
    form = Container(widgets=[create_widget(**row) for row in list_form_rows(options)])
    assert options(**{each.name: each.value for each in form}) == options()

from __future__ import annotations

from importlib import import_module
from pathlib import Path

import pytest
from npe2 import PluginManifest

import napari_comir_search
from napari_comir_search.view import keys

MANIFEST = Path(napari_comir_search.__file__).with_name("napari.yaml")


@pytest.fixture(scope="module")
def manifest() -> PluginManifest:
    return PluginManifest.from_file(MANIFEST)


def test_every_command_can_be_imported(manifest: PluginManifest) -> None:
    manifest.validate_imports()
    for command in manifest.contributions.commands:
        module, name = command.python_name.split(":")
        assert callable(getattr(import_module(module), name)), command.id


def test_top_level_manifest_is_the_one_in_the_package() -> None:
    top = Path(__file__).parents[2] / "napari.yaml"
    assert top.read_text() == MANIFEST.read_text()


def test_menus_exist_in_napari(manifest: PluginManifest) -> None:
    from napari._app_model.constants import MenuId

    contributed = set(manifest.contributions.menus)
    assert contributed
    assert contributed <= {str(menu) for menu in MenuId.contributables()}


def test_preferences_read_the_settings_page(manifest: PluginManifest, npe2pm, plugin_settings) -> None:
    from napari.settings import get_plugin_settings

    from napari_comir_search.state.settings import PLUGIN, Preferences, read_preferences

    npe2pm.register(manifest)
    assert read_preferences() == Preferences()
    get_plugin_settings(PLUGIN).search.candidates = 25
    get_plugin_settings(PLUGIN).review.reviewer = "Ada"
    assert read_preferences() == Preferences(candidates=25, reviewer="Ada")


def test_keys_do_nothing_else_in_napari() -> None:
    from app_model.types import KeyBinding
    from napari.utils.shortcuts import default_shortcuts

    taken = {binding for bindings in default_shortcuts.values() for binding in bindings}
    ours = [KeyBinding.from_str(key.keys.replace("-", "+")) for key in keys.KEYS]
    assert not taken.intersection(ours)
    assert len({str(binding) for binding in ours}) == len(keys.KEYS)

"""Nothing of the user's is deleted, overwritten or emptied, wherever it lies beside or inside an index."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
import small

from comir_search.errors import ComirSearchError
from comir_search.files import UnsafeName, resolve_below
from comir_search.index.build import index_slides
from comir_search.index.check import compact_steps, repair_steps, verify_steps
from comir_search.index.index import Index
from comir_search.index.storage import Storage
from comir_search.model.model import load_model
from comir_search.progress import finish
from comir_search.slides import open_slide

OWN = {"index.json", "model.safetensors", "writer.lock", "zarr.json", "slides/zarr.json"}


def tree(folder: Path) -> dict[str, object]:
    """Return all that lies below a folder: the content of files, the target of links, None for folders."""
    found: dict[str, object] = {}
    for here, folders, files in os.walk(folder):
        for name in [*folders, *files]:
            path = Path(here, name)
            held = os.readlink(path) if path.is_symlink() else None if path.is_dir() else path.read_bytes()
            found[path.relative_to(folder).as_posix()] = held
    return found


def write_foreign(folder: Path) -> None:
    """Put into a folder what a careless clean-up would take for its own."""
    names = (
        *("download.partial", ".foo.part1", ".notes.part", "slide.json", "zarr.json.partial", "5.partial"),
        *(".index.1234.part.json", ".holiday.comir-0123abcd.part.jpg", f"0.{'0123abcd' * 4}.partial"),
    )
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).write_bytes(b"the user's")


def write_zarr(folder: Path) -> None:
    """Write what looks like an OME-Zarr of the user's."""
    for name in ("zarr.json", "0/zarr.json", "0/c/0/0/0", "1/c/0/0/0"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"{}")


class Layout:
    """A folder with slides and an index, and the commands that are run on them."""

    def __init__(self, root: Path, index: Path, slides: list[Path]) -> None:
        self.root, self.index, self.slides = root, index, slides

    def is_own(self, name: str) -> bool:
        """Whether a name below the root is one that an index of these slides writes."""
        path = self.root / name
        if not path.is_relative_to(self.index):
            return False
        inner = path.relative_to(self.index).as_posix()
        known = set()
        for slide in self.slides:
            with open_slide(slide) as opened:
                known.add(f"slides/{opened.fingerprint}")
        return inner in OWN | {".", "slides"} or any(
            inner == group or inner.startswith(f"{group}/") for group in known
        )

    def run(self) -> list[str]:
        """Run every command twice; return what they refused."""
        refused = []
        for act in (
            lambda: index_slides(self.slides, self.index),
            lambda: finish(verify_steps(self.index)),
            lambda: finish(repair_steps(self.index)),
            lambda: finish(compact_steps(self.index)),
            lambda: index_slides(self.slides, self.index),
            lambda: finish(compact_steps(self.index, remove=[self.slides[0].name])),
            lambda: index_slides(self.slides, self.index),
        ):
            try:
                act()
            except ComirSearchError as error:
                refused.append(str(error))
        return refused


def beside(root: Path) -> Layout:
    write_foreign(root / "index")
    return Layout(root, root / "index", [small.write_slide(root / "a.tif", 300)])


def inside(root: Path) -> Layout:
    write_foreign(root / "index" / "mine")
    return Layout(root, root / "index", [small.write_slide(root / "index" / "mine" / "a.tif", 300)])


def above(root: Path) -> Layout:
    write_foreign(root)
    slide = small.write_slide(root / "a.tif", 300)
    return Layout(root, root / "work" / "deep" / "index", [slide])


def index_in_the_slides_folder(root: Path) -> Layout:
    write_foreign(root)
    write_zarr(root / "img.zarr")
    return Layout(root, root, [small.write_slide(root / "a.tif", 300)])


def slides_in_slides(root: Path) -> Layout:
    write_zarr(root / "study" / "slides" / "img.zarr")
    (root / "study" / "slides" / "patientA").mkdir()
    slide = small.write_slide(root / "study" / "slides" / "patientA" / "a.tif", 300)
    return Layout(root, root / "study", [slide])


def foreign_groups(root: Path) -> Layout:
    """Folders that are named as slides of an index are: one of somebody's own, one of another program."""
    layout = beside(root)
    Index.create(layout.index, load_model(device="cpu"), "bf")
    write_foreign(layout.index / "slides" / ("a" * 32))
    write_zarr(layout.index / "slides" / ("b" * 32))
    write_zarr(layout.index / "slides" / "img.zarr")
    (layout.index / "slides" / ("c" * 32)).mkdir()
    (layout.index / "slides" / ("c" * 32) / "slide.json").write_text(json.dumps({"fingerprint": "d" * 32}))
    return layout


def nested_index(root: Path) -> Layout:
    """Another index lies in the index's folder, and one in its folder for slides."""
    layout = beside(root)
    other = small.write_slide(root / "b.tif", 300, seed=3)
    index_slides(layout.slides, layout.index)
    for folder in (layout.index / "old", layout.index / "slides" / "old"):
        index_slides([other], folder)
        compact_later = Index.open(folder)
        compact_later.remove(compact_later.slides[0].fingerprint)
    return layout


def foreign_files_in_a_group(root: Path) -> Layout:
    layout = beside(root)
    index_slides(layout.slides, layout.index)
    folder = layout.index / Index.open(layout.index).slides[0].folder
    write_foreign(folder / "notes")
    write_foreign(folder / "words" / "c")
    (folder / "comment.txt").write_text("a nice one")
    os.link(root / "index" / "download.partial", folder / "linked.txt")
    layout.is_own = lambda name, is_own=layout.is_own: (  # type: ignore[method-assign]
        is_own(name) and not any(part in name for part in ("/notes", "comment.txt", "linked.txt", "part"))
    )
    return layout


def own_model_and_lock(root: Path) -> Layout:
    """The user's own files have names that an index needs."""
    layout = beside(root)
    (root / "index" / "model.safetensors").write_bytes(b"trained for a week")
    layout.is_own = lambda name: False  # type: ignore[method-assign]
    return layout


def own_lock(root: Path) -> Layout:
    layout = beside(root)
    (root / "index" / "writer.lock").write_bytes(b"of another program")
    layout.is_own = lambda name: False  # type: ignore[method-assign]
    return layout


def linked(*names: str, to: str = "elsewhere"):
    """An index where the user's folder or file lies behind links of those names."""

    def make(root: Path) -> Layout:
        layout = beside(root)
        index_slides(layout.slides, layout.index)
        group = Index.open(layout.index).slides[0].folder
        Index.open(layout.index).remove(group.split("/")[1])
        for name in names:
            place = layout.index / name.replace("GROUP", group)
            target = root / to / place.name
            target.parent.mkdir(exist_ok=True)
            if place.exists():
                shutil.move(place, target)
            else:
                target.write_bytes(b"the user's")
            place.symlink_to(target)
        write_foreign(root / to)
        is_own = layout.is_own
        layout.is_own = lambda name: is_own(name) and not name.startswith(to)  # type: ignore[method-assign]
        return layout

    make.__name__ = "-".join(names)
    return make


def received(document: str, **values: object):
    """An index from somebody else, with a document that names things outside."""

    def make(root: Path) -> Layout:
        layout = beside(root)
        index_slides(layout.slides, layout.index)
        write_foreign(root / "victim")
        folder = layout.index / Index.open(layout.index).slides[0].folder
        held = json.loads((folder / "slide.json").read_text())
        del held["digest"]
        (folder / "slide.json").unlink()
        content = {**held, **values}
        if document == "progress.json":
            content = {**json.loads((folder / document).read_text()), "record": content}
            del content["digest"]
        (folder / document).write_text(json.dumps(content))
        return layout

    make.__name__ = f"{document}-{'-'.join(map(str, values.values()))}"
    return make


LAYOUTS = [
    beside,
    inside,
    above,
    index_in_the_slides_folder,
    slides_in_slides,
    foreign_groups,
    nested_index,
    foreign_files_in_a_group,
    own_model_and_lock,
    own_lock,
    linked("slides"),
    linked("GROUP"),
    linked("GROUP/comir"),
    linked("GROUP/words/c"),
    linked("GROUP/removed.json", "GROUP/progress.json"),
    linked("model.safetensors"),
    linked("writer.lock"),
    linked("index.json"),
    received("progress.json", fingerprint="../../victim"),
    received("removed.json", fingerprint="../../victim"),
    received("slide.json", fingerprint="/victim"),
    received("slide.json", fingerprint="e" * 32),
    received("progress.json", relative_path="../victim/slide.json", absolute_path="/victim"),
]


@pytest.mark.parametrize("make", LAYOUTS, ids=lambda make: make.__name__)
def test_the_whole_tree_is_unchanged_but_for_our_own_files(model, tmp_path, make):
    layout = make(tmp_path)
    before = tree(tmp_path)
    layout.run()
    after = tree(tmp_path)
    foreign = {name: held for name, held in before.items() if not layout.is_own(name)}
    lost = [name for name in foreign if name not in after]
    changed = [name for name, held in foreign.items() if name in after and after[name] != held]
    added = [
        name for name in after if name not in before and not layout.is_own(name) and after[name] is not None
    ]
    assert (lost, changed, added) == ([], [], [])


def test_an_index_is_not_made_over_a_folder_of_slides_and_the_way_out_is_said(model, tmp_path):
    layout = slides_in_slides(tmp_path)
    with pytest.raises(
        ComirSearchError, match=r"study/slides exists and does not belong to an index .*another folder"
    ):
        index_slides(layout.slides, layout.index)
    assert sorted(path.name for path in layout.index.iterdir()) == ["slides"]
    assert len(index_slides(layout.slides, tmp_path / "elsewhere").slides) == 1


def test_an_index_that_was_made_over_a_folder_of_slides_still_opens(model, tmp_path):
    """Older versions made them: what is not ours there is neither listed nor touched."""
    slide = small.write_slide(tmp_path / "a.tif", 300)
    index_slides([slide], tmp_path / "study")
    write_zarr(tmp_path / "study" / "slides" / "img.zarr")
    write_foreign(tmp_path / "study" / "slides" / "patientA")
    assert [each.name for each in Index.open(tmp_path / "study").slides] == ["a.tif"]
    assert finish(verify_steps(tmp_path / "study")) == finish(repair_steps(tmp_path / "study")) == []


@pytest.mark.parametrize(
    "name", ["../victim", "slides/../../victim", "/victim", "slides//x", "", ".", "a/.", "a\\b", "c:x", "a\0"]
)
def test_names_that_lead_out_are_neither_written_nor_deleted(tmp_path, name):
    victim = tmp_path / "victim"
    write_foreign(victim)
    before = tree(tmp_path)
    storage = Storage(tmp_path / "index")
    for act in (storage.delete, storage.prune, storage.flush, lambda name: storage.write(name, b"x")):
        with pytest.raises(ComirSearchError, match="outside itself"):
            act(name)
    assert tree(tmp_path) == before


def test_a_folder_that_is_reached_through_a_link_is_ours_but_no_link_in_it(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    Storage(tmp_path / "link").write("a/b", b"1")
    assert (tmp_path / "real" / "a" / "b").read_bytes() == b"1"
    (tmp_path / "real" / "out").symlink_to(tmp_path)
    (tmp_path / "real" / "dangling").symlink_to(tmp_path / "nowhere")
    for name in ("out", "out/x", "dangling"):
        with pytest.raises(UnsafeName, match="is a link to another file or folder"):
            resolve_below(tmp_path / "link", name)


def test_zarr_writes_nothing_behind_a_link(index, tmp_path):
    """A folder may become a link after the index was opened."""
    (slide,) = index.slides
    chunk = slide.grid.chunks("comir/1")[0]
    values = slide.read_chunk("comir/1", chunk)
    shutil.move(index.path / slide.folder / "comir", tmp_path / "comir")
    (index.path / slide.folder / "comir").symlink_to(tmp_path / "comir")
    before = tree(tmp_path / "comir")
    for act in (
        lambda: slide.write_chunks("comir/1", [(chunk, values // 2)]),
        lambda: slide.create_array("comir/1"),
    ):
        with pytest.raises(UnsafeName):
            act()
    assert tree(tmp_path / "comir") == before

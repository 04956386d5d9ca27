"""Malformed and hostile indexes: their documents, chunks, links, and other files in their folders."""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np

from comir_search import documents
from comir_search.index.build import index_slides
from comir_search.index.check import compact_steps, repair_steps, verify_steps
from comir_search.index.index import Index
from comir_search.progress import finish
from comir_search.retrieval.search import search
from comir_search.slides import open_slide
from fuzzing import models
from fuzzing.case import MEBIBYTE, Attempt, Case, copy_tree, pick
from fuzzing.mutations import VALUES, break_bytes, break_document, break_value, dump
from fuzzing.pixels import paint, write_slide

# A search of a sound index takes about 60 MiB; a slide that was interrupted may be embedded to its end.
MEMORY_BYTES = 1024 * MEBIBYTE
_INDEX, _SLIDE, _QUERY = "study.index", "slide.tif", "query.tif"
_DOCUMENTS = ("index.json", "slide.json", "progress.json", "removed.json", "writer.lock", "zarr.json")
_NAMES = (
    "../../victim.txt",
    "../..",
    "..",
    "/etc",
    "0" * 32,
    "f" * 32,
    "",
    ".",
    "slides",
    "a" * 31,
    "A" * 32,
)


def make_bases(folder: Path) -> None:
    """Index a small slide, and cut a query out of it."""
    slide = paint(320, 384)
    write_slide(folder / _SLIDE, slide)
    write_slide(folder / _QUERY, np.ascontiguousarray(slide[90:186, 120:216]))
    index_slides([folder / _SLIDE], folder / _INDEX, device="cpu")
    for path in sorted((folder / _INDEX).rglob("*.json")):  # whose content would depend on this folder's name
        text = path.read_text()
        if str(folder) in text:
            path.write_text(_sign(text.replace(str(folder), "/nowhere"), text))
    (folder / _INDEX / "writer.lock").write_bytes(b"")


def copy_bases(bases: Path, folder: Path) -> list[Case]:
    """Return the index as a case."""
    return [_begin(bases, folder / "sound")]


def write_case(bases: Path, folder: Path, rng: np.random.Generator) -> Case:
    """Break one to three things of the index."""
    case = _begin(bases, folder)
    case.thorough = rng.random() < 0.35
    for _ in range(int(pick(rng, (1, 1, 1, 2, 3)))):
        action = pick(
            rng, (*(_break_document,) * 12, *(_break_file,) * 2, *(_break_model,) * 2, *(_lay,) * 4)
        )
        try:
            action(case, rng)
        except (OSError, StopIteration) as error:  # what was broken before is not there to be broken again
            case.notes.append(f"not done ({error})")
    return case


def act(case: Case, attempt: Attempt) -> None:
    """Open, search, verify, repair, compact, add to and open the index again."""
    attempt("open", lambda: Index.open(case.target, "cpu"))
    if case.thorough:
        attempt("search", lambda: _search(case))
    attempt("heat map", lambda: _look(case))
    attempt("verify", lambda: list(map(str, finish(verify_steps(case.target)))))
    attempt("repair", lambda: finish(repair_steps(case.target, device="cpu")))
    attempt("compact", lambda: finish(compact_steps(case.target)))
    attempt("index", lambda: index_slides([case.folder / _SLIDE], case.target, device="cpu"))
    attempt("compact without the slide", lambda: finish(compact_steps(case.target, remove=[_SLIDE])))
    attempt("open again", lambda: Index.open(case.target, "cpu"))


def _search(case: Case) -> Any:
    index = Index.open(case.target, "cpu")
    return search(case.folder / _QUERY, index, modality="bf", top=3).to_dict()


def _look(case: Case) -> None:
    """Read what the window shows of an index."""
    for slide in Index.open(case.target, "cpu").slides:
        with open_slide(case.folder / _SLIDE) as opened:
            _ = (slide.path, slide.name, slide.pixel_size_um, slide.height_px, opened.fingerprint)


def _begin(bases: Path, folder: Path) -> Case:
    case = Case.begin(folder, _INDEX)
    for name in (_INDEX, _SLIDE, _QUERY):
        copy_tree(bases / name, folder / name)
    case.owned.append(case.target)
    case.add_canary(case.target / "notes.txt")
    return case


def _slide_folder(case: Case) -> Path:
    return next(
        path for path in sorted((case.target / "slides").iterdir()) if re.fullmatch("[0-9a-f]{32}", path.name)
    )


def _documents(case: Case) -> list[Path]:
    return sorted(
        path
        for path in case.target.rglob("*")
        if path.name in _DOCUMENTS and path.is_file() and not path.is_symlink()
    )


def _break_document(case: Case, rng: np.random.Generator) -> None:
    """Change a document; its digest is made right again more often than not, as an attacker would."""
    found = _documents(case)
    wanted = pick(
        rng, ("index.json", "slide.json", "progress.json", "removed.json", "zarr.json", "writer.lock")
    )
    chosen = [path for path in found if path.name == wanted]
    if wanted == "removed.json" and not chosen:
        slide = [path for path in found if path.name == "slide.json"]
        if slide:
            chosen = [slide[0].rename(slide[0].with_name("removed.json"))]
    if wanted == "writer.lock" and chosen:
        text = json.dumps({"host": pick(rng, (os.uname().nodename, "elsewhere")), "pid": 2**22 + 7})
        chosen[0].write_text(text)
    if not chosen:
        return
    path = pick(rng, chosen)
    text = path.read_text(errors="replace")
    if rng.random() < 0.15:
        broken, note = break_bytes(path.read_bytes(), rng)
        path.write_bytes(broken)
    elif rng.random() < 0.15:
        text, note = _swap_fingerprint(text, rng)
        path.write_text(_sign(text, text))
    else:
        changed, note = break_document(text, rng)
        if rng.random() < 0.75:
            changed = _sign(changed, text)
        path.write_bytes(changed.encode("utf-8", "surrogatepass"))
    case.notes.append(f"{path.relative_to(case.target)}: {note}")


def _swap_fingerprint(text: str, rng: np.random.Generator) -> tuple[str, str]:
    """Put names, which the program may use as those of folders, in place of fingerprints."""
    name = pick(rng, _NAMES)
    return re.sub(r"\b[0-9a-f]{32}\b", name, text), f"fingerprints = {name}"


def _sign(text: str, signed: str) -> str:
    """Return a document with the right digest, where the one it was made from had any."""
    try:
        values = json.loads(text)
        if isinstance(values, dict) and documents.DIGEST in json.loads(signed):
            return dump(documents.with_digest(values))
    except (ValueError, TypeError, RecursionError):
        pass
    return text


def _break_file(case: Case, rng: np.random.Generator) -> None:
    """Change, remove or exchange a chunk or another file."""
    files = sorted(
        path
        for path in case.target.rglob("*")
        if path.is_file() and not path.is_symlink() and path not in case.canaries
    )
    path, other = pick(rng, files), pick(rng, files)
    action = pick(rng, ("broken", "broken", "removed", "another's", "a folder"))
    if action == "broken":
        content, action = break_bytes(path.read_bytes(), rng)
        path.write_bytes(content)
    elif action == "another's":
        path.write_bytes(other.read_bytes())
    else:
        path.unlink()
        if action == "a folder":
            path.mkdir()
    case.notes.append(f"{path.relative_to(case.target)}: {action}")


def _break_model(case: Case, rng: np.random.Generator) -> None:
    """Put a broken model in the index, and more often than not let the index state its fingerprint."""
    folder = case.scratch / "model"
    broken = models.write_case(case.target, folder, rng)
    shutil.move(broken.target, case.target / "model.safetensors")
    shutil.rmtree(folder)
    case.notes.append(f"model: {'; '.join(broken.notes)}")


def _lay(case: Case, rng: np.random.Generator) -> None:
    """Lay links, odd folders and somebody else's files where the program writes or deletes."""
    folder = _slide_folder(case)
    slides = case.target / "slides"
    beyond = case.folder / "beyond"
    beyond.mkdir(exist_ok=True)
    for name in ("a.txt", "old.partial", ".a.part", "c/0/0"):
        path = beyond / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"a file of somebody else")
    what = pick(rng, sorted(_LAYOUTS))
    case.notes.append(what)
    _LAYOUTS[what](case, rng, folder, slides, beyond)


def _replace(path: Path, target: Path) -> None:
    """Put a link where a file or folder is."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
    path.symlink_to(target)


def _link_slides(case: Case, _rng: Any, _folder: Path, slides: Path, beyond: Path) -> None:
    moved = beyond / "slides"
    shutil.copytree(slides, moved, symlinks=True)
    _replace(slides, moved)


def _link_to_beyond(_case: Case, rng: np.random.Generator, folder: Path, _slides: Path, beyond: Path) -> None:
    name = pick(
        rng, ("comir", "comir/0", "words", "tissue", "comir/0/c", "progress.json", "slide.json", "zarr.json")
    )
    _replace(folder / name, beyond if "." not in name else beyond / "a.txt")


def _link_a_document(
    case: Case, rng: np.random.Generator, folder: Path, _slides: Path, _beyond: Path
) -> None:
    path = pick(
        rng,
        (
            case.target / "writer.lock",
            case.target / "index.json",
            case.target / "model.safetensors",
            folder / "slide.json",
            folder / "removed.json",
            folder / "progress.json",
            case.target / "zarr.json",
        ),
    )
    _replace(path, case.victim)


def _link_a_slide(_case: Case, rng: np.random.Generator, folder: Path, slides: Path, beyond: Path) -> None:
    name = pick(rng, ("0" * 32, "link", folder.name))
    _replace(slides / name, beyond)


def _lay_a_foreign_slide(
    case: Case, rng: np.random.Generator, _folder: Path, slides: Path, _beyond: Path
) -> None:
    name = pick(rng, ("patientA", "img.zarr", "0" * 32, "a" * 31, "F" * 32))
    case.add_canary(
        slides / name / pick(rng, ("slide.svs", "0/0/0", "download.partial", ".x.part", "notes.json"))
    )


def _lay_leftovers(case: Case, rng: np.random.Generator, folder: Path, slides: Path, _beyond: Path) -> None:
    parent = pick(rng, (case.target, slides, folder, folder / "comir"))
    case.add_canary(parent / pick(rng, ("download.partial", ".thesis.part1.doc", ".partial", "x.partial")))


def _lay_a_twin(case: Case, rng: np.random.Generator, folder: Path, slides: Path, _beyond: Path) -> None:
    twin = slides / pick(rng, ("0" * 32, "copy", folder.name + "x", folder.name.upper()))
    if not os.path.lexists(twin):
        shutil.copytree(folder, twin, symlinks=True)
    if rng.random() < 0.5:
        (twin / "slide.json").unlink(missing_ok=True)


def _lay_a_fifo(case: Case, rng: np.random.Generator, folder: Path, _slides: Path, _beyond: Path) -> None:
    if not hasattr(os, "mkfifo"):
        return
    path = pick(
        rng,
        (
            case.target / "index.json",
            case.target / "writer.lock",
            case.target / "model.safetensors",
            folder / "slide.json",
            folder / "progress.json",
            folder / "comir" / "0" / "zarr.json",
            folder / "words" / "zarr.json",
        ),
    )
    if path.parent.is_dir():
        path.unlink(missing_ok=True)
        os.mkfifo(path)


def _remove_slide_file(
    _case: Case, rng: np.random.Generator, folder: Path, _slides: Path, _beyond: Path
) -> None:
    """Make of a finished slide one that was interrupted, whose progress says something else."""
    (folder / "slide.json").unlink(missing_ok=True)
    progress = folder / "progress.json"
    if not progress.is_file():
        return
    text = progress.read_text(errors="replace")
    try:
        values = json.loads(text)
        record = values["record"]
        record[pick(rng, sorted(record))] = pick(rng, (*_NAMES, *VALUES))
        values, _ = break_value(values, rng) if rng.random() < 0.3 else (values, "")
    except (ValueError, KeyError, TypeError, RecursionError):
        return
    progress.write_bytes(_sign(dump(values), text).encode("utf-8", "surrogatepass"))


_LAYOUTS = {
    "slides is a link": _link_slides,
    "a link in a slide": _link_to_beyond,
    "a document is a link": _link_a_document,
    "a slide is a link": _link_a_slide,
    "somebody else's folder": _lay_a_foreign_slide,
    "somebody else's temporary file": _lay_leftovers,
    "a slide twice": _lay_a_twin,
    "a fifo": _lay_a_fifo,
    "an interrupted slide": _remove_slide_file,
}

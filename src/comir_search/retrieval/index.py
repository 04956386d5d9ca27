"""The index: a folder that holds a model and, for every slide, its CoMIR and word map.

    index.json          format version, model, modality, layout
    model.safetensors   a copy of the model
    writer.lock         who writes now
    slides/FINGERPRINT  a Zarr v3 group per slide
        comir/0 ... 3   CoMIR at 8 bits: CoMIR pixels and area means of 2, 4 and 8
        words           word map
        tissue          tissue mask
        progress.json   what is finished, for an interrupted run
        slide.json      written last: a slide without it is not in the index

Chunks carry checksums, glass chunks are absent, and everything is written
append-only, so readers need no lock.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any

from comir_search.errors import ComirSearchError
from comir_search.retrieval.chunk_cache import DEFAULT_CACHE_BYTES, ChunkCache
from comir_search.retrieval.indexed_slide import DamagedChunk, IndexedSlide
from comir_search.retrieval.layout import REGION_PX, Layout
from comir_search.retrieval.slide_record import REMOVED_FILE, SLIDE_FILE, SLIDES, SlideRecord
from comir_search.retrieval.storage import DamagedJson, Storage
from comir_search.retrieval.writer_lock import writer_lock

if TYPE_CHECKING:
    from comir_search.comir.model import Model

__all__ = ["DamagedChunk", "Index", "IndexedSlide"]

FORMAT = "comir-search index"
FORMAT_VERSION = 1
INDEX_FILE = "index.json"
MODEL_FILE = "model.safetensors"


class Index:
    """An index, open for reading. Use `Index.open` or `Index.create`.

    Attributes
    ----------
    path : Path or str
        Its folder, or its fsspec URL.
    modality : str
        The side of the model that is indexed.
    layout : Layout
        How arrays are cut.
    cache : ChunkCache
        Decoded chunks of all slides.
    """

    def __init__(
        self,
        storage: Storage,
        header: dict[str, Any],
        device: str = "auto",
        cache_bytes: int = DEFAULT_CACHE_BYTES,
    ) -> None:
        self.storage = storage
        self.path: Path | str = storage.folder if storage.folder is not None else storage.location
        self.modality = str(header["modality"])
        self.layout = Layout.from_dict(header["layout"])
        self.model_fingerprint = str(header["model"])
        self.cache = ChunkCache(cache_bytes)
        self._device = device
        self._model: Model | None = None
        self._slides: dict[str, IndexedSlide] = {}
        self._lock = Lock()

    @classmethod
    def create(
        cls,
        path: str | Path,
        model: Model,
        modality: str,
        *,
        region_px: int = REGION_PX,
        cache_bytes: int = DEFAULT_CACHE_BYTES,
    ) -> Index:
        """Make an empty index.

        Parameters
        ----------
        path : path or str
            Folder, made if needed, or fsspec URL.
        model : Model
            It is copied into the index.
        modality : str
            The side that will be indexed.
        region_px : int
            Side of the regions that are embedded at a time, model pixels.
        cache_bytes : int
            Bound on the decoded chunks that are kept.

        Raises
        ------
        ComirSearchError
            If there is an index already, or what is left of one, the model lacks that side or a
            vocabulary, or the folder cannot be written.
        """
        storage = Storage(path)
        if storage.exists(INDEX_FILE):
            raise ComirSearchError(f"{path} already holds an index; open it, or choose another folder.")
        if any(storage.exists(f"{SLIDES}/{name}/{SLIDE_FILE}") for name in storage.folders(SLIDES)):
            raise ComirSearchError(
                f"{path} holds slides of an index but no {INDEX_FILE}, so nobody knows what they were made with; "
                "restore it from a copy, or choose another folder."
            )
        layout = layout_for(model, modality, region_px)
        with tempfile.TemporaryDirectory() as folder:
            copy = Path(folder) / MODEL_FILE
            model.save(copy)
            storage.write(MODEL_FILE, copy.read_bytes())
        header = {
            "format": FORMAT,
            "format_version": FORMAT_VERSION,
            "model": model.words_fingerprint,
            "modality": modality,
            "layout": layout.to_dict(),
        }
        storage.write_json(INDEX_FILE, header)
        index = cls(storage, header, cache_bytes=cache_bytes)
        index._model = model
        return index

    @classmethod
    def open(
        cls,
        path: str | Path,
        device: str = "auto",
        *,
        cache_bytes: int = DEFAULT_CACHE_BYTES,
        leave_out_damaged: bool = False,
    ) -> Index:
        """Open an index.

        Parameters
        ----------
        path : path or str
            Folder or fsspec URL.
        device : {"auto", "cpu", "cuda"}
            Where its model will run.
        cache_bytes : int
            Bound on the decoded chunks that are kept.
        leave_out_damaged : bool
            Open it without the slides whose slide.json is damaged, to repair
            them.

        Raises
        ------
        ComirSearchError
            If there is no index, it is damaged, or its format is newer.
        """
        storage = Storage(path)
        try:
            header = storage.read_json(INDEX_FILE)
        except DamagedJson as error:  # no repair can know what it said
            raise ComirSearchError(
                f"{path}/{INDEX_FILE} is damaged; restore it from a copy, or make a new index in another folder."
            ) from error
        if header is None:
            raise ComirSearchError(f"{path} holds no index; make one with `comir-search index`.")
        if header.get("format") != FORMAT:
            raise ComirSearchError(f"{path} holds an {INDEX_FILE} of another program; choose another folder.")
        if header.get("format_version", 0) > FORMAT_VERSION:
            raise ComirSearchError(
                f"{path} has index format {header['format_version']}, newer than this program's "
                f"{FORMAT_VERSION}; update napari-comir-search."
            )
        try:
            index = cls(storage, header, device, cache_bytes)
        except (KeyError, TypeError) as error:
            raise ComirSearchError(
                f"{path}/{INDEX_FILE} is damaged ({error}); restore it from a copy."
            ) from error
        index.refresh(leave_out_damaged=leave_out_damaged)
        return index

    @property
    def model(self) -> Model:
        """The model in the index, loaded when it is first needed."""
        with self._lock:
            if self._model is None:
                self._model = self._load_model()
            return self._model

    @property
    def slides(self) -> list[IndexedSlide]:
        """The complete slides, by name."""
        return sorted(self._slides.values(), key=lambda slide: (slide.name, slide.fingerprint))

    def refresh(self, *, leave_out_damaged: bool = False) -> None:
        """Look again which slides are complete; a slide that is there already stays the same object."""
        slides: dict[str, IndexedSlide] = {}
        for fingerprint in self.storage.folders(SLIDES):
            try:
                record = self.read_record(fingerprint)
            except ComirSearchError:
                if not leave_out_damaged:
                    raise
                continue
            if record is None:
                continue
            known = self._slides.get(fingerprint)
            slides[fingerprint] = (
                known if known is not None and known.record == record else self.slide_of(record)
            )
        self._slides = slides

    def read_record(self, fingerprint: str) -> SlideRecord | None:
        """Return what the index remembers of a complete slide, None where it is not there or not complete."""
        name = f"{SLIDES}/{fingerprint}/{SLIDE_FILE}"
        values = self.storage.read_json(name)
        if values is None:
            return None
        try:
            return SlideRecord.from_dict(values)
        except (KeyError, TypeError) as error:
            raise ComirSearchError(
                f"{self.path}/{name} is damaged; run `comir-search repair --index {self.path}`."
            ) from error

    def slide_of(self, record: SlideRecord) -> IndexedSlide:
        """Return the arrays of a slide, complete or not."""
        return IndexedSlide(self.storage, self.layout, record, self.cache)

    def slide(self, fingerprint: str) -> IndexedSlide:
        """Return the complete slide of that fingerprint.

        Raises
        ------
        ComirSearchError
            If it is not in the index.
        """
        if fingerprint not in self._slides:
            raise ComirSearchError(f"The index {self.path} holds no slide {fingerprint}; index it first.")
        return self._slides[fingerprint]

    def remove(self, fingerprint: str) -> None:
        """Take a slide out of the index; `compact` gives its space back.

        Raises
        ------
        ComirSearchError
            If it is not in the index, or another process writes to the index.
        """
        slide = self.slide(fingerprint)
        with writer_lock(self.storage):
            self.storage.write_json(f"{slide.folder}/{REMOVED_FILE}", slide.record.to_dict())
            self.storage.delete(f"{slide.folder}/{SLIDE_FILE}")
        self.refresh()

    def _load_model(self) -> Model:
        from comir_search.comir.model import load_model

        if self.storage.folder is not None:
            model = load_model(self.storage.folder / MODEL_FILE, self._device)
        else:
            content = self.storage.read(MODEL_FILE)
            if content is None:
                raise ComirSearchError(f"{self.path} lacks its {MODEL_FILE}; copy it there again.")
            with tempfile.TemporaryDirectory() as folder:
                copy = Path(folder) / MODEL_FILE
                copy.write_bytes(content)
                model = load_model(copy, self._device)
        if model.words_fingerprint != self.model_fingerprint:
            raise ComirSearchError(
                f"The {MODEL_FILE} in {self.path} is not the one that the index was made with; put that one "
                "back, or make a new index."
            )
        return model


def layout_for(model: Model, modality: str, region_px: int = REGION_PX) -> Layout:
    """Return how a model's index is cut.

    Raises
    ------
    ComirSearchError
        If the model lacks that side or a vocabulary.
    """
    model.modality(modality)
    vocabulary = model.vocabulary
    if vocabulary is None:
        raise ComirSearchError(
            "The model has no vocabulary (imported ones have none): it can embed and be evaluated, but to index "
            "slides train a model with comir-search train."
        )
    return Layout(
        model_pixel_size_um=model.pixel_size_um,
        stride=model.stride,
        comir_channels=model.comir_channels,
        word_step_px=vocabulary.step_px,
        word_halo_px=-(-vocabulary.halo_px // vocabulary.step_px) * vocabulary.step_px,
        word_maps=vocabulary.n_blocks,
        region_px=region_px,
    )


def find_slide(slide: IndexedSlide, folders: Iterable[str | Path] = ()) -> Path:
    """Find the file of an indexed slide, wherever it has moved.

    Parameters
    ----------
    slide : IndexedSlide
    folders : iterable of path
        Where else to look, subfolders included.

    Returns
    -------
    Path
        A file with the slide's fingerprint.

    Raises
    ------
    ComirSearchError
        If no such file is found.
    """
    from comir_search.slides import find_slides, open_slide

    def is_it(path: Path) -> bool:
        try:
            with open_slide(path) as opened:
                return opened.fingerprint == slide.fingerprint
        except ComirSearchError:
            return False

    for path in (slide.path, Path(slide.record.absolute_path)):
        if is_it(path):
            return path
    looked = [Path(folder) for folder in folders]
    found = [path for folder in looked if folder.is_dir() for path in find_slides([folder])]
    # The same name is the likeliest; opening every slide of a folder takes longest.
    for path in sorted(found, key=lambda path: path.name != slide.name):
        if is_it(path):
            return path
    where = "".join(f", nor in {folder}" for folder in looked)
    raise ComirSearchError(
        f"{slide.name} is not where it was indexed ({slide.record.absolute_path}){where}; "
        "index it again from its new place."
    )

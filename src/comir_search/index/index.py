"""The index: a folder with a model and, for every slide, its CoMIR and word map.

    index.json          format version, model, modality, layout
    model.safetensors   a copy of the model
    writer.lock         the process that writes now
    slides/NAME         a Zarr v3 group per slide, named by its fingerprint (or its identity, if another
                        slide has that fingerprint)
        comir/0 ... 3   CoMIR at 8 bits: CoMIR pixels, and means over 2 x 2, 4 x 4 and 8 x 8 of them
        words           word map
        tissue          tissue mask
        progress.json   the finished parts, for an interrupted run
        slide.json      written last: a slide without it is not in the index

Chunks have checksums, JSON files have a digest, and chunks of empty glass are not
stored. Everything is written append-only, so readers need no lock.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Annotated, Literal

from msgspec import Meta

from comir_search.compute.cache import DEFAULT_CACHE_BYTES, ArrayCache
from comir_search.documents import BadDocument
from comir_search.errors import ComirSearchError
from comir_search.index.indexed_slide import DamagedChunk, IndexedSlide
from comir_search.index.layout import REGION_PX, Layout
from comir_search.index.lock import writer_lock
from comir_search.index.slide_group import ForeignFiles, check_place, folder_of, group_names
from comir_search.index.slide_progress import SlideProgress
from comir_search.index.slide_record import REMOVED_FILE, SLIDE_FILE, SlideRecord
from comir_search.index.storage import INDEX_FILE, Storage
from comir_search.slides import Slide, find_slides, open_slide

if TYPE_CHECKING:
    from comir_search.model.model import Model

__all__ = ["DamagedChunk", "Index", "IndexedSlide"]

FORMAT: Literal["comir-search index"] = "comir-search index"
FORMAT_VERSION = 1
MODEL_FILE = "model.safetensors"

ModelName = Annotated[str, Meta(min_length=1, max_length=64)]


@dataclass(frozen=True)
class IndexHeader:
    """Content of index.json.

    Parameters
    ----------
    format, format_version
        `FORMAT` and `FORMAT_VERSION`.
    model : str
        `Model.words_fingerprint`.
    modality : str
    layout : Layout
    embedding : str
        `Model.embedding_fingerprint`; empty in indexes of older versions.
    """

    format: Literal["comir-search index"]
    format_version: Annotated[int, Meta(ge=1, le=FORMAT_VERSION)]
    model: ModelName
    modality: Annotated[str, Meta(min_length=1, max_length=64)]
    layout: Layout
    embedding: Annotated[str, Meta(max_length=64)] = ""


class Index:
    """An index, open for reading. Use `Index.open` or `Index.create`.

    Attributes
    ----------
    path : Path or str
        Its folder, or its fsspec URL.
    modality : str
        Modality of the slides.
    layout : Layout
        How arrays are divided into chunks.
    cache : ArrayCache
        Decoded chunks of all slides.
    damaged : dict of str to str
        Name and reason of each slide that is left out because its slide.json is damaged.
    """

    def __init__(
        self,
        storage: Storage,
        header: IndexHeader,
        device: str = "auto",
        cache_bytes: int = DEFAULT_CACHE_BYTES,
    ) -> None:
        self.storage = storage
        self.path: Path | str = storage.folder if storage.folder is not None else storage.location
        self.modality = header.modality
        self.layout = header.layout
        self.model_fingerprint = header.model
        self.cache = ArrayCache(cache_bytes)
        self._device = device
        self._model: Model | None = None
        self._slides: dict[str, IndexedSlide] = {}
        self.damaged: dict[str, str] = {}
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
            Folder, created if needed, or fsspec URL.
        model : Model
            It is copied into the index.
        modality : str
            Modality of the slides to index.
        region_px : int
            Side of a region (embedded in one step), model pixels.
        cache_bytes : int
            Limit of the cache of decoded chunks.

        Raises
        ------
        ComirSearchError
            If there is an index already, other files have the names that an index uses, the model
            lacks that modality or a vocabulary, or the folder cannot be written.
        """
        storage = Storage(path)
        layout = layout_for(model, modality, region_px)
        check_new_place(storage, model)
        storage.write(MODEL_FILE, _content_of(model))
        header = IndexHeader(
            FORMAT, FORMAT_VERSION, model.words_fingerprint, modality, layout, model.embedding_fingerprint
        )
        storage.write_document(INDEX_FILE, asdict(header))
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
    ) -> Index:
        """Open an index.

        Parameters
        ----------
        path : path or str
            Folder or fsspec URL.
        device : {"auto", "cpu", "cuda"}
            Device of its model.
        cache_bytes : int
            Limit of the cache of decoded chunks.

        Raises
        ------
        ComirSearchError
            If there is no index, its index.json is damaged, or its format is newer.
        """
        storage = Storage(path)
        index = cls(storage, _read_header(storage), device, cache_bytes)
        index.refresh()
        return index

    @property
    def model(self) -> Model:
        """The model in the index, loaded on first use."""
        with self._lock:
            if self._model is None:
                self._model = self._load_model()
            return self._model

    @property
    def slides(self) -> list[IndexedSlide]:
        """The complete slides, by name."""
        return sorted(self._slides.values(), key=lambda slide: (slide.name, slide.fingerprint))

    def refresh(self) -> None:
        """Update the lists of complete and damaged slides.

        A slide that is already listed stays the same object.

        Raises
        ------
        CannotRead
            If the index is no longer there.
        """
        self.storage.check_reachable()
        slides: dict[str, IndexedSlide] = {}
        damaged: dict[str, str] = {}
        for name in group_names(self.storage):
            try:
                record = self.read_record(name)
            except BadDocument as error:
                damaged[name] = str(error)
                continue
            if record is None:
                continue
            known = self._slides.get(name)
            slides[name] = known if known is not None and known.record == record else self.slide_of(record)
        self._slides, self.damaged = slides, damaged

    def read_record(self, name: str) -> SlideRecord | None:
        """Return the record of a complete slide, None if the slide is missing or incomplete.

        Parameters
        ----------
        name : str
            The slide's name in the index, usually its fingerprint.

        Raises
        ------
        BadDocument
            If the record is damaged.
        CannotRead
            If the operating system cannot read it.
        """
        file = f"{folder_of(name)}/{SLIDE_FILE}"
        advice = f"run `comir-search repair --index {self.path}`"
        record = self.storage.read_document(file, SlideRecord, advice)
        if record is None:
            return None
        if record.fingerprint != name:
            raise BadDocument(f"{self.path}/{file}", "it belongs to another slide", advice)
        try:
            record.grid(self.layout)
        except ValueError as error:
            raise BadDocument(f"{self.path}/{file}", str(error), advice) from None
        return record

    def find_record(self, name: str) -> SlideRecord | None:
        """Return the record of a slide, complete or not, from any undamaged file; None if there is none.

        Raises
        ------
        CannotRead
            If the operating system cannot read it.
        """
        with suppress(BadDocument):
            if (record := self.read_record(name)) is not None:
                return record
        progress = self.read_progress(name)
        return None if progress is None else progress.target.record

    def read_progress(self, name: str) -> SlideProgress | None:
        """Return the progress of an incomplete slide; None if there is none."""
        return SlideProgress.read(self.storage, name, self.slide_of)

    def write_record(self, record: SlideRecord) -> None:
        """Write the record of a complete slide, or update it."""
        self.storage.write_document(f"{folder_of(record.fingerprint)}/{SLIDE_FILE}", record.to_dict())

    def slide_of(self, record: SlideRecord) -> IndexedSlide:
        """Return the arrays of a slide, complete or not; ValueError if record and layout do not match."""
        return IndexedSlide(self.storage, self.layout, record, self.cache)

    def slide(self, fingerprint: str) -> IndexedSlide:
        """Return the complete slide with this fingerprint.

        Raises
        ------
        ComirSearchError
            If it is not in the index.
        """
        if fingerprint not in self._slides:
            raise ComirSearchError(f"The index {self.path} contains no slide {fingerprint}; index it first.")
        return self._slides[fingerprint]

    def find(self, slide: Slide) -> IndexedSlide | None:
        """Return the indexed slide of a file, None if there is none: by identity if known, else by fingerprint."""
        held = [each for each in self._slides.values() if each.record.is_of(slide)]
        return min(held, key=lambda each: each.record.identity == "", default=None)

    def remove(self, fingerprint: str) -> None:
        """Remove a slide from the index; `compact` frees its space.

        Raises
        ------
        ComirSearchError
            If it is not in the index, or another process writes to the index.
        """
        slide = self.slide(fingerprint)
        with writer_lock(self.storage):
            self.storage.write_document(f"{slide.folder}/{REMOVED_FILE}", slide.record.to_dict())
            self.storage.delete(f"{slide.folder}/{SLIDE_FILE}")
        self.refresh()

    def renew_model(self, model: Model) -> None:
        """Replace the index's model by one that gives the same stored data, such as a new calibration.

        The caller must hold the writer's lock.

        Raises
        ------
        ComirSearchError
            If the slides' embeddings or words would differ.
        """
        if model.words_fingerprint != self.model_fingerprint:
            raise ComirSearchError(f"The index {self.path} was made with another model.")
        self.storage.write(MODEL_FILE, _content_of(model))
        with self._lock:
            self._model = model

    def _load_model(self) -> Model:
        from comir_search.model.model import load_model

        if not self.storage.exists(MODEL_FILE):
            self.storage.check_reachable()
            raise ComirSearchError(f"{self.path} has lost its {MODEL_FILE}; copy the model there again.")
        if self.storage.folder is not None:
            model = load_model(self.storage.folder / MODEL_FILE, self._device)
        else:
            with tempfile.TemporaryDirectory() as folder:
                copy = Path(folder) / MODEL_FILE
                copy.write_bytes(self.storage.read(MODEL_FILE) or b"")
                model = load_model(copy, self._device)
        if model.words_fingerprint != self.model_fingerprint:
            raise ComirSearchError(
                f"The {MODEL_FILE} in {self.path} is not the one with which the index was made; put that one "
                "back, or make a new index."
            )
        if layout_for(model, self.modality, self.layout.region_px) != self.layout:
            raise ComirSearchError(
                f"{self.path}/{INDEX_FILE} does not match the model of the index; restore it from a copy, or make a "
                "new index in another folder."
            )
        return model


def check_new_place(storage: Storage, model: Model) -> None:
    """Check that a new index would not overwrite other files.

    Parameters
    ----------
    storage : Storage
    model : Model
        The index's model. A partial copy of it from a killed run is accepted.

    Raises
    ------
    ComirSearchError
        If there is an index, or another file has a name that an index uses.
    """
    if storage.exists(INDEX_FILE):
        raise ComirSearchError(
            f"{storage.location} already contains an index; open it, or choose another folder."
        )
    check_place(storage)
    for name in (INDEX_FILE, MODEL_FILE):
        storage.check_own(name)
    held = storage.read(MODEL_FILE)
    if held is not None and held != _content_of(model):
        raise ForeignFiles(
            f"{storage.location} contains a {MODEL_FILE} but no {INDEX_FILE}, and an index would store its own model "
            "under that name; move that file elsewhere, or choose another folder with --index."
        )


def _content_of(model: Model) -> bytes:
    """Return the content of a model's file."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / MODEL_FILE
        model.save(copy)
        return copy.read_bytes()


def _read_header(storage: Storage) -> IndexHeader:
    """Read index.json.

    Raises
    ------
    ComirSearchError
        If there is no index, it is damaged, or its format is newer.
    """
    path = storage.location
    advice = "restore it from a copy, or make a new index in another folder"
    values = storage.read_values(INDEX_FILE, advice)
    if values is None:
        raise ComirSearchError(f"{path} contains no index; make one with `comir-search index`.")
    if values.get("format") != FORMAT:
        raise ComirSearchError(f"{path} contains an {INDEX_FILE} of another program; choose another folder.")
    version = values.get("format_version")
    if isinstance(version, int) and version > FORMAT_VERSION:
        raise ComirSearchError(
            f"{path} has index format {version}, newer than this program's {FORMAT_VERSION}; update "
            "napari-comir-search."
        )
    header = storage.read_document(INDEX_FILE, IndexHeader, advice)
    assert header is not None
    return header


def layout_for(model: Model, modality: str, region_px: int = REGION_PX) -> Layout:
    """Return how the arrays of a model's index are divided.

    Parameters
    ----------
    model : Model
    modality : str
        Modality of the slides.
    region_px : int
        Side of a region, model pixels.

    Raises
    ------
    ComirSearchError
        If the model lacks that modality or a vocabulary.
    """
    model.modality(modality)
    vocabulary = model.vocabulary
    if vocabulary is None:
        raise ComirSearchError(
            "The model has no vocabulary (imported models have none): it can embed images and be evaluated, but not "
            "index slides; for that, train a model with comir-search train."
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
    """Find the file of an indexed slide, also after it was moved.

    Parameters
    ----------
    slide : IndexedSlide
    folders : iterable of path
        Other folders to search, with their subfolders.

    Returns
    -------
    Path
        A file with the slide's identity or, in older indexes, its fingerprint.

    Raises
    ------
    ComirSearchError
        If no such file is found.
    """

    def is_it(path: Path) -> bool:
        try:
            with open_slide(path) as opened:
                return slide.record.is_of(opened)
        except ComirSearchError:
            return False

    for path in (slide.path, Path(slide.record.absolute_path)):
        if is_it(path):
            return path
    looked = [Path(folder) for folder in folders]
    found = find_slides(looked, [])  # missing and unreadable files are skipped
    # Files of the same name first, since opening every slide of a folder takes long.
    for path in sorted(found, key=lambda path: path.name != slide.name):
        if is_it(path):
            return path
    where = "".join(f", nor in {folder}" for folder in looked)
    raise ComirSearchError(
        f"{slide.name} was not found where it was indexed ({slide.record.absolute_path}){where}; "
        "index it again from its new folder."
    )

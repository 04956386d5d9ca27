"""The program's own search in the paper's protocol: each place counts for the nearest window."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from comir_search.errors import BatchIncomplete, ComirSearchError
from comir_search.evaluation.protocol import Window
from comir_search.evaluation.views import View, Viewer
from comir_search.index.build import index_slides_steps
from comir_search.index.index import Index
from comir_search.progress import Job
from comir_search.records import Candidate
from comir_search.retrieval.options import SearchOptions
from comir_search.retrieval.search import QuerySearch
from comir_search.slides import open_slide, slide_from_array

TOP = 50


class DefaultSearch:
    """Ranks windows by the places that a search of the whole images finds.

    Verified candidates come first, then the other places of the coarsest round.

    Parameters
    ----------
    viewer : Viewer
    files : mapping of str to Path
        Images of the repository, by id.
    windows : sequence of Window
    modality : str
        Modality of the repository.
    folder : Path
        Where the index is written.
    """

    def __init__(
        self,
        viewer: Viewer,
        files: Mapping[str, Path],
        windows: Sequence[Window],
        modality: str,
        folder: Path,
    ) -> None:
        self._viewer, self._model = viewer, viewer.model
        self._files, self._modality, self._folder = files, modality, folder
        self._windows: dict[str, list[tuple[int, Window]]] = {}
        ids = {path.name: image for image, path in files.items()}
        names = {image: name for name, image in ids.items()}
        for number, window in enumerate(windows):
            self._windows.setdefault(names[window.image], []).append((number, window))

    def prepare_steps(self, windows: Sequence[View]) -> Job[None]:
        """Index the images.

        Raises
        ------
        ComirSearchError
            If one of them cannot be indexed, or is a copy of another.
        """
        stated = [path for path in self._files.values() if self._viewer.pixel_size_of(path)]
        others = [path for path in self._files.values() if path not in set(stated)]
        for paths, size_um in ((stated, None), (others, self._viewer.default_pixel_size_um)):
            if not paths:
                continue
            try:
                yield from index_slides_steps(
                    paths, self._folder, model=self._model, modality=self._modality, pixel_size_um=size_um
                )
            except BatchIncomplete as incomplete:
                # Its windows would count as not found, although they were not searched.
                raise ComirSearchError(incomplete.left_out[0].reason) from incomplete
        self._index = Index.open(self._folder, device=self._model.device.type)
        self._check_copies()

    def _check_copies(self) -> None:
        """Raise an error if two images are identical, because a place cannot tell which one is right."""
        held = {slide.name for slide in self._index.slides}
        for path in self._files.values():
            if path.name in held:
                continue
            with open_slide(path, pixel_size_um=self._viewer.default_pixel_size_um) as slide:
                twin = self._index.find(slide)
            raise ComirSearchError(
                f"{path} is an identical copy of {twin.name if twin else 'another image'}, so it is not "
                "clear which one is the right answer; remove one of the two from the folders."
            )

    def rank_steps(self, query: View) -> Job[list[int]]:
        """Return the windows in the order of the places, each window once."""
        if query.image.max() == query.image.min():
            return []  # a search does not accept a constant query
        image = query.image[..., 0] if query.image.shape[2] == 1 else query.image
        slide = slide_from_array(image, pixel_size_um=self._model.pixel_size_um, name="query")
        options = SearchOptions(modality=query.modality, top=TOP)
        search = QuerySearch(self._index, slide, options)
        result = yield from search.run_steps()
        places = [*result.candidates, *search.rank(search.fused)]
        return list(dict.fromkeys(self._nearest_window(place) for place in places))

    def _nearest_window(self, place: Candidate) -> int:
        here = np.array([place.center_x_um, place.center_y_um]) / self._model.pixel_size_um
        entries = self._windows[place.slide]
        distances = [float(np.hypot(*(here - window.center))) for _, window in entries]
        return entries[int(np.argmin(distances))][0]

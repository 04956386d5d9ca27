"""The public names, for `lazy_loader`, type checkers and editors."""

from .errors import ComirSearchError as ComirSearchError
from .index.build import index_slides as index_slides
from .index.index import Index as Index
from .index.options import IndexOptions as IndexOptions
from .matching.surf import dense_surf as dense_surf
from .model.model import Model as Model
from .model.model import load_model as load_model
from .records import Candidate as Candidate
from .records import SearchResult as SearchResult
from .records import SlideInfo as SlideInfo
from .retrieval.options import SearchOptions as SearchOptions
from .retrieval.search import search as search
from .slides import Slide as Slide
from .slides import open_slide as open_slide
from .training.options import TrainOptions as TrainOptions
from .version import __version__ as __version__

"""The first home of `dense_surf`, kept for scripts that import it from here."""

from comir_search.matching.surf import DenseFeatures, dense_surf, surf_maps

__all__ = ["DenseFeatures", "dense_surf", "surf_maps"]

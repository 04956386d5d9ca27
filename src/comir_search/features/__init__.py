"""Local descriptors on a dense grid."""

from comir_search.features.surf import DenseFeatures, dense_surf, surf_maps

__all__ = ["DenseFeatures", "dense_surf", "surf_maps"]

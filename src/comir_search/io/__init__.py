"""Projects, exports, pictures and reports."""

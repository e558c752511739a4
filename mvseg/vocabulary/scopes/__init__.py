"""Annotation scopes: which label columns an image's annotation speaks about.

``registry`` says what a scope is, ``kinds`` holds those that exist, ``mixture`` computes them for a batch of images.
"""

from . import kinds  # noqa: F401  (registers the scopes)
from .mixture import AnnotationScopes, BatchScope, ClassRules
from .registry import RECORD_LISTS, ImageFacts, Scope, ScopeSettings, build_scope, register_scope, scope_names

__all__ = [
    "RECORD_LISTS",
    "AnnotationScopes",
    "BatchScope",
    "ClassRules",
    "ImageFacts",
    "Scope",
    "ScopeSettings",
    "build_scope",
    "register_scope",
    "scope_names",
]

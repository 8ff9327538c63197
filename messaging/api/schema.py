"""Serves the description of our API, which is made once: to make it takes as long as fifty other pages."""

from functools import cache
from threading import Lock

from django.http import HttpRequest, HttpResponse
from django.views.decorators.http import require_safe
from drf_spectacular.generators import SchemaGenerator
from drf_spectacular.renderers import OpenApiJsonRenderer, OpenApiYamlRenderer

_making = Lock()  # what makes it fails where two threads are at it


@require_safe
def schema(request: HttpRequest) -> HttpResponse:
    """Give the OpenAPI document: YAML, or JSON to who accepts JSON."""
    as_json = "json" in request.headers.get("Accept", "")
    renderer = OpenApiJsonRenderer if as_json else OpenApiYamlRenderer
    with _making:
        return HttpResponse(_document(as_json=as_json), content_type=renderer.media_type)


@cache
def _document(*, as_json: bool) -> bytes:
    renderer = OpenApiJsonRenderer() if as_json else OpenApiYamlRenderer()
    generator = SchemaGenerator()  # type: ignore[no-untyped-call]
    document: bytes = renderer.render(generator.get_schema(request=None, public=True))  # type: ignore[no-untyped-call]
    return document

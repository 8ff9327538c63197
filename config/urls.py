"""Where URLs begin."""

from django.contrib import admin
from django.urls import include, path

from config import health

urlpatterns = [
    path("readyz", health.ready),
    path("admin/", admin.site.urls),
    path("", include("templates_ui.urls")),
    path("", include("messaging.urls")),
    path("", include("tenants.urls")),
]

"""The addresses of the panel. The component in Salesforce glues ``?id=`` and the record's id onto them."""

from django.urls import path

from templates_ui import views

urlpatterns = [
    path("templates", views.start, name="templates_start"),
    path("e/<slug:handle>/templates", views.show_panel, name="templates"),
]

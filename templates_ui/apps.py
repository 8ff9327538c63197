from django.apps import AppConfig


class TemplatesUiConfig(AppConfig):
    name = "templates_ui"

"""How pages write phone numbers."""

from django import template
from django.utils.html import format_html
from django.utils.safestring import SafeString

from connector.phone import shown

register = template.Library()


@register.filter
def phone(address: str) -> SafeString:
    """Write an address for people: a number stays in one line, with its digits in their order beside any script."""
    words = shown(address)
    return format_html('<bdi class="number">{}</bdi>' if words.startswith("+") else "<bdi>{}</bdi>", words)

"""How pages write phone numbers."""

from django import template

from connector.phone import shown

register = template.Library()
register.filter("phone", shown)

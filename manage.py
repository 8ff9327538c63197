#!/usr/bin/env python
"""Django's command line."""

import os
import sys

from django.core.management import execute_from_command_line

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings")
os.environ.setdefault("LOG_STREAM", "stderr")  # a command prints its result, and nothing else
execute_from_command_line(sys.argv)

#!/usr/bin/env python
"""Django's command line."""

import os
import sys

if __name__ == "__main__":
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "webapp.settings")
    # Whoever types a command without SECRET_KEY is on a laptop; a server process started without it refuses.
    os.environ.setdefault("STAGECRAFT_LOCAL", "0" if os.environ.get("SECRET_KEY") else "1")
    from django.core.management import execute_from_command_line

    execute_from_command_line(sys.argv)

#!/usr/bin/env python
"""Django's command line."""

import os
import sys

if __name__ == "__main__":
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "webapp.settings")
    # Whoever types a command without SECRET_KEY is on a laptop; a server process started without it refuses.
    os.environ.setdefault("STAGECRAFT_LOCAL", "0" if os.environ.get("SECRET_KEY") else "1")
    try:
        from django.core.exceptions import ImproperlyConfigured
        from django.core.management import execute_from_command_line

        execute_from_command_line(sys.argv)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] in ("webapp", "trainer"):
            raise
        sys.exit(f"The package {error.name!r} is missing. Run `make run`, or: pip install -r requirements.lock")
    except ImproperlyConfigured as error:
        sys.exit(str(error))

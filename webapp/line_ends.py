"""One line end at the door of every form.

A browser that sends a form itself ends lines with "\r\n", whatever stood in the text area; what scripts
send may end them with "\n". A model reads the two as different texts and answers them differently, and
texts that should be equal are not. So every form's fields are read with "\n", by any view, the admin's
included. Files are left as they are.
"""

from __future__ import annotations

from typing import Any

from django.http import HttpRequest, QueryDict
from django.utils.deprecation import MiddlewareMixin

from trainer.data.preferences import one_line_end


class LineEndMiddleware(MiddlewareMixin):
    """After CsrfViewMiddleware, which has read the form by then, and refused the one that is not ours."""

    def process_view(self, request: HttpRequest, *view: Any) -> None:
        if request.method != "POST" or not any("\r" in text for _, texts in request.POST.lists() for text in texts):
            return
        form = QueryDict(mutable=True, encoding=request.POST.encoding)
        for name, texts in request.POST.lists():
            form.setlist(name, [one_line_end(text) for text in texts])
        form._mutable = False
        request.POST = form  # type: ignore[assignment]  # the stubs know only the immutable kind

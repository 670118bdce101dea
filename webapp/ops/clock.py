"""Moments by the database's clock, for conditions and UPDATEs that hosts must agree on though their clocks differ."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from django.db.models import DateTimeField, ExpressionWrapper
from django.db.models.functions import Now


def seconds_from_now(seconds: float) -> Any:
    """When a lease ends; negative for the past."""
    return ExpressionWrapper(Now() + timedelta(seconds=seconds), output_field=DateTimeField())

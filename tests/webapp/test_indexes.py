"""No index holds text longer than PostgreSQL can index, in whatever script it is written."""

from __future__ import annotations

import pytest
from django.apps import apps
from django.db import models

from webapp.arena.models import Prompt

LARGEST_INDEX_ENTRY = 2704
"""Bytes, of a B-tree: https://www.postgresql.org/docs/15/btree-implementation.html"""
BYTES_PER_CHARACTER = 4


def indexed_fields() -> list[tuple[str, list[models.Field[object, object]]]]:
    """(name, fields) of every index the models ask for."""
    found = []
    for model in apps.get_models():
        options = model._meta
        for field in options.local_fields:
            if field.unique or field.db_index:
                found.append((f"{options.label}.{field.name}", [field]))
        indexes = [*options.indexes, *(c for c in options.constraints if isinstance(c, models.UniqueConstraint))]
        for one in indexes:
            found.append((f"{options.label} {one.name}", [options.get_field(name.lstrip("-")) for name in one.fields]))
    return found  # type: ignore[return-value]


@pytest.mark.parametrize(
    ("name", "fields"), indexed_fields(), ids=lambda value: value if isinstance(value, str) else ""
)
def test_it_fits(name: str, fields: list[models.Field[object, object]]) -> None:
    texts = [field for field in fields if isinstance(field, models.CharField | models.TextField)]
    assert all(field.max_length for field in texts), "an index on text of any length"
    assert sum(BYTES_PER_CHARACTER * (field.max_length or 0) for field in texts) <= LARGEST_INDEX_ENTRY


@pytest.mark.django_db
def test_the_longest_prompt_there_may_be_is_kept_once() -> None:
    text = "".join(chr(0x4E00 + number) for number in range(2000))  # incompressible, three bytes each
    Prompt.objects.add([text, text], source=Prompt.Source.STAFF)
    Prompt.objects.add([text], source=Prompt.Source.CHAT)
    assert Prompt.objects.get().source == "staff"
    assert Prompt.objects.with_texts([text]).count() == 1

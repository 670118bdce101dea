"""What a vote's form may say."""

from __future__ import annotations

from django import forms

from webapp.arena.models import Vote
from webapp.arena.voting import REASONS


class VoteForm(forms.Form):
    choice = forms.ChoiceField(choices=Vote.Choice.choices)
    reasons = forms.MultipleChoiceField(choices=list(REASONS.items()), required=False)

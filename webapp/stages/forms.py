from __future__ import annotations

from django import forms
from django.conf import settings

from webapp.stages.next_tokens import TEMPERATURES


class HomeForm(forms.Form):
    """Which of the fixed questions the home page shows, and what the reader already has of it."""

    q = forms.IntegerField(min_value=0, required=False)
    v = forms.CharField(max_length=64, required=False)


class PlaceForm(forms.Form):
    """Which of the steps of a run is shown, from 1."""

    place = forms.IntegerField(min_value=1, max_value=2**31 - 1, required=False)


class MaskForm(forms.Form):
    """A conversation of one or two turns, typed to see what of it would count in the loss."""

    asked = forms.CharField(max_length=300, required=False, label="A person asks")
    answered = forms.CharField(max_length=300, required=False, label="The assistant answers")
    asked_then = forms.CharField(max_length=300, required=False, label="Then the person asks")
    answered_then = forms.CharField(max_length=300, required=False, label="And the assistant answers")

    def turns(self) -> list[tuple[str, str]]:
        """Those with a question and an answer."""
        said = self.cleaned_data
        both = [(said["asked"], said["answered"]), (said["asked_then"], said["answered_then"])]
        return [(asked, answered) for asked, answered in both if asked and answered]


class NextForm(forms.Form):
    """A text, and the temperature at which its next token would be drawn."""

    text = forms.CharField(max_length=200, strip=False, label="After the text")
    temperature = forms.FloatField(min_value=TEMPERATURES[0], max_value=TEMPERATURES[-1], required=False)

    def clean_temperature(self) -> float:
        """The nearest there is; 1 where none is named."""
        wanted = self.cleaned_data["temperature"]
        return min(TEMPERATURES, key=lambda one: abs(one - (1.0 if wanted is None else wanted)))


class SuggestForm(forms.Form):
    """What to ask, and where it is to stand: before every stage, or in a new chat (with a checkpoint)."""

    about = forms.ChoiceField(choices=[("problem", "a problem"), ("votes", "what was voted on")], required=False)
    to = forms.ChoiceField(choices=[("compare", "every stage"), ("chat", "a new chat")], required=False)
    checkpoint = forms.IntegerField(min_value=1, max_value=2**62, required=False)


class CompareForm(forms.Form):
    """One prompt for every stage."""

    text = forms.CharField(
        label="Your prompt",
        max_length=settings.MESSAGE_MAX_CHARS,
        widget=forms.Textarea(attrs={"rows": 3, "placeholder": "Ask them all the same thing …"}),
        error_messages={"required": "Write something first."},
    )
    temperature = forms.FloatField(
        label="Temperature",
        min_value=0,
        max_value=2,
        initial=0.7,
        required=False,
        help_text="0 always takes the likeliest token; 1 follows the model’s own odds.",
        widget=forms.NumberInput(attrs={"step": "0.1"}),
    )
    max_new_tokens = forms.IntegerField(
        label="Longest answer, in tokens",
        min_value=1,
        max_value=256,
        initial=96,
        required=False,
    )
    seed = forms.IntegerField(
        label="Seed",
        min_value=0,
        max_value=2**31 - 1,
        required=False,
        help_text="The same seed gives the same answers again. Empty: a new one.",
    )

    def settings_fields(self) -> list[forms.BoundField]:
        return [self["temperature"], self["max_new_tokens"], self["seed"]]

    def sampling(self) -> dict[str, float | int]:
        """The settings that were filled in; the rest are the form's defaults."""
        chosen = {name: self.cleaned_data[name] for name in ("temperature", "max_new_tokens", "seed")}
        defaults = {name: self.fields[name].initial for name in chosen}
        merged = {name: defaults[name] if value is None else value for name, value in chosen.items()}
        return {name: value for name, value in merged.items() if value is not None}

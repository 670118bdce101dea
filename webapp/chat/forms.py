"""What people fill in: a message with the settings it is answered under, and a title."""

from __future__ import annotations

from typing import Any

from django import forms
from django.conf import settings
from django.core.exceptions import NON_FIELD_ERRORS

from trainer.config import CHAT_STAGES
from webapp.chat.models import Conversation
from webapp.chat.services import DEFAULT_SAMPLING
from webapp.chat.threads import Shown
from webapp.checkpoints.models import Checkpoint

ERRORS_ID = "composer-error"
"""Where the composer says what is wrong with it, in one sentence."""


class CheckpointSelect(forms.Select):
    """A select that always has a choice selected, so it asks for no `required` (finding out would cost a query)."""

    def use_required_attribute(self, initial: Any) -> bool:
        return False


class CheckpointField(forms.ModelChoiceField):  # type: ignore[type-arg]  # not generic at run time
    """Any checkpoint that writes text, the furthest trained first."""

    widget = CheckpointSelect(attrs={"aria-describedby": ERRORS_ID})

    def label_from_instance(self, obj: Any) -> str:
        return f"{CHAT_STAGES.index(obj.stage) + 1} · {obj.get_stage_display()} · {obj.name}"


class SettingsForm(forms.Form):
    """Who answers, and how. What is not filled in stays as the conversation has it."""

    SAMPLING = ("temperature", "top_k", "top_p", "max_new_tokens", "seed")

    checkpoint = CheckpointField(queryset=Checkpoint.objects.none(), label="Model", empty_label=None)
    temperature = forms.FloatField(
        min_value=0,
        max_value=2,
        required=False,
        widget=forms.NumberInput(attrs={"step": "0.05"}),
        help_text="0 always takes the likeliest token; higher is more varied.",
    )
    top_k = forms.IntegerField(
        label="Top-k", min_value=0, max_value=1000, required=False, help_text="Only the k likeliest tokens; 0 is all."
    )
    top_p = forms.FloatField(
        label="Top-p",
        min_value=0.01,
        max_value=1,
        required=False,
        widget=forms.NumberInput(attrs={"step": "0.01"}),
        help_text="Only the likeliest that make up this much; 1 is all.",
    )
    max_new_tokens = forms.IntegerField(
        label="Longest answer", min_value=1, max_value=1024, required=False, help_text="In tokens, a few letters each."
    )
    seed = forms.IntegerField(
        min_value=0, max_value=2**31 - 1, required=False, help_text="The same seed repeats an answer. Empty: random."
    )

    def __init__(self, *args: Any, conversation: Conversation | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.kept: dict[str, Any] = {**DEFAULT_SAMPLING, **(conversation.sampling if conversation else {})}
        choices = Checkpoint.objects.chattable()
        if conversation is not None:  # its own stays choosable when it has been archived since
            choices |= Checkpoint.objects.filter(pk=conversation.checkpoint_id)
        field = self.fields["checkpoint"]
        assert isinstance(field, forms.ModelChoiceField)
        field.queryset = choices.by_progress()

    @property
    def sampling(self) -> dict[str, Any]:
        given = {key: self.cleaned_data[key] for key in self.SAMPLING if self.cleaned_data[key] is not None}
        if "seed" in self.data and "seed" not in given:
            given["seed"] = None  # emptied on purpose: a new one for every answer
        return {**self.kept, **given}

    def sampling_fields(self) -> list[forms.BoundField]:
        """The drawer's fields."""
        return [self[key] for key in self.SAMPLING]

    @property
    def one_error(self) -> str:
        """What is wrong, in one sentence; empty when nothing is."""
        for name, errors in self.errors.items():
            plain = name in ("text", NON_FIELD_ERRORS)
            return str(errors[0]) if plain else f"{self[name].label}: {errors[0]}"
        return ""


class ComposerForm(SettingsForm):
    """A message to send."""

    use_required_attribute = False  # one error text, ours, instead of the browser's bubble

    text = forms.CharField(
        label="Message",
        max_length=settings.MESSAGE_MAX_CHARS,
        widget=forms.Textarea(attrs={"rows": 1, "placeholder": "Write a message …", "aria-describedby": ERRORS_ID}),
        error_messages={
            "required": "Write something first.",
            "max_length": "That is %(show_value)s characters; a message may have %(limit_value)s.",
        },
    )

    leaf = forms.UUIDField(required=False)
    """The last turn the page showed; it comes with the thread, not with the composer's own fields."""


class ShownForm(forms.Form):
    """What the page that asks shows, sent along by htmx; without it the whole thread is drawn."""

    leaf = forms.UUIDField()
    as_of = forms.DateTimeField()

    @property
    def shown(self) -> Shown | None:
        return Shown(**self.cleaned_data) if self.is_valid() else None


class EditForm(forms.Form):
    text = forms.CharField(max_length=settings.MESSAGE_MAX_CHARS, error_messages={"required": "Write something first."})


class TitleForm(forms.Form):
    title = forms.CharField(max_length=120, error_messages={"required": "A title cannot be empty."})

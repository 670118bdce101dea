"""Everything people send about runs."""

from __future__ import annotations

from typing import Any

from django import forms

from trainer.config import GRPO, INIT, PARENT_STAGES, PPO, REWARD, STAGE_TITLES
from trainer.presets import PRESETS, RECIPES, is_size
from trainer.world.tastes import get_taste
from webapp.arena import tally
from webapp.checkpoints.models import Checkpoint
from webapp.training import curriculum, services
from webapp.training.models import TrainingRun


def _presets(stage: str) -> list[tuple[str, str]]:
    """Sizes for models of our own, recipes for those from elsewhere: what this site has models for.

    Random weights can only be of a size.
    """
    made_by = set(Checkpoint.objects.listed().order_by().values_list("preset", flat=True).distinct())
    offered = {} if all(map(is_size, made_by)) or stage == INIT else dict(RECIPES)
    if not made_by or stage == INIT or any(map(is_size, made_by)):
        offered |= PRESETS
    return [(name, f"{name}: {preset.summary}") for name, preset in offered.items()]


class StopForm(forms.Form):
    how = forms.ChoiceField(
        choices=[(request.value, request.label) for request in TrainingRun.StopRequest if request.value]
    )


class NextStepForm(forms.Form):
    shown = forms.CharField(required=False)
    taste = forms.CharField(required=False)
    again = forms.BooleanField(required=False)
    overrule_doubts = forms.BooleanField(required=False)

    def clean_taste(self) -> str:
        """A taste's name, or nothing where people vote."""
        taste = str(self.cleaned_data["taste"])
        if taste:
            try:
                get_taste(taste)
            except ValueError as error:
                raise forms.ValidationError(str(error)) from error
        return taste


class RunForm(forms.Form):
    """A run of one stage. The fields, and the checkpoints offered, are those the stage can use.

    It is valid in spite of doubts about a reward model: they are shown with the estimate, beside the
    checkbox that overrules them.
    """

    preset = forms.ChoiceField(
        help_text="Its settings for this stage. The model keeps the size of the checkpoint it starts from: adapted-… "
        "and full-… are for models that come from elsewhere.",
    )
    parent = forms.ModelChoiceField(Checkpoint.objects.none(), label="Start from", empty_label=None)
    reward_model = forms.ModelChoiceField(
        Checkpoint.objects.none(), label="Reward model", empty_label=None, help_text="What PPO is to please."
    )
    votes = forms.ChoiceField(label="Votes to use")
    seed = forms.IntegerField(
        min_value=0,
        max_value=services.MAX_SEED,
        initial=0,
        help_text="The same seed and inputs give the same weights.",
    )
    overrule_doubts = forms.BooleanField(required=False, label="Train with it all the same")

    def __init__(self, *args: Any, stage: str, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.stage = stage
        parent, reward_model = curriculum.usual_inputs(stage)
        listed = Checkpoint.objects.listed()
        self._offer("parent", listed.filter(stage__in=PARENT_STAGES[stage]), parent, wanted=bool(PARENT_STAGES[stage]))
        self._offer("reward_model", listed.filter(stage=REWARD), reward_model, wanted=stage in (PPO, GRPO))
        if stage == GRPO:
            self._make_judge_optional()
        if stage != PPO:
            del self.fields["overrule_doubts"]
        if stage == REWARD:
            counts = {source: tally.training_votes(source=source) for source in services.VOTE_SOURCES}
            choices = [(s, f"{title} ({counts[s]})") for s, title in services.VOTE_SOURCES.items()]
            self.fields["votes"].choices = choices  # type: ignore[attr-defined]
        else:
            del self.fields["votes"]
        self.fields["preset"].choices = _presets(stage)  # type: ignore[attr-defined]
        self.fields["preset"].initial = services.usual_preset(parent)

    def _offer(self, name: str, checkpoints: Any, usual: Checkpoint | None, *, wanted: bool) -> None:
        if not wanted:
            del self.fields[name]
            return
        self.fields[name].queryset = checkpoints  # type: ignore[attr-defined]
        self.fields[name].initial = usual

    def _make_judge_optional(self) -> None:
        judge = self.fields["reward_model"]
        assert isinstance(judge, forms.ModelChoiceField)
        judge.required, judge.empty_label = False, "none"
        judge.help_text = "Measures how much of the taste it learnt the model keeps; it is not trained against."

    def clean(self) -> dict[str, Any]:
        cleaned = super().clean() or {}
        if not self.errors:
            try:
                services.check_run(**{**self.run_arguments(), "overrule_doubts": True})
            except ValueError as error:
                raise forms.ValidationError(str(error)) from error
        return cleaned

    def run_arguments(self) -> dict[str, Any]:
        """What queue_run is called with."""
        cleaned = self.cleaned_data
        return {
            "stage": self.stage,
            "preset": cleaned["preset"],
            "parent": cleaned.get("parent"),
            "reward_model": cleaned.get("reward_model"),
            "votes": cleaned.get("votes") or "all",
            "seed": cleaned["seed"],
            "overrule_doubts": cleaned.get("overrule_doubts", False),
        }

    def doubts(self) -> list[str]:
        """What speaks against the reward model that was chosen."""
        return services.doubts(stage=self.stage, reward_model=self.cleaned_data.get("reward_model"))

    def input_fields(self) -> list[forms.BoundField]:
        """All but the checkbox, which stands beside the doubts it overrules."""
        return [field for field in self if field.name != "overrule_doubts"]

    def votes_used(self) -> int:
        return tally.training_votes(source=self.cleaned_data["votes"]) if self.stage == REWARD else 0

    @property
    def missing(self) -> str:
        """What has to be there before this stage can run at all; empty when all is."""
        for name, stages in (("parent", PARENT_STAGES[self.stage]), ("reward_model", (REWARD,))):
            field = self.fields.get(name)
            if isinstance(field, forms.ModelChoiceField) and field.required and not field.queryset:
                wanted = " or ".join(STAGE_TITLES[stage].lower() for stage in stages)
                return f"This stage needs a checkpoint of {wanted}, and there is none yet."
        return ""

    @property
    def stage_title(self) -> str:
        return STAGE_TITLES[self.stage]

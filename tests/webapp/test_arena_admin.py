"""What staff see and may do about prompts, pairs and votes."""

from __future__ import annotations

from typing import Any

import pytest
from django.test import Client
from django.urls import reverse

from tests.webapp.arena_factory import make_pair, make_prompts, make_vote
from webapp.arena.models import Prompt, Vote

pytestmark = pytest.mark.django_db

LISTS = ["admin:arena_prompt_changelist", "admin:arena_pair_changelist", "admin:arena_vote_changelist"]


@pytest.mark.parametrize("name", LISTS)
def test_the_lists_open_for_staff_only(
    make_checkpoint: Any, staff_client: Client, alice_client: Client, name: str
) -> None:
    make_vote(make_pair(make_checkpoint("sft"), prompt=make_prompts(1)[0]))
    assert staff_client.get(reverse(name)).status_code == 200
    assert alice_client.get(reverse(name)).status_code == 302


def test_staff_add_a_prompt_and_it_is_marked_as_theirs(staff_client: Client) -> None:
    staff_client.post(reverse("admin:arena_prompt_add"), {"text": "Why is bread brown?", "active": "on"})
    assert Prompt.objects.get().source == Prompt.Source.STAFF


def test_switching_a_prompt_off_keeps_where_it_came_from(staff_client: Client) -> None:
    prompt = Prompt.objects.create(text="Why?", source=Prompt.Source.SHIPPED)
    staff_client.post(reverse("admin:arena_prompt_change", args=[prompt.pk]), {"text": "Why?"})
    prompt.refresh_from_db()
    assert (prompt.active, prompt.source) == (False, Prompt.Source.SHIPPED)


def test_each_checkbox_of_the_list_says_which_prompt_it_switches(staff_client: Client) -> None:
    prompts = make_prompts(2)
    page = staff_client.get(reverse("admin:arena_prompt_changelist")).content.decode()
    for prompt in prompts:
        assert f'aria-label="Active: {prompt.text}"' in page


def test_prompts_are_switched_off_from_the_list(staff_client: Client) -> None:
    prompt = make_prompts(1)[0]
    management = {"form-TOTAL_FORMS": 1, "form-INITIAL_FORMS": 1, "form-0-id": prompt.pk, "_save": "Save"}
    staff_client.post(reverse("admin:arena_prompt_changelist"), management)
    prompt.refresh_from_db()
    assert not prompt.active


def test_votes_and_pairs_cannot_be_added_changed_or_deleted(make_checkpoint: Any, owner_client: Client) -> None:
    vote = make_vote(make_pair(make_checkpoint("sft")))
    for model, pk in (("vote", vote.pk), ("pair", vote.pair_id)):
        assert owner_client.get(reverse(f"admin:arena_{model}_add")).status_code == 403
        assert owner_client.get(reverse(f"admin:arena_{model}_change", args=[pk])).status_code == 200
        assert owner_client.post(reverse(f"admin:arena_{model}_change", args=[pk]), {"choice": "b"}).status_code == 403
        assert owner_client.post(reverse(f"admin:arena_{model}_delete", args=[pk]), {"post": "yes"}).status_code == 403
    assert Vote.objects.get().choice == "a"


def test_the_votes_list_shows_alpha_and_position_bias(make_checkpoint: Any, staff_client: Client) -> None:
    sft = make_checkpoint("sft")
    for choices in (("a", "a"), ("b", "b"), ("a", "b")):
        pair = make_pair(sft)
        for choice in choices:
            make_vote(pair, choice=choice)
    page = " ".join(staff_client.get(reverse("admin:arena_vote_changelist")).content.decode().split())
    assert "<strong>0.44</strong> over 3 pairs" in page
    assert "A was chosen in <strong>50 %</strong>" in page
    assert "of 6 decisions: too few to say whether that is a position bias" in page
    for choice, words in (("b", "no sign of a position bias."), ("a", ": a position bias.")):
        for _ in range(12):
            make_vote(make_pair(sft), choice=choice)
            make_vote(make_pair(sft), choice="a")
        assert words in " ".join(staff_client.get(reverse("admin:arena_vote_changelist")).content.decode().split())


def test_the_votes_list_says_when_one_side_is_favoured(make_checkpoint: Any, staff_client: Client) -> None:
    sft = make_checkpoint("sft")
    for _ in range(20):
        make_vote(make_pair(sft), choice="a")
    assert "a position bias." in staff_client.get(reverse("admin:arena_vote_changelist")).content.decode()


def test_model_output_in_the_admin_stays_text(make_checkpoint: Any, staff_client: Client) -> None:
    pair = make_pair(make_checkpoint("sft"), texts=("<script>alert(1)</script>", "b"))
    page = staff_client.get(reverse("admin:arena_pair_change", args=[pair.pk])).content.decode()
    assert "<script>alert" not in page
    assert "&lt;script&gt;alert" in page

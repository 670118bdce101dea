"""The first owner's one-time link."""

from __future__ import annotations

import threading
from datetime import timedelta

import pytest
from django.contrib.auth import SESSION_KEY
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from tests.conftest import PASSWORD
from tests.threads import database_thread
from webapp.accounts import services
from webapp.accounts.forms import AccountForm
from webapp.accounts.models import OwnerLink, User

pytestmark = pytest.mark.django_db

FORM = {"username": "olga", "password1": PASSWORD, "password2": PASSWORD}


def link() -> str:
    token = services.create_owner_link()
    assert token is not None
    return reverse("accounts:setup", args=[token])


def test_it_makes_the_owner_and_logs_them_in(client: Client) -> None:
    url = link()
    assert client.get(url).status_code == 200
    assert client.post(url, FORM)["Location"] == "/"
    owner = User.objects.get()
    assert owner.is_staff
    assert owner.is_superuser
    assert client.session[SESSION_KEY] == str(owner.pk)


def test_it_works_once(client: Client) -> None:
    url = link()
    client.post(url, FORM)
    for response in (Client().get(url), Client().post(url, {**FORM, "username": "mallory"})):
        assert response.status_code == 404
        assert "This link is spent" in response.content.decode()
    assert User.objects.count() == 1


def test_it_does_not_spend_the_link_on_a_bad_form(client: Client) -> None:
    url = link()
    response = client.post(url, {**FORM, "password1": "12345", "password2": "12345"})
    assert response.status_code == 200
    assert "too short" in response.content.decode()
    assert client.post(url, FORM).status_code == 302


def test_it_refuses_an_unknown_token(client: Client) -> None:
    link()
    url = reverse("accounts:setup", args=["x" * 32])
    assert client.get(url).status_code == 404
    assert client.post(url, FORM).status_code == 404
    assert User.objects.count() == 0


def test_it_keeps_only_a_hash_of_the_newest_link(client: Client) -> None:
    old, new = link(), link()
    stored = OwnerLink.objects.get()
    assert stored.token_sha256 not in new
    assert client.get(old).status_code == 404
    assert client.get(new).status_code == 200


def test_it_gives_no_link_once_there_is_an_owner(owner: User) -> None:
    assert services.create_owner_link() is None


def test_it_gives_a_link_again_when_the_only_owner_is_deactivated(owner: User, client: Client) -> None:
    User.objects.filter(pk=owner.pk).update(is_active=False)
    assert client.post(link(), FORM | {"username": "otto"}).status_code == 302
    assert User.objects.get(username="otto").is_superuser


def test_an_old_link_opens_nothing_once_there_is_an_owner(client: Client) -> None:
    """Printed, then `createsuperuser` was used instead: the link in the terminal's history stays a link."""
    url = link()
    User.objects.create_superuser("otto", password=PASSWORD)
    assert client.get(url).status_code == 404
    assert client.post(url, FORM).status_code == 404
    token = url.split("/")[-2]
    with pytest.raises(services.LinkSpent):
        services.create_owner(token=token, username="mallory", password=PASSWORD)
    assert User.objects.count() == 1


def test_a_link_lives_for_a_day(client: Client) -> None:
    url = link()
    OwnerLink.objects.update(created_at=timezone.now() - timedelta(hours=23, minutes=59))
    assert client.get(url).status_code == 200
    OwnerLink.objects.update(created_at=timezone.now() - timedelta(hours=24, seconds=1))
    assert client.get(url).status_code == 404
    assert client.post(url, FORM).status_code == 404
    assert User.objects.count() == 0


def test_a_name_taken_meanwhile_leaves_the_link_open(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    url = link()
    is_valid = AccountForm.is_valid

    def looks_then_loses(form: AccountForm) -> bool:
        valid = is_valid(form)
        User.objects.create_user("olga", password=PASSWORD)
        return valid

    monkeypatch.setattr(AccountForm, "is_valid", looks_then_loses)
    response = client.post(url, FORM)
    assert "already exists" in response.content.decode()
    monkeypatch.undo()
    assert client.post(url, FORM | {"username": "otto"}).status_code == 302


@pytest.mark.django_db(transaction=True)
def test_it_makes_one_owner_when_the_link_is_used_many_times_at_once() -> None:
    token = services.create_owner_link()
    assert token is not None
    start = threading.Barrier(8)
    outcomes: list[str] = []

    def use(number: int) -> None:
        start.wait()
        try:
            services.create_owner(token=token, username=f"owner{number}", password=PASSWORD)
            outcomes.append("owner")
        except services.LinkSpent:
            outcomes.append("spent")

    threads = [database_thread(use, number) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == ["owner", *["spent"] * 7]
    assert User.objects.filter(is_superuser=True).count() == 1

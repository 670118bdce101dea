"""Signing up, logging in and out, and the theme."""

from __future__ import annotations

import time
from typing import Any

import pytest
from django.contrib.auth import SESSION_KEY
from django.template.loader import render_to_string
from django.test import Client
from django.urls import reverse

from tests.conftest import PASSWORD
from webapp.accounts.models import User, Visitor

pytestmark = pytest.mark.django_db

NEW = {"username": "bea", "password1": PASSWORD, "password2": PASSWORD}


def is_logged_in(client: Client) -> bool:
    return SESSION_KEY in client.session


def test_it_signs_up_logs_in_and_keeps_the_visitor(visitor: Visitor, visitor_client: Client) -> None:
    response = visitor_client.post(reverse("accounts:signup"), {**NEW, "next": "/chat/"})
    assert response.status_code == 302
    assert response["Location"] == "/chat/"
    assert is_logged_in(visitor_client)
    user = User.objects.get(username="bea")
    assert not user.is_staff
    assert not user.is_superuser
    assert Visitor.objects.get().user == user


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"password1": "short", "password2": "short"}, "too short"),
        ({"password1": "12345678", "password2": "12345678"}, "too common"),
        ({"password2": "something else"}, "didn’t match"),
        ({"username": ""}, "required"),
        ({"username": "alice"}, "already exists"),
        ({"username": "not a name"}, "valid username"),
    ],
)
def test_it_refuses_a_bad_sign_up(client: Client, alice: User, change: dict[str, str], message: str) -> None:
    response = client.post(reverse("accounts:signup"), {**NEW, **change})
    assert response.status_code == 200
    assert message in response.content.decode()
    assert User.objects.count() == 1
    assert not is_logged_in(client)


def test_it_gives_nobody_rights_they_asked_for_in_the_form(client: Client) -> None:
    client.post(reverse("accounts:signup"), {**NEW, "is_staff": "on", "is_superuser": "on"})
    user = User.objects.get(username="bea")
    assert (user.is_staff, user.is_superuser) == (False, False)


def test_it_logs_in_and_out(client: Client, alice: User) -> None:
    response = client.post(reverse("accounts:login"), {"username": "alice", "password": PASSWORD, "next": "/vote/"})
    assert response["Location"] == "/vote/"
    assert is_logged_in(client)
    assert client.get(reverse("accounts:logout")).status_code == 405  # a link must not log anyone out
    client.post(reverse("accounts:logout"))
    assert not is_logged_in(client)


def test_it_refuses_a_wrong_password(client: Client, alice: User) -> None:
    response = client.post(reverse("accounts:login"), {"username": "alice", "password": "wrong"})
    assert "correct username and password" in response.content.decode()
    assert not is_logged_in(client)


def test_it_locks_out_somebody_guessing_but_not_their_neighbours(
    client: Client, alice: User, owner: User, settings: Any
) -> None:
    settings.AXES_ENABLED = True
    guesses = [client.post(reverse("accounts:login"), {"username": "alice", "password": "wrong"}) for _ in range(10)]
    assert guesses[-1].status_code == 429
    assert "Too many attempts" in guesses[-1].content.decode()
    assert client.post(reverse("accounts:login"), {"username": "alice", "password": PASSWORD}).status_code == 429
    other = client.post(reverse("accounts:login"), {"username": "olga", "password": PASSWORD})
    assert other.status_code == 302  # same address, another name


def test_only_failures_in_a_row_lock_somebody_out(client: Client, alice: User, settings: Any) -> None:
    settings.AXES_ENABLED = True

    def log_in(password: str) -> int:
        return client.post(reverse("accounts:login"), {"username": "alice", "password": password}).status_code

    for _ in range(2):  # in all more failures than the limit
        assert {log_in("wrong") for _ in range(9)} == {200}
        assert log_in(PASSWORD) == 302
        client.logout()


@pytest.mark.parametrize("path", ["/login/", "/admin/login/"])
def test_an_address_that_guesses_names_and_passwords_is_turned_away(client: Client, owner: User, path: str) -> None:
    """Never twice the same name, always another browser: only the address says that it is one and the same."""
    for number in range(60):
        assert Client().post(path, {"username": f"user{number}", "password": "12345678"}).status_code == 200
    right = {"username": "olga", "password": PASSWORD}
    refused = client.post(path, right)
    assert refused.status_code == 429
    assert "failed from your network" in refused.content.decode()
    assert client.post(path, right, REMOTE_ADDR="192.0.2.8").status_code == 302


def test_right_passwords_of_a_class_are_not_counted(alice: User) -> None:
    for _ in range(70):
        assert Client().post("/login/", {"username": "alice", "password": PASSWORD}).status_code == 302


def test_staff_type_their_password_again_after_half_a_day(
    owner_client: Client, alice_client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    later = time.time() + 12 * 3600 + 60
    assert owner_client.get("/admin/").status_code == 200
    monkeypatch.setattr("webapp.accounts.services.time.time", lambda: later)
    assert owner_client.get("/admin/").status_code == 302
    assert "Log in" in owner_client.get("/chat/").content.decode()
    assert "Log out" in alice_client.get("/chat/").content.decode()
    owner_client.post("/login/", {"username": "olga", "password": PASSWORD})
    assert owner_client.get("/admin/").status_code == 200


def test_an_account_made_staff_logs_in_again_for_it(alice: User, alice_client: Client) -> None:
    """Sessions from before there was a time in them have none."""
    session = alice_client.session
    del session["logged_in_at"]
    session.save()
    assert "Log out" in alice_client.get("/chat/").content.decode()
    User.objects.filter(pk=alice.pk).update(is_staff=True)
    assert "Log in" in alice_client.get("/chat/").content.decode()


@pytest.mark.parametrize("name", ["login", "signup"])
def test_it_does_not_send_people_to_other_sites(client: Client, alice: User, name: str) -> None:
    form = NEW if name == "signup" else {"username": "alice", "password": PASSWORD}
    response = client.post(reverse(f"accounts:{name}"), {**form, "next": "https://example.com/"})
    assert response["Location"] == "/"


@pytest.mark.parametrize("name", ["login", "logout", "signup", "theme"])
def test_it_refuses_forms_without_a_csrf_token(name: str) -> None:
    client = Client(enforce_csrf_checks=True)
    response = client.post(reverse(f"accounts:{name}"), NEW)
    assert response.status_code == 403
    assert "That page is out of date" in response.content.decode()
    assert User.objects.count() == 0


def test_who_may_not_is_told_so_and_not_that_a_page_is_old(alice_client: Client) -> None:
    page = alice_client.get("/no-such-page/")
    assert page.status_code == 404
    text = render_to_string("403.html", request=page.wsgi_request)
    assert "This is not open to you" in text
    assert "out of date" not in text


def test_it_limits_new_accounts_from_one_address(client: Client) -> None:
    for number in range(60):
        Client().post(reverse("accounts:signup"), {**NEW, "username": f"user{number}"})
    response = client.post(reverse("accounts:signup"), NEW)
    assert "Too many new accounts" in response.content.decode()
    assert User.objects.count() == 60


def test_a_second_click_on_sign_up_is_told_the_name_is_taken(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    def first_click(kind: str, identity: str) -> bool:
        """It comes between this one's look at the names and its account."""
        User.objects.create_user(username="bea", password=PASSWORD)
        return True

    monkeypatch.setattr("webapp.accounts.views.limits.allow", first_click)
    response = client.post(reverse("accounts:signup"), NEW)
    assert response.status_code == 200
    assert "A user with that username already exists." in response.content.decode()
    assert User.objects.count() == 1
    assert not is_logged_in(client)


@pytest.mark.parametrize("key", ["", "short", '"12345678\\000"', "12345678\0", "x" * 5000])
def test_a_cookie_that_is_no_session_is_no_visitor(client: Client, key: str) -> None:
    for address in ("/login/", "/chat/"):
        assert client.get(address, headers={"cookie": f"sessionid={key}"}).status_code == 200


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_it_remembers_the_theme_and_returns_to_the_page(client: Client, theme: str) -> None:
    response = client.post(reverse("accounts:theme"), {"theme": theme, "next": "/login/"})
    assert response["Location"] == "/login/"
    assert f'data-theme="{theme}"' in client.get("/login/").content.decode()


def test_it_follows_the_system_again(client: Client) -> None:
    client.cookies["theme"] = "dark"
    client.post(reverse("accounts:theme"), {"theme": "system"})
    assert 'data-theme=""' in client.get("/login/").content.decode()


def test_it_ignores_a_theme_it_does_not_know(client: Client) -> None:
    client.cookies["theme"] = '"><script>'
    assert 'data-theme=""' in client.get("/login/").content.decode()
    response = client.post(reverse("accounts:theme"), {"theme": "neon", "next": "//example.com/"})
    assert response["Location"] == "/"

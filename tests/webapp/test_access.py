"""Who may do what: every address and socket of the site × everyone who may come, asked by GET and by POST.

The addresses are read from the URL conf and the socket routes. One that has no rule here fails the suite, and so does a
rule whose address is gone: a new page has to say who may see it.
"""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
from asgiref.sync import sync_to_async
from asgiref.testing import ApplicationCommunicator
from django.apps import apps
from django.conf import settings
from django.contrib.auth.models import Permission
from django.db import transaction
from django.http import HttpResponse
from django.test import Client
from django.urls import URLPattern, URLResolver, get_resolver, reverse

from tests.conftest import PASSWORD
from tests.webapp.arena_factory import make_pair, make_vote
from webapp.accounts.models import User, Visitor
from webapp.accounts.services import create_owner_link
from webapp.answers.models import Generation
from webapp.answers.services import clean_sampling
from webapp.arena.models import Pair
from webapp.asgi import application
from webapp.chat import routing as chat_routing
from webapp.chat.models import Conversation, Message
from webapp.training import routing as run_routing
from webapp.training.models import TrainingRun

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("enqueued")]

ROLES = ("nobody", "her", "stranger", "deactivated", "clerk", "staff", "owner")
"""`her` owns the chat and the vote; a clerk is staff without a permission; the deactivated one was staff with all."""

EVERYONE = "everyone"
OWN = "own"
"""Hers: for everyone else it is not there, and looks just like what never was."""
NEVER = "never"
"""No such method."""
OWNER = "owner"
"""For a superuser's browser; 401 for others."""


@dataclass(frozen=True)
class May:
    """Staff with this permission."""

    permission: str


START, STOP = May("training.add_trainingrun"), May("training.change_trainingrun")

RULES: dict[str, tuple[Any, Any]] = {
    # name: (GET, POST)
    "stages:home": (EVERYONE, NEVER),
    "stages:ask_home": (NEVER, EVERYONE),
    "stages:suggest": (EVERYONE, NEVER),
    "stages:ask_next": (NEVER, EVERYONE),
    "stages:compare": (EVERYONE, EVERYONE),
    "stages:comparison": (OWN, NEVER),
    "stages:stage": (EVERYONE, NEVER),
    "accounts:login": (EVERYONE, EVERYONE),
    "accounts:logout": (NEVER, EVERYONE),
    "accounts:signup": (EVERYONE, EVERYONE),
    "accounts:setup": (EVERYONE, EVERYONE),  # whoever has the link, while the site has no owner
    "accounts:theme": (NEVER, EVERYONE),
    "ops:healthz": (EVERYONE, NEVER),
    "ops:metrics": (OWNER, NEVER),
    "chat:index": (EVERYONE, NEVER),
    "chat:new": (EVERYONE, EVERYONE),
    "chat:conversation": (OWN, NEVER),
    "chat:tokens": (OWN, NEVER),
    **{f"chat:{name}": (NEVER, OWN) for name in ("send", "settings", "rename", "delete", "restore")},
    **{f"chat:{name}": (NEVER, OWN) for name in ("regenerate", "continue", "edit", "switch", "stop")},
    "arena:vote": (EVERYONE, NEVER),
    "arena:cast": (EVERYONE, EVERYONE),
    "arena:undo": (NEVER, OWN),
    "arena:reveal": (NEVER, OWN),
    "arena:vote_in_chat": (NEVER, OWN),
    "arena:share": (NEVER, OWN),
    "arena:leaderboard": (EVERYONE, NEVER),
    "training:runs": (EVERYONE, NEVER),
    "training:run": (EVERYONE, NEVER),
    "training:next_step": (NEVER, START),
    "training:stop": (NEVER, STOP),
    "training:resume": (NEVER, START),
}
ADMIN_PUBLIC = {"admin:login", "admin:logout", "admin:jsi18n"}
SOCKETS = {"ws/chat/<uuid:conversation_id>/": OWN, "ws/runs/<int:run_id>/": EVERYONE}


def addresses() -> dict[str, re.Pattern[str] | Any]:
    """Name -> pattern of every address in the URL conf."""
    found: dict[str, Any] = {}

    def walk(resolver: URLResolver, prefix: str) -> None:
        for entry in resolver.url_patterns:
            if isinstance(entry, URLResolver):
                walk(entry, f"{prefix}{entry.namespace}:" if entry.namespace else prefix)
            else:
                assert isinstance(entry, URLPattern)
                if entry.name is None:  # the admin's own 404, which asks for a log-in first, and its old addresses
                    assert prefix == "admin:"
                    continue
                found[f"{prefix}{entry.name}"] = entry

    walk(get_resolver(), "")
    return found


SITE = sorted(name for name in addresses() if not name.startswith("admin:"))
ADMIN = sorted(name for name in addresses() if name.startswith("admin:"))


def test_every_address_has_a_rule() -> None:
    assert sorted(RULES) == SITE
    assert len(ADMIN) > 20


def test_every_socket_has_a_rule() -> None:
    routes = [*chat_routing.websocket_urlpatterns, *run_routing.websocket_urlpatterns]
    assert sorted(str(route.pattern) for route in routes) == sorted(SOCKETS)


# -- the cast and what is there --------------------------------------------------------------------


@dataclass
class World:
    cookies: dict[str, str]
    """Session cookie of every role; empty for nobody."""
    ids: dict[str, Any]
    """What stands in an address, by the name of the converter."""
    twins: Any
    """Her chat in which two answers were to be offered and came out the same."""

    def browser(self, role: str) -> Client:
        browser = Client()
        if self.cookies[role]:
            browser.cookies[settings.SESSION_COOKIE_NAME] = self.cookies[role]
        return browser


@pytest.fixture
def world(make_checkpoint: Callable[..., Any]) -> World:
    people = {role: User.objects.create_user(role, password=PASSWORD) for role in ROLES if role != "nobody"}
    User.objects.filter(username__in=["clerk", "staff", "owner", "deactivated"]).update(is_staff=True)
    people["staff"].user_permissions.set(Permission.objects.all())
    people["deactivated"].user_permissions.set(Permission.objects.all())
    cookies = {"nobody": ""}
    for role, user in people.items():
        browser = Client()
        browser.force_login(User.objects.get(pk=user.pk), backend="django.contrib.auth.backends.ModelBackend")
        cookies[role] = browser.cookies[settings.SESSION_COOKIE_NAME].value
    token = create_owner_link()
    User.objects.filter(username="owner").update(is_superuser=True)
    User.objects.filter(username="deactivated").update(is_active=False)
    her = Visitor.objects.create(user=people["her"])
    sft = make_checkpoint("sft")
    chat = Conversation.objects.create(visitor=her, checkpoint=sft, sampling={})
    question = Message.objects.create(conversation=chat, role="user", text="Who am I?")
    answers = [
        Generation.objects.create(checkpoint=sft, messages=[], text=f"Answer {number}", state="done", visitor=her)
        for number in (1, 2)
    ]
    for side, answer in zip("AB", answers, strict=True):
        turn = Message.objects.create(
            conversation=chat, parent=question, role="assistant", generation=answer, side=side, chosen=side == "A"
        )
        Conversation.objects.filter(pk=chat.pk).update(leaf=turn if side == "A" else turn.parent)
    twins = Conversation.objects.create(visitor=her, checkpoint=sft, sampling={})
    asked = Message.objects.create(conversation=twins, role="user", text="Who are you?")
    for side in "AB":
        same = Generation.objects.create(
            checkpoint=sft, messages=[], text="A model.", state="done", visitor=her, sampling=dict(clean_sampling({}))
        )
        Message.objects.create(conversation=twins, parent=asked, role="assistant", generation=same, side=side)
    Conversation.objects.filter(pk=twins.pk).update(leaf=asked)
    compare = Conversation.objects.create(visitor=her, checkpoint=sft, kind="compare", sampling={})
    Message.objects.create(conversation=compare, role="user", text="What is a fox?")
    voted, open_pair = make_pair(sft), make_pair(sft, wanted_votes=9)
    make_vote(voted, her)
    run = TrainingRun.objects.create(stage="sft", preset="smoke", parent=sft, state="running", total_steps=9)
    ids = {
        "conversation_id": chat.pk, "message_id": answers[0].message.pk, "question_id": question.pk, "id": compare.pk,
        "pair_id": open_pair.pk, "voted_pair_id": voted.pk, "pk": run.pk, "slug": "sft", "token": token,
    }  # fmt: skip
    return World(cookies, ids, twins.pk)


def kwargs_of(name: str, ids: dict[str, Any]) -> dict[str, Any]:
    wanted = addresses()[name].pattern.converters
    special = {"arena:undo": "voted_pair_id", "arena:reveal": "voted_pair_id", "arena:vote_in_chat": "question_id"}
    special |= {"chat:edit": "question_id"}
    return {
        key: ids[special.get(name, key) if key.endswith("_id") and key != "conversation_id" else key] for key in wanted
    }


@pytest.fixture
def ask(world: World) -> Callable[..., HttpResponse]:
    """One request as one role; whatever it changed is taken back."""

    def one(role: str, method: str, name: str, ids: dict[str, Any] | None = None) -> HttpResponse:
        path = reverse(name, kwargs=kwargs_of(name, ids or world.ids))
        with transaction.atomic():
            response: Any = getattr(world.browser(role), method)(path)
            transaction.set_rollback(True)
        return response

    return one


# -- the rules -------------------------------------------------------------------------------------


def expected(rule: Any, role: str) -> str:
    if rule == EVERYONE:
        return "served"
    if rule == OWN:
        return "served" if role == "her" else "missing"
    if rule == OWNER:
        return "served" if role == "owner" else "unauthorised"
    if rule == NEVER:
        return "no such method"
    return "served" if role in ("staff", "owner") else "forbidden"


KINDS = {401: "unauthorised", 403: "forbidden", 404: "missing", 405: "no such method"}


@pytest.mark.parametrize("role", ROLES)
def test_the_pages_of_the_site(role: str, ask: Callable[..., HttpResponse], world: World) -> None:
    wrong = []
    for name, rules in RULES.items():
        for method, rule in zip(("get", "post"), rules, strict=True):
            response = ask(role, method, name)
            is_login = response.status_code == 302 and "/login/" in response["Location"]
            kind = "sent to log in" if is_login else KINDS.get(response.status_code, "served")
            if name == "accounts:setup":  # the site has an owner by now
                assert response.status_code == 404
            elif kind != expected(rule, role) or response.status_code >= 500:
                wrong.append(f"{method} {name}: {response.status_code}, not {expected(rule, role)}")
    assert wrong == []


@pytest.mark.parametrize("role", ["nobody", "deactivated", "clerk", "staff"])
def test_the_admins_pages(role: str, ask: Callable[..., HttpResponse], world: World) -> None:
    """Only staff get past its door; one without permissions sees an empty index."""
    wrong = []
    for name in set(ADMIN) - ADMIN_PUBLIC:
        pattern = addresses()[name].pattern
        if not name.endswith(("_changelist", "_add", ":index", ":password_change")) or pattern.converters:
            continue
        # Staff with every permission only by GET: what its forms do with an empty POST is Django's to test.
        for method in ("get",) if role == "staff" else ("get", "post"):
            response = ask(role, method, name)
            past_the_door = not (response.status_code == 302 and "/admin/login/" in response["Location"])
            if past_the_door != (role in ("clerk", "staff", "owner")):
                wrong.append(f"{method} {name}: {response.status_code}")
            if role == "clerk" and name.endswith(("_changelist", "_add")) and response.status_code != 403:
                wrong.append(f"{method} {name} as a clerk: {response.status_code}")
    assert wrong == []


def test_every_admin_page_asks_who_is_there(world: World) -> None:
    """Those with an id in them too: nobody sees more than the way to the log-in page."""
    for name in set(ADMIN) - ADMIN_PUBLIC:
        pattern = addresses()[name].pattern
        named = {*pattern.converters, *pattern.regex.groupindex}
        path = reverse(name, kwargs={key: "auth" if key == "app_label" else "1" for key in named})
        for role in ("nobody", "deactivated"):
            response = world.browser(role).get(path)
            assert response.status_code == 302, (name, role)
            assert "/admin/" in response["Location"]


@pytest.mark.parametrize("role", ["stranger", "owner"])
def test_what_is_hers_and_what_never_was_look_the_same(
    role: str, ask: Callable[..., HttpResponse], world: World
) -> None:
    """Byte for byte, but for what differs in every answer: the CSRF token and the id that was asked for."""
    nowhere = {key: uuid.uuid4() if isinstance(value, uuid.UUID) else value for key, value in world.ids.items()}

    def content(response: HttpResponse) -> str:
        text = response.content.decode()
        text = re.sub(r'value="[A-Za-z0-9]{64}"|"X-CSRFToken": *"[A-Za-z0-9]{64}"', "", text)
        return re.sub(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", "", text)

    for name, rules in RULES.items():
        for method, rule in zip(("get", "post"), rules, strict=True):
            if rule == OWN:
                foreign, missing = ask(role, method, name), ask(role, method, name, nowhere)
                assert foreign.status_code == missing.status_code == 404
                assert content(foreign) == content(missing), name
                assert {k: v for k, v in foreign.items() if k != "Content-Length"} == {
                    k: v for k, v in missing.items() if k != "Content-Length"
                }


def everything() -> dict[str, str]:
    """Every row of the site, by model; what a visit itself leaves (a session) aside, and what is worked out again from
    the rows whenever somebody reads it (looks into answers: a cache)."""
    return {
        model._meta.label: json.dumps(list(model._base_manager.order_by("pk").values()), default=str)  # type: ignore[misc]
        for model in apps.get_models()
        if model._meta.label not in ("sessions.Session", "answers.Look")
    }


@pytest.mark.parametrize("role", ["her", "owner"])
def test_reading_changes_nothing(role: str, world: World) -> None:
    before = everything()
    browser = world.browser(role)
    for name in [*SITE, *ADMIN]:
        pattern = addresses()[name].pattern
        if name in RULES:
            if RULES[name][0] == NEVER:
                continue
            path = reverse(name, kwargs=kwargs_of(name, world.ids))
        elif pattern.regex.groups:
            continue
        else:
            path = reverse(name)
        browser.get(path)
    if role == "her":
        assert "A model." in browser.get(reverse("chat:conversation", args=[world.twins])).content.decode()
    for model in ("checkpoints_checkpoint", "answers_generation", "arena_pair", "arena_vote", "training_trainingrun"):
        app, _, name = model.partition("_")
        row = apps.get_model(app, name)._base_manager.first()
        browser.get(reverse(f"admin:{model}_change", args=[row.pk]))  # type: ignore[union-attr]
    assert everything() == before


def test_what_is_shown_to_one_person_is_not_kept_by_caches(ask: Callable[..., HttpResponse]) -> None:
    own = [name for name, (get, _) in RULES.items() if get in (OWN, OWNER)]
    for name in [*own, "chat:index", "arena:vote", "arena:cast", "training:run", "accounts:signup", "admin:index"]:
        response = ask("owner" if name in ("ops:metrics", "admin:index") else "her", "get", name)
        assert response.status_code in (200, 302), name
        assert "no-store" in response.get("Cache-Control", ""), name


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("role", ROLES)
async def test_the_sockets(role: str, world: World) -> None:
    for route, rule in SOCKETS.items():
        path = "/" + route.replace("<uuid:conversation_id>", str(world.ids["conversation_id"]))
        path = path.replace("<int:run_id>", str(world.ids["pk"]))
        cookie = f"{settings.SESSION_COOKIE_NAME}={world.cookies[role]}"
        scope = {
            "type": "websocket", "path": path, "query_string": b"", "subprotocols": [], "scheme": "ws",
            "headers": [(b"host", b"localhost"), (b"origin", b"http://localhost"), (b"cookie", cookie.encode())],
        }  # fmt: skip
        socket = ApplicationCommunicator(application, scope)
        await socket.send_input({"type": "websocket.connect"})
        assert (await socket.receive_output(timeout=20))["type"] == "websocket.accept"
        said = []
        while not await socket.receive_nothing(timeout=0.3):
            said.append((await socket.receive_output(timeout=20))["type"])
        assert ("websocket.close" in said) is (expected(rule, role) != "served"), path
        await socket.send_input({"type": "websocket.disconnect", "code": 1001})
        await socket.wait(timeout=20)
    await sync_to_async(Pair.objects.count)()

"""Sign-up and first-owner forms: a user name and a password that passes the validators."""

from __future__ import annotations

from django.contrib.auth.forms import UserCreationForm

from .models import User


class AccountForm(UserCreationForm[User]):
    class Meta:
        model = User
        fields = ["username"]

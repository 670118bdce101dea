from django.urls import path

from . import views

app_name = "accounts"
urlpatterns = [
    path("login/", views.log_in, name="login"),
    path("logout/", views.log_out, name="logout"),
    path("signup/", views.sign_up, name="signup"),
    path("setup/<str:token>/", views.set_up, name="setup"),
    path("theme/", views.set_theme, name="theme"),
]

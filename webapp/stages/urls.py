from django.urls import path

from webapp.stages import views

app_name = "stages"
urlpatterns = [
    path("", views.home, name="home"),
    path("ask/", views.ask_home, name="ask_home"),
    path("ask/something/", views.suggest, name="suggest"),
    path("compare/", views.compare, name="compare"),
    path("compare/<uuid:id>/", views.comparison, name="comparison"),
    path("stages/pretrain/next/", views.ask_next, name="ask_next"),
    path("stages/<slug:slug>/", views.stage, name="stage"),
]

"""The socket a run's page listens on."""

from django.urls import path

from webapp.training.consumers import RunConsumer

websocket_urlpatterns = [path("ws/runs/<int:run_id>/", RunConsumer.as_asgi())]

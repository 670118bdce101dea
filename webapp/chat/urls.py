"""/chat/ and everything a conversation's page posts to."""

from django.urls import path

from webapp.chat import views

app_name = "chat"
urlpatterns = [
    path("", views.index, name="index"),
    path("new/", views.new, name="new"),
    path("<uuid:conversation_id>/", views.conversation, name="conversation"),
    path("<uuid:conversation_id>/send/", views.send, name="send"),
    path("<uuid:conversation_id>/settings/", views.change_settings, name="settings"),
    path("<uuid:conversation_id>/rename/", views.rename, name="rename"),
    path("<uuid:conversation_id>/delete/", views.delete, name="delete"),
    path("<uuid:conversation_id>/restore/", views.restore, name="restore"),
    path("message/<uuid:message_id>/regenerate/", views.regenerate, name="regenerate"),
    path("message/<uuid:message_id>/continue/", views.continue_, name="continue"),
    path("message/<uuid:message_id>/edit/", views.edit, name="edit"),
    path("message/<uuid:message_id>/switch/", views.switch, name="switch"),
    path("message/<uuid:message_id>/stop/", views.stop, name="stop"),
    path("message/<uuid:message_id>/tokens/", views.tokens, name="tokens"),
]
